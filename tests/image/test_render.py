"""The queue in front of the workers, and what happens when they fail."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from clinfra.errors import Overloaded
from clinfra.image.job import BadImage, NoSuchFrame, Rendered, ResultTooLarge
from clinfra.image.render import DEMAND, UPLOAD, Renderer
from tests.image.pictures import jpeg
from tests.image.support import Agency, job


class RendererTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.agency = Agency(patient=True)
        self.upload = os.memfd_create("upload")
        self.addCleanup(os.close, self.upload)
        os.write(self.upload, jpeg(64, 48))

    def renderer(self, **changes: Any) -> Renderer:
        values: dict[str, Any] = {
            "places": 1,
            "timeout_seconds": 10.0,
            "jobs_per_worker": 1000,
            "queue": 4,
            **changes,
        }
        renderer = Renderer(self.clock, self.agency.hire, **values)
        renderer.start()
        for worker in self.agency.workers:
            worker.get_ready()
        return renderer

    def render(self, renderer: Renderer, cost: float = 1) -> Deferred[Rendered]:
        return renderer.render(self.upload, job("sizes=20x20"), cost)

    def test_result(self) -> None:
        """A worker's results are given on, and nothing stays open."""
        renderer = self.renderer()
        before = len(os.listdir("/proc/self/fd"))
        done = self.render(renderer)
        self.agency.workers[0].work()
        rendered = self.successResultOf(done)
        self.assertEqual(["20x20"], list(rendered.renditions))
        self.assertEqual(64, rendered.info["width"])
        self.assertEqual(before, len(os.listdir("/proc/self/fd")))
        self.assertEqual([], self.clock.getDelayedCalls())
        self.assertEqual(1, renderer.report()["rendered"])

    def test_troubles(self) -> None:
        """What a worker says of a picture becomes the right error."""
        renderer = self.renderer()
        for message, kind in (
            ({"bad": "why"}, BadImage),
            ({"too_large": "9x9"}, ResultTooLarge),
            ({"no_frame": "9x9_frame-7"}, NoSuchFrame),
        ):
            done = self.render(renderer)
            self.agency.workers[0].sent.clear()
            self.agency.workers[0].answer(message)
            self.failureResultOf(done, kind)

    def test_fair(self) -> None:
        """Renditions on demand and uploads take turns, whoever came first."""
        renderer = self.renderer(queue=100)
        begun: list[str] = []
        for kind in [UPLOAD] * 4 + [DEMAND] * 8:
            cost = 1 if kind == UPLOAD else 0.5
            done = renderer.render(
                self.upload,
                job("sizes=20x20"),
                cost,
                kind=kind,
                on_begin=lambda kind=kind: begun.append(kind[0]),  # type: ignore[misc]  # bound now
            )
            done.addErrback(lambda failure: None)
        while self.agency.workers[0].sent:
            self.agency.workers[0].work()
        self.assertEqual("u" + "ddu" * 3 + "dd", "".join(begun))

    def test_bounds_apart(self) -> None:
        """A queue full of uploads does not refuse renditions, nor the other way."""
        for full, other in ((UPLOAD, DEMAND), (DEMAND, UPLOAD)):
            renderer = self.renderer(queue=2)
            work = job("sizes=20x20")
            waiting = [
                renderer.render(self.upload, work, 1, kind=full) for _ in range(2)
            ]
            self.assertRaises(
                Overloaded, renderer.render, self.upload, work, 1, kind=full
            )
            self.assertRaises(Overloaded, renderer.check_room, full, 1)
            waiting.append(renderer.render(self.upload, work, 1, kind=other))
            renderer.stop()
            for done in waiting[1:]:
                self.failureResultOf(done, Overloaded)

    def test_report(self) -> None:
        """Each kind tells what became of it, and how long it waited and took."""
        renderer = self.renderer()
        self.clock.advance(1)
        for kind, label in ((UPLOAD, "PNG"), (DEMAND, "webp"), (DEMAND, "webp")):
            done = renderer.render(
                self.upload, job("sizes=20x20"), 1, kind=kind, label=label
            )
            self.clock.advance(0.5)
            self.agency.workers[0].work()
            self.successResultOf(done)
        first = renderer.render(self.upload, job(), 1)
        second = renderer.render(self.upload, job(), 1)
        self.clock.advance(2)
        second.cancel()
        self.failureResultOf(second, CancelledError)
        kinds = renderer.report()["kinds"]
        self.assertEqual(
            (1, {"count": 2, "seconds": 0.0}, {"PNG": {"count": 1, "seconds": 0.5}}),
            tuple(kinds[UPLOAD][key] for key in ("cancelled", "waited", "worked")),
        )
        self.assertEqual(
            (2, {"webp": {"count": 2, "seconds": 1.0}}),
            tuple(kinds[DEMAND][key] for key in ("rendered", "worked")),
        )
        renderer.stop()
        self.agency.workers[0].end(-9)
        self.failureResultOf(first, Overloaded)

    def test_nonsense(self) -> None:
        """A worker that a picture has taken over can say what it likes."""
        renderer = self.renderer()
        for message in (
            {},
            {"bad": 5},
            {"spans": 5, "info": (0, 2)},
            {"spans": {"20x20": (-1, 5, "image/jpeg", 1, 1)}, "info": (0, 2)},
            {"spans": {"20x20": (0, 5)}, "info": (0, 2)},
            {"spans": {"20x20": (0, 5, "image/jpeg", 1, 1)}, "info": ("a", None)},
            {"spans": {}, "info": (0, 0)},
        ):
            done = self.render(renderer)
            self.agency.workers[0].sent.clear()
            self.agency.workers[0].answer(message)
            self.failureResultOf(done, BadImage)
        self.assertEqual(0, renderer.report()["backlog_photographs"])

    def test_one_at_a_time(self) -> None:
        """A worker gets the next picture when it is done with one, in order."""
        renderer = self.renderer(places=2)
        first, second, third = (self.render(renderer) for _ in range(3))
        one, two = self.agency.workers
        self.assertEqual((1, 1), (len(one.sent), len(two.sent)))
        two.work()
        self.successResultOf(second)
        self.assertEqual((1, 1), (len(one.sent), len(two.sent)))
        one.work()
        two.work()
        self.successResultOf(first)
        self.successResultOf(third)

    def test_not_ready(self) -> None:
        """Pictures wait for a worker that is still starting."""
        renderer = Renderer(
            self.clock,
            self.agency.hire,
            places=1,
            timeout_seconds=10,
            jobs_per_worker=9,
            queue=4,
        )
        renderer.start()
        done = self.render(renderer)
        self.assertEqual([], self.agency.workers[0].sent)
        self.agency.workers[0].get_ready()
        self.agency.workers[0].work()
        self.successResultOf(done)

    def test_queue(self) -> None:
        """Beyond the queue uploads are refused, and are told when to come again."""
        renderer = self.renderer()
        waiting = [self.render(renderer) for _ in range(4)]
        error = self.assertRaises(Overloaded, self.render, renderer, 0.5)
        self.assertEqual("Too many images are waiting.", error.sentence)
        self.assertGreaterEqual(error.retry_after_seconds, 1)
        self.agency.workers[0].work()
        self.successResultOf(waiting[0])
        self.render(renderer, 0.5)
        self.assertEqual(1, renderer.report()["refused"])

    def test_costly(self) -> None:
        """One costly picture is taken when nothing else waits, and only then."""
        renderer = self.renderer()
        self.render(renderer, 0.1)
        self.assertRaises(Overloaded, self.render, renderer, 30)
        self.agency.workers[0].work()
        self.render(renderer, 30)
        self.assertRaises(Overloaded, self.render, renderer, 0.1)

    def test_arriving(self) -> None:
        """Uploads are refused before their body when queue or room is used up."""
        renderer = self.renderer()

        for count, length in ((16, 3_500_000), (16, None), (800, 1)):
            with ExitStack() as stack:
                for _ in range(count):
                    stack.enter_context(renderer.arriving(length))
                self.assertRaises(Overloaded, renderer.arriving(length).__enter__)
        for _ in range(4):
            self.render(renderer)
        self.assertRaises(Overloaded, renderer.arriving(1).__enter__)

    def test_time_out(self) -> None:
        """A picture that takes too long is bad; its worker is killed and replaced."""
        renderer = self.renderer()
        slow, patient = self.render(renderer), self.render(renderer)
        self.clock.advance(9.9)
        self.assertFalse(self.agency.workers[0].killed)
        self.clock.advance(0.2)
        self.assertTrue(self.agency.workers[0].killed)
        self.assertNoResult(slow)
        self.agency.workers[0].end(-signal.SIGKILL)
        self.assertIn("10 s", self.failureResultOf(slow, BadImage).value.reason)
        self.clock.advance(0.1)
        self.agency.workers[1].get_ready()
        self.agency.workers[1].work()
        self.successResultOf(patient)
        self.assertEqual(1, renderer.report()["timed_out"])

    def test_died(self) -> None:
        """A worker that dies of a picture makes it bad; one that is killed does not."""
        for status, kind in (
            (-signal.SIGSEGV, BadImage),
            (-signal.SIGXCPU, BadImage),
            (1, BadImage),
            (-signal.SIGKILL, Overloaded),
        ):
            self.agency = Agency(patient=True)
            renderer = self.renderer()
            done = self.render(renderer)
            self.agency.workers[0].end(status)
            self.failureResultOf(done, kind)
            self.assertEqual(1, renderer.report()["died"])

    def test_back_off(self) -> None:
        """A worker that cannot live is replaced less and less often."""
        renderer = self.renderer()
        pauses = []
        for _ in range(12):
            self.agency.workers[-1].end(1)
            (call,) = self.clock.getDelayedCalls()
            pauses.append(round(call.getTime() - self.clock.seconds(), 3))
            reasons = renderer.report()["not_ready"]
            self.assertEqual(len(pauses) > 1, bool(reasons))
            self.clock.advance(pauses[-1])
        self.assertEqual([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4], pauses[:7])
        self.assertEqual({10.0}, set(pauses[7:]))
        self.assertEqual(13, len(self.agency.workers))

    def test_cannot_hire(self) -> None:
        """When no process can be started it is tried again."""
        attempts = []

        def hire(*callbacks: Any) -> Any:
            attempts.append(callbacks)
            raise BlockingIOError("no more processes")

        renderer = Renderer(
            self.clock, hire, places=1, timeout_seconds=10, jobs_per_worker=9, queue=4
        )
        renderer.start()
        self.clock.advance(0.1)
        self.assertEqual(2, len(attempts))
        self.successResultOf(renderer.stop())
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_no_worker(self) -> None:
        """Nobody waits for ever when no worker comes to life."""
        renderer = self.renderer()
        self.agency.workers[0].end(1)
        done = self.render(renderer)
        self.clock.pump([1] * 31)
        self.failureResultOf(done, Overloaded)
        self.assertEqual(0, renderer.report()["waiting"])

    def test_recycled(self) -> None:
        """A worker is replaced after its share of pictures, at once."""
        renderer = self.renderer(jobs_per_worker=2)
        done = [self.render(renderer) for _ in range(3)]
        first = self.agency.workers[0]
        first.work()
        self.assertFalse(first.dismissed)
        first.work()
        self.assertTrue(first.dismissed)
        self.assertNoResult(done[2])
        first.end(0)
        second = self.agency.workers[1]
        second.get_ready()
        second.work()
        self.successResultOf(done[2])
        self.assertEqual((1, 0), (renderer.report()["recycled"], second.killed))

    def test_hanging(self) -> None:
        """A worker that does not get ready, or does not go, is killed in the end."""
        renderer = self.renderer(jobs_per_worker=1)
        self.render(renderer)
        leaving = self.agency.workers[0]
        leaving.work()
        self.assertTrue(leaving.dismissed)
        self.clock.advance(30)
        self.assertTrue(leaving.killed)
        leaving.end(-signal.SIGKILL)
        starting = self.agency.workers[1]
        self.clock.advance(30)
        self.assertTrue(starting.killed)
        starting.end(-signal.SIGKILL)
        self.clock.advance(0.1)
        self.agency.workers[2].get_ready()
        self.assertEqual(1, renderer.report()["workers"])

    def test_cancelled_while_waiting(self) -> None:
        """A picture nobody waits for any more is not rendered."""
        renderer = self.renderer()
        first, second = self.render(renderer), self.render(renderer)
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.agency.workers[0].work()
        self.successResultOf(first)
        self.assertEqual([], self.agency.workers[0].sent)
        self.assertEqual(0, renderer.report()["backlog_photographs"])

    def test_cancelled_while_rendering(self) -> None:
        """A picture in work is finished in vain, and the worker goes on."""
        renderer = self.renderer()
        first, second = self.render(renderer), self.render(renderer)
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.agency.workers[0].work()
        self.agency.workers[0].work()
        self.successResultOf(second)
        self.assertEqual(0, renderer.report()["backlog_photographs"])

    def test_gone_while_sending(self) -> None:
        """A worker that is gone when it gets a picture is told of only once."""
        renderer = self.renderer()
        worker = self.agency.workers[0]

        worker.gone = True
        done = self.render(renderer)
        self.assertNoResult(done)
        worker.end(-signal.SIGKILL)
        self.failureResultOf(done, Overloaded)

    def test_stop(self) -> None:
        """Stopping ends every worker and leaves nobody waiting."""
        renderer = self.renderer(places=2)
        done = [self.render(renderer) for _ in range(3)]
        stopped = renderer.stop()
        self.failureResultOf(done[2], Overloaded)
        self.assertNoResult(stopped)
        for worker in self.agency.workers:
            self.assertTrue(worker.killed)
            worker.end(-signal.SIGKILL)
        self.successResultOf(stopped)
        for each in done[:2]:
            self.failureResultOf(each, Overloaded)
        self.assertRaises(Overloaded, self.render, renderer)
        self.assertEqual([], self.clock.getDelayedCalls())
        self.assertEqual(2, len(self.agency.workers))
