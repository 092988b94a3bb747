"""Workers are started, watched, replaced and let go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from clinfra.workers.crew import READY_SECONDS, Crew, ReplacingFailed


@define(eq=False)
class Worker:
    """A worker that does what the test says."""

    place: int
    ready: Callable[[], None]
    gone: Callable[[str], None]
    report: Mapping[str, Any] = field(factory=dict)
    happened: list[str] = field(factory=list)

    def retire(self, grace_seconds: float) -> None:
        self.happened.append(f"retire {grace_seconds:g}")

    def hand(self, descriptor: int, name: str, *arguments: Any) -> None:
        self.happened.append(f"hand {descriptor} {name}")

    def kill(self) -> None:
        self.happened.append("kill")

    def ask(self, name: str, *arguments: Any) -> Deferred[Any]:
        return succeed((name, *arguments, self.place))


class CrewTests(SynchronousTestCase):
    """A crew of two."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.hired: list[Worker] = []
        self.crew = Crew.of("proxy", 2, self.hire, self.clock)
        self.started = self.crew.start()

    def hire(
        self, place: int, ready: Callable[[], None], gone: Callable[[str], None]
    ) -> Worker:
        worker = Worker(place, ready, gone)
        self.hired.append(worker)
        return worker

    def get_ready(self) -> tuple[Worker, Worker]:
        """Have the two ready."""
        one, two = self.hired[:2]
        one.ready()
        two.ready()
        return one, two

    def states(self) -> tuple[int, int]:
        """Return how many are ready, and how many are finishing."""
        told = self.crew.report()["crew"]
        return told["ready"], told["finishing"]

    def test_start(self) -> None:
        """It has started when all are ready; until one is, it cannot serve."""
        one, two = self.hired
        self.assertEqual([1, 2], [one.place, two.place])
        self.assertIn("none of 2", self.crew.report()["not_ready"][0])
        one.ready()
        self.assertNotIn("not_ready", self.crew.report())
        self.assertNoResult(self.started)
        two.ready()
        self.successResultOf(self.started)

    def test_fall(self) -> None:
        """A worker that dies has a successor in its place at once."""
        one, _ = self.get_ready()
        one.gone("was killed by SIGKILL")
        self.clock.advance(0)
        self.assertEqual([1, 2, 1], [each.place for each in self.hired])
        self.hired[2].ready()
        self.assertEqual((2, 0), self.states())
        self.assertEqual(1, self.crew.report()["crew"]["falls"])

    def test_dies_at_once_for_ever(self) -> None:
        """It is tried again ever later, and the report says how it ended."""
        self.hired[0].gone("ended with status 1")
        for _ in range(200):
            self.hired[-1].gone("ended with status 1")
            before = len(self.hired)
            while len(self.hired) == before:
                self.clock.advance(1)
        self.assertGreater(self.clock.seconds(), 190 * 60)
        self.assertIn("status 1", self.crew.report()["not_ready"][0])

    def test_replace(self) -> None:
        """The old ones go when all the new ones are ready, not before."""
        one, two = self.get_ready()
        replaced = self.crew.again(7)
        three, four = self.hired[2:]
        three.ready()
        self.assertEqual([], one.happened + two.happened)
        four.ready()
        self.successResultOf(replaced)
        self.assertEqual([["retire 7"]] * 2, [one.happened, two.happened])
        self.assertEqual((2, 2), self.states())
        one.gone("ended")
        two.gone("ended")
        self.assertEqual((2, 0), self.states())
        self.clock.advance(100)
        self.assertEqual(4, len(self.hired))

    def test_replace_by_more(self) -> None:
        """There may be more of the new ones, with orders of their own."""
        self.get_ready()
        others: list[Worker] = []

        def hire(
            place: int, ready: Callable[[], None], gone: Callable[[str], None]
        ) -> Worker:
            others.append(Worker(place, ready, gone))
            return others[-1]

        self.crew.replace(hire, 3, 1)
        for each in others:
            each.ready()
        self.assertEqual((3, 2), self.states())
        others[0].gone("was killed")
        self.clock.advance(0)
        self.assertEqual(4, len(others))

    def test_new_one_dies(self) -> None:
        """When a new one falls before all are ready, the old ones stay."""
        one, two = self.get_ready()
        replaced = self.crew.again(7)
        three, four = self.hired[2:]
        three.ready()
        four.gone("ended with status 1")
        failure = self.failureResultOf(replaced, ReplacingFailed)
        self.assertIn("status 1", str(failure.value))
        self.assertEqual([], one.happened + two.happened)
        self.assertIn("kill", three.happened)
        self.assertEqual((2, 1), self.states())
        three.gone("was killed")
        self.assertEqual((2, 0), self.states())

    def test_new_ones_never_ready(self) -> None:
        """Patience with new ones is limited."""
        self.get_ready()
        replaced = self.crew.again(7)
        self.clock.advance(READY_SECONDS)
        self.failureResultOf(replaced, ReplacingFailed)
        self.assertEqual((2, 2), self.states())

    def test_old_one_dies_meanwhile(self) -> None:
        """An old one that falls while it is replaced is not missed afterwards."""
        one, _ = self.get_ready()
        self.crew.again(7)
        one.gone("was killed")
        for each in self.hired[2:4]:
            each.ready()
        self.clock.advance(100)
        self.assertEqual(4, len(self.hired))

    def test_slow_to_finish(self) -> None:
        """One that does not end within its grace time is killed."""
        one, two = self.get_ready()
        stopped = self.crew.stop(7)
        one.gone("ended")
        self.clock.advance(12)
        self.assertEqual(["retire 7", "kill"], two.happened)
        self.assertNoResult(stopped)
        two.gone("was killed by SIGKILL")
        self.successResultOf(stopped)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_stop_while_replacing(self) -> None:
        """Everybody is let go, the new ones too."""
        self.get_ready()
        replaced = self.crew.again(7)
        stopped = self.crew.stop(7)
        self.failureResultOf(replaced, ReplacingFailed)
        for each in self.hired:
            each.gone("ended")
        self.successResultOf(stopped)

    def test_stop_while_pausing(self) -> None:
        """Nobody is started again when it stops."""
        one, two = self.get_ready()
        one.gone("ended")
        two.gone("ended")
        self.successResultOf(self.crew.stop(7))
        self.clock.advance(100)
        self.assertEqual(2, len(self.hired))

    def test_ask_all(self) -> None:
        """Everybody who is ready is asked."""
        self.get_ready()
        answers = Deferred.fromCoroutine(self.crew.ask_all("purge", "a"))
        expected = [("purge", "a", 1), ("purge", "a", 2)]
        self.assertEqual(expected, self.successResultOf(answers))

    def test_report(self) -> None:
        """What they report is added up."""
        one, two = self.get_ready()
        one.report, two.report = {"requests": 1}, {"requests": 2}
        self.assertEqual(3, self.crew.report()["requests"])

    def test_what_the_fallen_counted(self) -> None:
        """What workers counted is not lost with them: not while they finish, nor after.

        Only numbers are kept, and only until the next report of each is there.
        """
        one, two = self.get_ready()
        one.report, two.report = {"n": 1, "s": "a"}, {"n": 2}

        def bygone() -> int:
            told = self.crew.report()
            return int(told["crew"]["bygone"].get("n", 0)) + int(told.get("n", 0))

        one.gone("fell")
        self.assertEqual(3, bygone())
        self.assertEqual({"n": 1}, self.crew.bygone)
        self.clock.advance(0)
        self.hired[-1].ready()
        self.hired[-1].report = {"n": 5}
        self.assertEqual(8, bygone())
        replaced = self.crew.again(1.0)
        for worker in self.hired[-2:]:
            worker.ready()
        self.successResultOf(replaced)
        self.assertEqual(8, bygone())
        two.report = {"n": 4}
        two.gone("ended")
        self.assertEqual(10, bygone())
