"""Keep the results of an upload in the blob service, whole or not at all.

The renditions go first and the info last, so whoever finds the info finds everything.
Names are made of the upload's own bytes.  So when storing fails, what had been stored
is deleted, unless the info of an earlier upload of the same bytes is there: then those
names belong to it, and what they hold now is as good.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredList, DeferredSemaphore
from twisted.logger import Logger
from twisted.python.failure import Failure

from clinfra.errors import NotFound, Overloaded, Trouble
from clinfra.image.job import Rendered
from clinfra.image.naming import BlobNames, base_name
from clinfra.interfaces import IBlobs

T = TypeVar("T")

_AT_ONCE = 4
"""Blobs of one upload that are put at the same time."""

_RETRY_AFTER_SECONDS = 5


@define(eq=False)
class Storing:
    """Stores results; what was begun is finished even when nobody waits any more."""

    log = Logger()

    _blobs: IBlobs
    _begun: int = field(init=False, default=0)
    _idle: list[Deferred[None]] = field(init=False, factory=list)

    def names(self, rendered: Rendered) -> BlobNames:
        """Return what the results of an upload are called."""
        return BlobNames(self._blobs.encode(base_name(rendered.checksum)))

    def store(
        self, names: BlobNames, rendered: Rendered, ttl_seconds: int
    ) -> Deferred[None]:
        """Store all results; cancelling only ends the waiting.

        Fails with Overloaded when the blob service cannot take them.
        """
        told: Deferred[None] = Deferred()
        self._begun += 1
        work = Deferred.fromCoroutine(self._store(names, rendered, ttl_seconds))
        work.addBoth(self._over)
        work.addCallbacks(told.callback, told.errback)
        return told

    async def idle(self) -> None:
        """Wait until nothing is being stored."""
        if self._begun:
            waiting: Deferred[None] = Deferred()
            self._idle.append(waiting)
            await waiting

    def _over(self, result: T) -> T:
        self._begun -= 1
        if not self._begun:
            waiting, self._idle = self._idle, []
            for each in waiting:
                each.callback(None)
        return result

    async def _store(
        self, names: BlobNames, rendered: Rendered, ttl_seconds: int
    ) -> None:
        parts = {
            names.size(name): (rendition.body, rendition.content_type)
            for name, rendition in rendered.renditions.items()
        }
        info = {names.info: (rendered.info_json(), "application/json")}
        try:
            await self._put_all(parts, ttl_seconds)
            await self._put_all(info, ttl_seconds)
        except Exception as error:
            await self._undo([*info, *parts])
            if not isinstance(error, Trouble | OSError):
                raise
            self.log.warn(
                "cannot store {name}: {error}", name=names.stored, error=str(error)
            )
            raise Overloaded(
                "The blob service is not available: nothing was stored.",
                _RETRY_AFTER_SECONDS,
            ) from error

    async def _put_all(
        self, parts: Mapping[str, tuple[bytes, str]], ttl_seconds: int
    ) -> None:
        """Put several blobs; raises the first trouble when every one has ended."""

        async def put(name: str, body: bytes, content_type: str) -> None:
            await self._blobs.put(
                name,
                body,
                ttl_seconds=ttl_seconds,
                content_type=content_type,
                encoded=True,
            )

        turns = DeferredSemaphore(_AT_ONCE)
        puts = [turns.run(put, name, *part) for name, part in parts.items()]
        # All of them, so that nothing is put after a failure was cleaned up.
        for succeeded, result in await DeferredList(puts, consumeErrors=True):
            if not succeeded:
                assert isinstance(result, Failure)
                result.raiseException()

    async def _undo(self, names: Sequence[str]) -> None:
        """Delete what a failed upload stored, the info first, as far as possible."""
        try:
            await self._blobs.get(names[0])
        except NotFound:
            pass
        except Exception:
            # It cannot even be asked: the time to live will have to do.
            return
        else:
            return
        for name in names:
            try:
                await self._blobs.delete(name)
            except Exception as error:
                self.log.warn(
                    "cannot take {name} back: {error}", name=name, error=str(error)
                )
                return
