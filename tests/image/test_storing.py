"""Results are stored whole or not at all."""

from __future__ import annotations

import json
from typing import Any

import attrs
from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from clinfra.errors import Overloaded, StorageFull
from clinfra.image.job import Rendered, Rendition
from clinfra.image.naming import BlobNames
from clinfra.image.patience import Patience
from clinfra.image.storing import GATHER_SECONDS, Storing
from clinfra.interfaces import BlobInfo
from tests.image.support import MemoryBlobs

RENDERED = Rendered(
    {"checksum": "76a4f55a9c8c5560" + "0" * 48, "width": 8},
    {
        f"{side}x{side}": Rendition(b"jpeg%d" % side, "image/jpeg", side, side)
        for side in range(1, 7)
    },
)


@define(eq=False)
class Slow(MemoryBlobs):
    """Blobs where some bodies are put when their time has come."""

    gates: dict[bytes, Deferred[None]] = field(
        factory=lambda: {b"fails": Deferred(), b"lasts": Deferred()}
    )

    async def put(self, name: str, body: bytes, **options: Any) -> BlobInfo:
        if body in self.gates:
            await self.gates[body]
        return await super().put(name, body, **options)


class StoringTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.blobs = MemoryBlobs()
        self.storing = Storing(self.blobs)

    def names(self, rendered: Rendered = RENDERED) -> BlobNames:
        coroutine = self.storing.names(rendered)
        return self.successResultOf(Deferred.fromCoroutine(coroutine))

    def store(self, rendered: Rendered = RENDERED) -> Deferred[None]:
        return self.storing.store(self.names(rendered), rendered, 100)

    def test_gathering(self) -> None:
        """Renditions wait a moment, and are put in one turn; the end waits for none."""
        clock = Clock()
        storing = Storing(self.blobs, patience=Patience(clock, 10))

        def store(number: int) -> Deferred[None]:
            rendition = RENDERED.renditions["1x1"]
            return storing.store_rendition(f"000_x_{number}x.jpg", rendition, 100)

        first = store(1)
        clock.advance(GATHER_SECONDS / 2)
        second = store(2)
        self.assertEqual([], self.blobs.order)
        clock.advance(GATHER_SECONDS / 2)
        self.successResultOf(first)
        self.successResultOf(second)
        self.assertEqual(["000_x_1x.jpg", "000_x_2x.jpg"], self.blobs.order)

        many = [store(number) for number in range(3, 3 + 32)]
        for each in many:
            self.successResultOf(each)
        self.assertEqual([], clock.getDelayedCalls())

        last = store(99)
        self.assertNoResult(last)
        self.successResultOf(Deferred.fromCoroutine(storing.idle()))
        self.successResultOf(last)
        self.assertEqual([], clock.getDelayedCalls())

    def test_hangs(self) -> None:
        """A blob service that hangs is waited for no longer than for a worker."""
        clock = Clock()
        self.blobs.gate = Deferred()
        storing = Storing(self.blobs, patience=Patience(clock, 10))
        told = storing.store(self.names(), RENDERED, 100)
        clock.advance(9.9)
        self.assertNoResult(told)
        clock.advance(0.2)
        failure = self.failureResultOf(told, Overloaded)
        self.assertEqual(5, failure.value.retry_after_seconds)
        self.assertEqual({}, self.blobs.kept)

    def upload(
        self, storing: Storing, ttl_seconds: int, **info: int | str
    ) -> dict[str, Any]:
        """Store an upload of the same bytes; return the info that is there then."""
        rendered = attrs.evolve(RENDERED, info={**RENDERED.info, **info})
        names = self.names(rendered)
        self.successResultOf(storing.store(names, rendered, ttl_seconds))
        told: dict[str, Any] = json.loads(self.blobs.kept[names.info][0])
        return told

    def test_promises(self) -> None:
        """Another upload of the same bytes takes nothing from an earlier one."""
        clock = Clock()
        self.blobs.now = clock.seconds
        storing = Storing(self.blobs, now=clock.seconds)
        self.upload(storing, 1000, kept=True, mezzanines="9x9")
        clock.advance(100)
        told = self.upload(storing, 50, filename="x")
        self.assertEqual(
            ("x", True, "9x9"), (told["filename"], told["kept"], told["mezzanines"])
        )
        self.assertEqual({900}, {ttl for _, _, ttl in self.blobs.kept.values()})
        told = self.upload(storing, 5000, kept=True, mezzanines="")
        self.assertEqual("", told["mezzanines"])
        self.assertEqual({5000}, {ttl for _, _, ttl in self.blobs.kept.values()})

    def test_promises_end(self) -> None:
        """What is over, deleted or nonsense promises nothing."""
        clock = Clock()
        self.blobs.now = clock.seconds
        storing = Storing(self.blobs, now=clock.seconds)
        self.upload(storing, 1000, kept=True)
        clock.advance(1000)
        self.assertNotIn("kept", self.upload(storing, 50))
        self.upload(storing, 1000, kept=True)
        name = self.names().info
        self.successResultOf(Deferred.fromCoroutine(self.blobs.delete(name)))
        self.assertNotIn("kept", self.upload(storing, 50))
        for nonsense in (b"[]", b"nonsense"):
            self.blobs.kept[name] = (nonsense, "application/json", 1000)
            self.assertNotIn("kept", self.upload(storing, 50))

    def test_whole(self) -> None:
        """Renditions come first, the info last, all under the original's names."""
        self.successResultOf(self.store())
        base = "000_abxyl0kjyow"
        self.assertEqual(
            {f"{base}_{side}x{side}.jpg" for side in range(1, 7)} | {f"{base}.json"},
            set(self.blobs.kept),
        )
        self.assertEqual(f"{base}.json", self.blobs.order[-1])
        self.assertEqual(
            (b"jpeg1", "image/jpeg", 100), self.blobs.kept[f"{base}_1x1.jpg"]
        )
        info, content_type, ttl_seconds = self.blobs.kept[f"{base}.json"]
        self.assertEqual(dict(RENDERED.info), json.loads(info))
        self.assertEqual(("application/json", 100), (content_type, ttl_seconds))

    def test_nothing_half(self) -> None:
        """When storing fails anywhere, nothing of it is left."""
        for full_after in range(7):
            self.blobs = MemoryBlobs(full_after=full_after)
            self.storing = Storing(self.blobs)
            failure = self.failureResultOf(self.store(), Overloaded)
            self.assertIn("blob service", failure.value.sentence)
            self.assertEqual({}, self.blobs.kept)

    def test_earlier_upload(self) -> None:
        """A failure does not take away what an earlier upload of the same stored."""
        self.successResultOf(self.store())
        names = set(self.blobs.kept)
        self.blobs.full_after = len(self.blobs.order) + 2
        self.failureResultOf(self.store(), Overloaded)
        self.assertEqual(names, set(self.blobs.kept))

    def test_same_at_once(self) -> None:
        """A failure takes nothing from another upload of the same bytes under way."""
        blobs = self.blobs = Slow()
        self.storing = Storing(blobs)
        done = []
        for body in (b"fails", b"lasts"):
            late = {"9x9": Rendition(body, "image/jpeg", 9, 9)}
            done.append(
                self.store(Rendered(RENDERED.info, {**RENDERED.renditions, **late}))
            )
        blobs.gates[b"fails"].errback(StorageFull("There is no room."))
        self.failureResultOf(done[0], Overloaded)
        blobs.gates[b"lasts"].callback(None)
        self.successResultOf(done[1])
        self.assertEqual(8, len(blobs.kept))
        self.assertEqual(b"lasts", blobs.kept["000_abxyl0kjyow_9x9.jpg"][0])

    def test_slow(self) -> None:
        """When the blob service is slow, only so much waits for it."""
        gate = self.blobs.gate = Deferred()
        body = bytes(100 << 20)
        waiting = []
        for number in range(3):
            info = {**RENDERED.info, "checksum": f"{number}" * 64}
            large = {"9x9": Rendition(body, "image/jpeg", 9, 9)}
            waiting.append(self.store(Rendered(info, large)))
        refused = self.failureResultOf(waiting.pop(), Overloaded).value
        self.assertIn("too slow", refused.sentence)
        gate.callback(None)
        for each in waiting:
            self.successResultOf(each)
        self.assertEqual(4, len(self.blobs.kept))
        self.successResultOf(self.store())

    def test_cannot_undo(self) -> None:
        """When not even that can be taken back, the client is told the same."""
        for method in ("get", "delete"):
            self.blobs.broken = {method}
            self.blobs.full_after = 2
            self.failureResultOf(self.store(), Overloaded)

    def test_bug(self) -> None:
        """What is not trouble is not hidden as trouble."""
        self.blobs.gate = Deferred()
        done = self.store()
        self.blobs.gate.errback(ZeroDivisionError())
        self.failureResultOf(done, ZeroDivisionError)

    def test_nobody_waits(self) -> None:
        """Storing that was begun is finished although the client is gone."""
        gate = self.blobs.gate = Deferred()
        done = self.store()
        done.cancel()
        self.failureResultOf(done, CancelledError)
        idle = Deferred.fromCoroutine(self.storing.idle())
        self.assertNoResult(idle)
        gate.callback(None)
        self.successResultOf(idle)
        self.assertEqual(7, len(self.blobs.kept))
        self.successResultOf(Deferred.fromCoroutine(self.storing.idle()))
