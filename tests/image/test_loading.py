"""Stored pictures are read into files that workers can be given."""

from __future__ import annotations

import os
from collections.abc import Coroutine
from typing import Any, TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from clinfra.errors import NotFound, Overloaded
from clinfra.image.loading import Loading
from clinfra.image.patience import Patience
from clinfra.interfaces import BlobInfo, ILendsBlobs
from clinfra.web.exchange import FileBody
from tests.image.support import MemoryBlobs, new_directory

T = TypeVar("T")

_BEFORE = b"what is before it in the file"


@implementer(ILendsBlobs)
@define(eq=False)
class LendingBlobs(MemoryBlobs):
    """Blobs that are also in files.

    Attributes:
        lent: how many files are lent.
    """

    lent: int = field(init=False, default=0)

    async def lend(self, name: str) -> tuple[BlobInfo, Any]:
        info, body = await self.get(name)
        fd = os.memfd_create("blob")
        os.write(fd, _BEFORE + body)
        self.lent += 1

        def close() -> None:
            self.lent -= 1
            os.close(fd)

        return info, FileBody(fd, len(_BEFORE), len(body), close)


class LoadingTests(SynchronousTestCase):
    def loading(self, blobs: MemoryBlobs, now: float = 0.0) -> Loading:
        self.clock = Clock()
        patience = Patience(self.clock, 10)
        return Loading(blobs, new_directory(self), None, patience, lambda: now)

    def run_now(self, work: Coroutine[Any, Any, T]) -> T:
        return self.successResultOf(Deferred.fromCoroutine(work))

    def test_copied(self) -> None:
        """What is not in a file is written into one, however large it is."""
        for size in (10, 2 << 20):
            blobs = MemoryBlobs()
            self.run_now(blobs.put("000_a.original", bytes(size), encoded=True))
            loading = self.loading(blobs)
            info, file = self.run_now(loading.original("000_a.original"))
            self.assertEqual((0, size, size), (file.offset, file.length, info.size))
            self.assertEqual(bytes(size), os.pread(file.fd, size + 1, 0))
            file.close()

    def test_lent(self) -> None:
        """What is in a file is read where it is."""
        blobs = LendingBlobs()
        self.assertTrue(verifyObject(ILendsBlobs, blobs))
        self.run_now(blobs.put("000_a.mezzanine.jpg", b"picture", encoded=True))
        loading = self.loading(blobs)
        _, file = self.run_now(loading.mezzanine("000_a.mezzanine.jpg"))
        self.assertEqual(b"picture", os.pread(file.fd, file.length, file.offset))
        file.close()
        self.assertEqual(0, blobs.lent)

    def test_over(self) -> None:
        """What has ended is not there, and its file is given back."""
        blobs = LendingBlobs(now=lambda: 0.0)
        put = blobs.put("000_a.original", b"picture", encoded=True, ttl_seconds=5)
        self.run_now(put)
        loading = self.loading(blobs, now=6.0)
        failed = Deferred.fromCoroutine(loading.original("000_a.original"))
        self.failureResultOf(failed, NotFound)
        self.assertEqual(0, blobs.lent)

    def test_hangs(self) -> None:
        """A blob service that is silent is not waited for longer than for a worker."""
        blobs = MemoryBlobs(originals_gate=DeferredLock())
        assert blobs.originals_gate is not None
        blobs.originals_gate.acquire()
        self.run_now(blobs.put("000_a.original", b"picture", encoded=True))
        loading = self.loading(blobs)
        asked = Deferred.fromCoroutine(loading.original("000_a.original"))
        self.clock.advance(9.9)
        self.assertNoResult(asked)
        self.clock.advance(0.1)
        failure = self.failureResultOf(asked, Overloaded)
        self.assertEqual(5, failure.value.retry_after_seconds)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_away(self) -> None:
        """A blob service that does not answer is a reason to come back later."""
        loading = self.loading(MemoryBlobs(broken={"get"}))
        failed = Deferred.fromCoroutine(loading.read("000_a.json", "nothing"))
        self.failureResultOf(failed, Overloaded)
