"""Results are stored whole or not at all."""

from __future__ import annotations

import json

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from clinfra.errors import Overloaded
from clinfra.image.job import Rendered, Rendition
from clinfra.image.storing import Storing
from tests.image.support import MemoryBlobs

RENDERED = Rendered(
    {"checksum": "76a4f55a9c8c5560" + "0" * 48, "width": 8},
    {
        f"{side}x{side}": Rendition(b"jpeg%d" % side, "image/jpeg", side, side)
        for side in range(1, 7)
    },
)


class StoringTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.blobs = MemoryBlobs()
        self.storing = Storing(self.blobs)

    def store(self, rendered: Rendered = RENDERED) -> Deferred[None]:
        return self.storing.store(self.storing.names(rendered), rendered, 100)

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
