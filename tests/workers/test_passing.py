"""Who has which connection."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from clinfra.web.heads import RequestHead, parse_request_head
from clinfra.workers.crew import Crew
from clinfra.workers.passing import ToMain, ToWorkers
from tests.workers.test_crew import Worker


def is_read(head: RequestHead) -> bool:
    return head.method == b"GET"


GET = parse_request_head(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
PUT = parse_request_head(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n")


class PassingTests(SynchronousTestCase):
    """Everybody has a share, and each request goes to who can answer it."""

    def setUp(self) -> None:
        self.workers: list[Worker] = []

        def hire(place: int, on_ready: Any, on_gone: Any) -> Worker:
            self.workers.append(Worker(place, on_ready, on_gone))
            return self.workers[-1]

        self.crew = Crew.of("readers", 2, hire, Clock())
        self.crew.start()
        site: Any = None  # nothing is taken back here
        self.to_workers = ToWorkers(is_read, lambda: self.crew, site)

    def test_shares(self) -> None:
        """Of three connections two are for the two workers."""
        dealt = [self.to_workers.takes_next() for _ in range(9)]
        self.assertEqual([True, True, False] * 3, dealt)

    def test_what_stays(self) -> None:
        """Reads go to workers while one of them is ready; nothing else does."""
        self.assertTrue(self.to_workers.stays(GET))
        self.workers[0].ready()
        self.assertFalse(self.to_workers.stays(GET))
        self.assertTrue(self.to_workers.stays(PUT))

    def test_in_turn(self) -> None:
        """Connections go to the workers in turn."""
        for worker in self.workers:
            worker.ready()
        for descriptor in range(4):
            self.to_workers.move(descriptor, b"said")
        self.assertEqual(["hand 1 take", "hand 3 take"], self.workers[0].happened)
        self.assertEqual(["hand 0 take", "hand 2 take"], self.workers[1].happened)

    def test_in_a_worker(self) -> None:
        """What is not for workers is for the main process."""
        to_main = ToMain(is_read)
        self.assertTrue(to_main.stays(GET))
        self.assertFalse(to_main.stays(PUT))
