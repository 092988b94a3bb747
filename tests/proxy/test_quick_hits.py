"""Hits from memcached that are sent on unread: always the same as the long way."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from clinfra.config import Bytes, CacheConfig
from clinfra.proxy.entry import Entry
from clinfra.proxy.freshness import Verdict
from clinfra.proxy.record import decode_plain, encode
from tests.proxy.fleet import Fleet
from tests.proxy.memory_server import MemoryServer
from tests.proxy.stage import Stage, response
from tests.web.clients import Answer

FRESH = "Cache-Control: max-age=60"


class QuickHitTests(SynchronousTestCase):
    """A proxy with memcached and no memory of its own."""

    def make(self, *fields: str, body: bytes = b"page", status: str = "200 OK") -> None:
        """Make a proxy over an origin, and have it know the page and the head."""
        fleet = Fleet(self, count=0)
        self.server: dict[str, MemoryServer] = fleet.servers
        self.stage = Stage(
            self,
            lambda asked: response(body, *fields, status=status),
            clock=fleet.clock,
            servers=fleet.servers,
            cache=CacheConfig(memcached=tuple(fleet.servers), hot_bytes=Bytes(0)),
        )
        self.fleet = fleet
        fleet.stages = [self.stage]
        for _ in range(3):
            self.get()

    def get(self, *fields: str, method: str = "GET") -> Answer:
        """Ask for the page."""
        client = self.stage.ask("/a", *fields, method=method, turns=60)
        (answer,) = client.answers(method)
        return answer

    def quick(self) -> bool:
        """Ask once more; whether that took the short way."""
        before = self.stage.proxy.pipeline.requests
        self.get()
        return self.stage.proxy.pipeline.requests == before

    def test_same_answer(self) -> None:
        """Fields, body, age and Cache-Status are those of the long way."""
        self.make(FRESH, "X: y", "Content-Type: text/html")
        self.fleet.clock.advance(7)
        self.assertTrue(self.quick())
        short = self.get()
        long = self.get("Cache-Control: max-age=99")

        self.assertEqual(1, len(self.stage.asked))
        self.assertEqual(short.body, long.body)
        self.assertEqual("7", short.fields["Age"])
        self.assertEqual("clinfra; hit; ttl=53", short.fields["Cache-Status"])
        fields = [pair for pair in long.fields.items() if pair[0] != "Server"]
        self.assertEqual(sorted(short.fields.items()), sorted(fields))

    def test_counted(self) -> None:
        """Reports count it as a hit."""
        self.make(FRESH)
        before = self.stage.proxy.report()
        self.get()
        after = self.stage.proxy.report()

        self.assertEqual(before["requests"] + 1, after["requests"])
        hits = [each["modules"]["DirectCache"]["hits"] for each in (before, after)]
        self.assertEqual(hits[0] + 1, hits[1])

    def test_long_way(self) -> None:
        """What is not plain is left to the rules for it."""
        for fields in (
            (FRESH, "Vary: X"),
            (FRESH, "Surrogate-Key: x"),
            ("Cache-Control: no-cache", 'ETag: "x"'),
        ):
            self.make(*fields)
            self.assertFalse(self.quick(), fields)
        self.make(FRESH, body=bytes(100_000))
        self.assertFalse(self.quick())

    def test_end_of_freshness(self) -> None:
        """What is stale is validated."""
        self.make(FRESH)
        self.assertTrue(self.quick())
        self.fleet.turn(61)
        self.assertFalse(self.quick())
        self.assertEqual(2, len(self.stage.asked))

    def test_purge(self) -> None:
        """What is purged, by whatever means, is gone."""
        purges: tuple[dict[str, Any], ...] = (
            {"pages": ["example.com/a"]},
            {"prefixes": ["example.com/"]},
            {"pages": ["example.com/a"], "soft": True},
        )
        for purge in purges:
            self.make(FRESH)
            self.assertTrue(self.quick())
            self.fleet.turn(1)
            self.fleet.purge(**purge)
            self.assertFalse(self.quick(), purge)
            self.assertEqual(2, len(self.stage.asked), purge)

    def test_gone_from_memcached(self) -> None:
        """A miss there is a miss."""
        self.make(FRESH)
        for server in self.server.values():
            server.items.clear()
        self.assertFalse(self.quick())
        self.assertEqual(2, len(self.stage.asked))

    def test_client_leaves(self) -> None:
        """An answer that nobody waits for any more goes nowhere."""
        self.make(FRESH)
        client = self.stage.ask("/a", turns=0)
        client.hang_up()
        self.stage.turn()
        self.assertTrue(self.quick())

    def test_statuses(self) -> None:
        """404s are kept as well."""
        self.make(FRESH, status="404 Not Found", body=b"no")
        self.assertTrue(self.quick())
        self.assertEqual((404, b"no"), (self.get().status, self.get().body))

    def test_no_content(self) -> None:
        """A 204 has no length."""
        self.make(FRESH, status="204 No Content", body=b"")
        self.assertTrue(self.quick())
        answer = self.get()
        self.assertEqual((204, b""), (answer.status, answer.body))
        self.assertIsNone(answer.fields["Content-Length"])

    def test_nonsense(self) -> None:
        """Whatever memcached has under the key, nothing breaks."""
        entry = Entry.of(b"k", 200, (), b"body", Verdict("", 9), 0)
        item = b"\0" + encode(entry)

        self.assertIsNotNone(decode_plain(item))
        for length in range(len(item)):
            self.assertIsNone(decode_plain(item[:length]))
        self.assertIsNone(decode_plain(item + b"x"))
