"""A product that workers run, as the rest of the process sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import define
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from clinfra.errors import NotFound
from clinfra.interfaces import IMaintenance, IPurge
from clinfra.workers.control import CallFailed
from clinfra.workers.crew import Crew
from clinfra.workers.service import CrewService


@define(eq=False)
class Worker:
    """A worker that answers as it is told to."""

    answer: Callable[..., Deferred[Any]]
    report: Mapping[str, Any]

    def retire(self, grace_seconds: float) -> None:
        pass

    def kill(self) -> None:
        pass

    def hand(self, descriptor: int, name: str, *arguments: Any) -> None:
        pass

    def ask(self, name: str, *arguments: Any) -> Deferred[Any]:
        return self.answer(name, *arguments)


class CrewServiceTests(SynchronousTestCase):
    """What is asked of the product is asked of every worker."""

    def setUp(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.answers: list[Deferred[Any]] = []
        self.readies: list[Callable[[], None]] = []
        self.service = CrewService("proxy", self.make_crew)
        self.service.start_workers()

    def make_crew(self) -> Crew:
        return Crew.of("proxy", 2, self.hire, Clock())

    def hire(
        self, place: int, ready: Callable[[], None], gone: Callable[[str], None]
    ) -> Worker:
        self.readies.append(ready)
        return Worker(self.answer, {"place": place})

    def answer(self, *asked: Any) -> Deferred[Any]:
        self.asked.append(asked)
        return self.answers.pop(0)

    def get_ready(self, *answers: Deferred[Any]) -> None:
        """Have both ready, to answer with these."""
        for ready in self.readies:
            ready()
        self.answers = list(answers)

    def test_provides(self) -> None:
        """It stands for the proxy wherever the proxy is asked."""
        self.assertTrue(IPurge.providedBy(self.service))
        self.assertTrue(IMaintenance.providedBy(self.service))

    def test_purge(self) -> None:
        """Everybody forgets; as many were known as the best of them knew."""
        self.get_ready(succeed(1), succeed(2))
        purged = Deferred.fromCoroutine(self.service.purge(["a", "b"]))
        self.assertEqual(2, self.successResultOf(purged))
        expected: tuple[object, ...] = ("purge", ["a", "b"], [], [], False)
        self.assertEqual([expected] * 2, self.asked)

    def test_look_up(self) -> None:
        """What each has in memory is told of each, what they share once."""
        hot, far = {"page": "a", "tier": "memory"}, {"page": "a", "tier": "memcached"}
        self.get_ready(succeed([hot, far]), succeed([hot, far]))
        looking: Deferred[Any] = Deferred.fromCoroutine(self.service.look_up(["a"]))
        found = self.successResultOf(looking)
        self.assertEqual([{**hot, "worker": 1}, far, {**hot, "worker": 2}], found)

    def test_maintenance_lasts(self) -> None:
        """Workers that come later hear of what is out."""
        self.get_ready(succeed(None), succeed(None))
        out = Deferred.fromCoroutine(self.service.maintain("pool", "a:1", True))
        self.successResultOf(out)
        expected = [("maintain", ("pool", "a:1", True))]
        self.assertEqual(expected, list(self.service.lasting()))

    def test_unknown_pool(self) -> None:
        """What the workers do not find is not found, and does not last."""
        unknown = CallFailed("There is no such pool.", "NotFound")
        self.get_ready(succeed(None), fail(unknown))
        out = Deferred.fromCoroutine(self.service.maintain("pool", "", True))
        self.failureResultOf(out, NotFound)
        self.assertEqual([], list(self.service.lasting()))

    def test_before_and_after(self) -> None:
        """Without workers there is nothing to purge, and a reason not to be ready."""
        service = CrewService("proxy", self.make_crew)
        purged = Deferred.fromCoroutine(service.purge(["a"]))
        self.assertEqual(0, self.successResultOf(purged))
        looking = Deferred.fromCoroutine(service.look_up(["a"]))
        self.assertEqual([], self.successResultOf(looking))
        self.assertIn("not_ready", service.report())
