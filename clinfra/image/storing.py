"""Keep the results of an upload in the blob service, whole or not at all.

The renditions, the original and its mezzanines go first and the info last, so whoever
finds the info finds everything.  Names are made of the upload's own bytes.  So when
storing fails, what had been stored is deleted, unless the info of an earlier upload of
the same bytes is there: then those names belong to it, and what they hold now is as
good.  And what that one was promised holds: results are kept for as long as it was
told, and so is its original.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import attrs
from attrs import define, field, frozen
from twisted.internet.defer import (
    Deferred,
    DeferredList,
    DeferredLock,
    DeferredSemaphore,
    fail,
)
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from clinfra.errors import NotFound, Overloaded, Trouble
from clinfra.image.job import Rendered, Rendition, is_rung
from clinfra.image.naming import BlobNames, base_name
from clinfra.image.patience import RETRY_AFTER_SECONDS, Patience
from clinfra.interfaces import BlobInfo, IBlobs
from clinfra.web.streams import Spooled, Threads, read_piece

T = TypeVar("T")
Part = tuple[Callable[[], Awaitable[bytes]], str]
"""What gives a body, once it is its turn, and its media type."""

_AT_ONCE = 4
"""Blobs of one upload that are put at the same time."""

_ORIGINALS_AT_ONCE = 4
"""Originals that are in memory at the same time."""

_MOST_WAITING_BYTES = 256 << 20
"""Of renditions of uploads that are being stored, when the blob service is slow."""

_MOST_BACKGROUND_BYTES = 64 << 20
"""Of renditions that wait to be stored while they are served already."""

GATHER_SECONDS = 0.2
"""How long a rendition waits for others, to be stored with them at less cost each."""

_MOST_GATHERED = 32
"""So many do not wait for more."""

_FOREVER_SECONDS = 2**31 - 1


_OF_KEPT = ("kept", "mezzanines")
"""What an info says of the original."""


@frozen
class _Promised:
    """What an upload was promised.

    Attributes:
        seconds: for so long results are there.
        kept: what its info says of the original.
    """

    seconds: int
    kept: Mapping[str, int | str]


@define(eq=False)
class Storing:
    """Stores results; what was begun is finished even when nobody waits any more.

    Args:
        threads: where originals are read; None means at once.
        patience: for every blob; None means that of whoever calls, and that renditions
            wait for no others.
        now: unix seconds.
    """

    log = Logger()

    _blobs: IBlobs
    _threads: Threads | None = None
    _patience: Patience | None = None
    _now: Callable[[], float] = time.time
    _begun: int = field(init=False, default=0)
    _idle: list[Deferred[None]] = field(init=False, factory=list)
    _originals: DeferredSemaphore = field(
        init=False, factory=lambda: DeferredSemaphore(_ORIGINALS_AT_ONCE)
    )
    _waiting_bytes: int = field(init=False, default=0)
    _background_bytes: int = field(init=False, default=0)
    _turns: dict[str, DeferredLock] = field(init=False, factory=dict)
    _gathered: list[Deferred[None]] = field(init=False, factory=list)
    _gathering: IDelayedCall | None = field(init=False, default=None)

    async def names(self, rendered: Rendered) -> BlobNames:
        """Return what the results of an upload are called."""
        return BlobNames(await self._blobs.encode(base_name(rendered.checksum)))

    def store(
        self,
        names: BlobNames,
        rendered: Rendered,
        ttl_seconds: int,
        original: Spooled | None = None,
    ) -> Deferred[None]:
        """Store all results; cancelling only ends the waiting.

        Fails with Overloaded when the blob service cannot take them.

        Args:
            original: stored as well; the caller may close it at once.
        """
        told: Deferred[None] = Deferred()
        length = sum(len(each.body) for each in rendered.renditions.values())
        if self._waiting_bytes and self._waiting_bytes + length > _MOST_WAITING_BYTES:
            self.log.warn("too much waits to be stored: {name}", name=names.stored)
            return fail(
                Overloaded(
                    "The blob service is too slow: nothing was stored.",
                    RETRY_AFTER_SECONDS,
                )
            )
        own = None
        try:
            if original is not None:
                own = attrs.evolve(original, fd=os.dup(original.fd))
        except OSError as error:
            self.log.error("cannot store: {error}", error=str(error))
            return fail(Overloaded("The image service is out of files."))
        work = self._begin(
            self._store_in_turn(length, names, rendered, ttl_seconds, own)
        )
        work.addCallbacks(told.callback, told.errback)
        return told

    def store_rendition(
        self, name: str, rendition: Rendition, ttl_seconds: int
    ) -> Deferred[None]:
        """Store what was made on demand; failing is only logged."""
        return self._begin(self._store_rendition(name, rendition, ttl_seconds))

    async def idle(self) -> None:
        """Wait until nothing is being stored."""
        self._store_gathered()
        if self._begun:
            waiting: Deferred[None] = Deferred()
            self._idle.append(waiting)
            await waiting

    def _begin(self, work: Coroutine[Deferred[Any], Any, None]) -> Deferred[None]:
        self._begun += 1
        return Deferred.fromCoroutine(work).addBoth(self._over)

    def _over(self, result: T) -> T:
        self._begun -= 1
        if not self._begun:
            waiting, self._idle = self._idle, []
            for each in waiting:
                each.callback(None)
        return result

    async def _store_rendition(
        self, name: str, rendition: Rendition, ttl_seconds: int
    ) -> None:
        length = len(rendition.body)
        if self._background_bytes + length > _MOST_BACKGROUND_BYTES:
            self.log.warn("too much waits to be stored: {name} is not", name=name)
            return
        self._background_bytes += length
        try:
            await self._gather()
            await self._put(name, rendition.body, rendition.content_type, ttl_seconds)
        except (Trouble, OSError) as error:
            self.log.warn("cannot store {name}: {error}", name=name, error=str(error))
        finally:
            self._background_bytes -= length

    async def _gather(self) -> None:
        """Wait a moment for other renditions.

        Blobs that are put in one turn of the reactor are made durable together.  Until
        then whoever asks for a rendition has it from memory.
        """
        if self._patience is None:
            return
        if self._gathering is None:
            self._gathering = self._patience.reactor.callLater(
                GATHER_SECONDS, self._store_gathered
            )
        turn: Deferred[None] = Deferred()
        self._gathered.append(turn)
        if len(self._gathered) >= _MOST_GATHERED:
            self._store_gathered()
        await turn

    def _store_gathered(self) -> None:
        if self._gathering is not None and self._gathering.active():
            self._gathering.cancel()
        self._gathering = None
        gathered, self._gathered = self._gathered, []
        for turn in gathered:
            turn.callback(None)

    async def _store_in_turn(
        self,
        length: int,
        names: BlobNames,
        rendered: Rendered,
        ttl_seconds: int,
        original: Spooled | None,
    ) -> None:
        """Store results, after what has the same names: that may be taken back."""
        turn = self._turns.setdefault(names.stored, DeferredLock())
        self._waiting_bytes += length
        try:
            await turn.run(self._store, names, rendered, ttl_seconds, original)
        finally:
            self._waiting_bytes -= length
            if not turn.locked:
                self._turns.pop(names.stored, None)

    async def _store(
        self,
        names: BlobNames,
        rendered: Rendered,
        ttl_seconds: int,
        original: Spooled | None,
    ) -> None:
        parts: dict[str, Part] = {
            names.mezzanine(name) if is_rung(name) else names.size(name): (
                _at_hand(rendition.body),
                rendition.content_type,
            )
            for name, rendition in rendered.renditions.items()
        }
        info: dict[str, Part] = {}
        try:
            promised = await self._promised(names)
            if promised is not None:
                ttl_seconds = max(ttl_seconds, promised.seconds)
                rendered = attrs.evolve(
                    rendered, info={**promised.kept, **rendered.info}
                )
            info[names.info] = _at_hand(rendered.info_json()), "application/json"
            if original is not None:
                spooled = original
                content_type = str(rendered.info["content_type"])
                parts[names.original] = (lambda: self._read(spooled), content_type)
            await self._put_all(parts, ttl_seconds)
            await self._put_all(info, ttl_seconds)
        except Exception as error:
            await self._undo([names.info, *parts])
            if not isinstance(error, Trouble | OSError):
                raise
            self.log.warn(
                "cannot store {name}: {error}", name=names.stored, error=str(error)
            )
            raise Overloaded(
                "The blob service is not available: nothing was stored.",
                RETRY_AFTER_SECONDS,
            ) from error
        finally:
            if original is not None:
                original.close()

    async def _promised(self, names: BlobNames) -> _Promised | None:
        """Return what an earlier upload of the same bytes was promised.

        It has the same names, and what it was told is there must stay there.
        """
        try:
            about, text = await self._get(names.info)
            told = json.loads(text)
        except (NotFound, ValueError):
            return None
        if about.deleted:
            seconds = math.ceil(about.deleted - self._now())
        else:
            seconds = _FOREVER_SECONDS
        if seconds <= 0 or not isinstance(told, dict):
            return None
        kept = {}
        if told.get("kept") is True:
            kept = {name: told[name] for name in _OF_KEPT if name in told}
        return _Promised(seconds, kept)

    async def _read(self, original: Spooled) -> bytes:
        return await read_piece(original.fd, 0, original.length, self._threads)

    async def _put_all(self, parts: Mapping[str, Part], ttl_seconds: int) -> None:
        """Put several blobs; raises the first trouble when every one has ended."""

        failed = False

        async def put(name: str, body: Part) -> None:
            nonlocal failed
            if failed:
                return  # all will be taken back
            try:
                await self._put(name, await body[0](), body[1], ttl_seconds)
            except BaseException:
                failed = True
                raise

        turns = DeferredSemaphore(_AT_ONCE)
        puts = []
        for name, part in parts.items():
            # Only originals are large.
            gate = self._originals if name.endswith(".original") else turns
            puts.append(gate.run(put, name, part))
        # All of them, so that nothing is put after a failure was cleaned up.
        for succeeded, result in await DeferredList(puts, consumeErrors=True):
            if not succeeded:
                assert isinstance(result, Failure)
                result.raiseException()

    async def _put(
        self, name: str, body: bytes, content_type: str, ttl_seconds: int
    ) -> None:
        put = self._blobs.put(
            name,
            body,
            ttl_seconds=ttl_seconds,
            content_type=content_type,
            encoded=True,
        )
        if self._patience is None:
            await put
        else:
            await self._patience.within(put, len(body))

    async def _get(self, name: str) -> tuple[BlobInfo, bytes]:
        get = self._blobs.get(name)
        return await (get if self._patience is None else self._patience.within(get))

    async def _undo(self, names: Sequence[str]) -> None:
        """Delete what a failed upload stored, the info first, as far as possible."""
        try:
            await self._get(names[0])
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


def _at_hand(body: bytes) -> Callable[[], Awaitable[bytes]]:
    async def give() -> bytes:
        return body

    return give
