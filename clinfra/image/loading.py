"""Read stored pictures, into files that workers can be given."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from twisted.internet.defer import DeferredSemaphore
from twisted.logger import Logger

from clinfra.errors import InvalidRequest, NotFound, OriginFailed, Overloaded
from clinfra.image.patience import RETRY_AFTER_SECONDS, Patience
from clinfra.image.room import room
from clinfra.interfaces import BlobInfo, IBlobs, ILendsBlobs
from clinfra.web.exchange import FileBody
from clinfra.web.streams import Threads, unnamed_file, write_all

T = TypeVar("T")

_NOT_KEPT: Final = "The original of this picture is not there any more."
_IN_MEMORY: Final = 1 << 20
"""Sources up to this many bytes are handed over in memory, others in a file."""

_ORIGINALS_AT_ONCE: Final = 4
"""Originals that are in memory at the same time, on their way into files."""


class Loading:
    """Reads blobs.

    Args:
        spool_directory: where large originals are handed to workers, unnamed.
        threads: where they are written; None means at once.
        patience: for every blob.
        now: unix seconds.
    """

    log = Logger()

    def __init__(
        self,
        blobs: IBlobs,
        spool_directory: Path,
        threads: Threads | None,
        patience: Patience,
        now: Callable[[], float],
    ) -> None:
        self._blobs = blobs
        # What is in a file here already need not be copied into another.
        self._lend = blobs.lend if ILendsBlobs.providedBy(blobs) else blobs.get
        self._spool_directory = spool_directory
        self._threads = threads
        self._patience = patience
        self._now = now
        self._originals = DeferredSemaphore(_ORIGINALS_AT_ONCE)

    async def read(self, name: str, sentence: str) -> tuple[BlobInfo, bytes]:
        """Return a blob.

        Raises:
            NotFound: with the sentence.
            Overloaded: the blob service does not answer; nobody is told where it is.
        """
        return await self._ask(self._blobs.get, name, sentence)

    async def original(self, name: str) -> tuple[BlobInfo, FileBody]:
        """Return what is known of an original, and a file that has its bytes.

        Raises NotFound and Overloaded.
        """
        return await self._originals.run(self.mezzanine, name)

    async def mezzanine(self, name: str) -> tuple[BlobInfo, FileBody]:
        """Do the same for what is small: several at a time."""
        with room():
            info, body = await self._ask(self._lend, name, _NOT_KEPT)
            if isinstance(body, FileBody):
                return info, body
            fd = await self._written(body)
        return info, FileBody(fd, 0, len(body), partial(os.close, fd))

    async def _ask(
        self,
        give: Callable[[str], Coroutine[Any, Any, tuple[BlobInfo, T]]],
        name: str,
        sentence: str,
    ) -> tuple[BlobInfo, T]:
        try:
            info, body = await self._patience.within(give(name))
        except (NotFound, InvalidRequest) as error:
            raise NotFound(sentence) from error
        except (OriginFailed, Overloaded) as error:
            self.log.warn("cannot read {name}: {error}", name=name, error=str(error))
            raise Overloaded(
                "The blob service is not available.", RETRY_AFTER_SECONDS
            ) from error
        if info.deleted and info.deleted <= self._now():
            if isinstance(body, FileBody):
                body.close()
            raise NotFound(sentence)
        return info, body

    async def _written(self, body: bytes) -> int:
        """Return a descriptor of a file of these bytes."""
        if len(body) <= _IN_MEMORY:
            fd = os.memfd_create("source", os.MFD_CLOEXEC)
        else:
            fd = unnamed_file(self._spool_directory)
        try:
            if self._threads is None or len(body) <= _IN_MEMORY:
                write_all(fd, body)
            else:
                await self._threads.with_file(fd, lambda own: write_all(own, body))
        except BaseException:
            os.close(fd)
            raise
        return fd
