"""Bodies that come from another replica, and go on at the next when it breaks off.

What has been passed on cannot be taken back: so the rest is asked for by Range and
If-Match, and taken only from a replica that has the very same bytes (its entity tag is
their digest).  When there is none, the body ends broken, and so does the connection of
whoever reads it: bytes of two versions are never mixed.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable

from attrs import frozen

from clinfra.blob.router import Found
from clinfra.errors import OriginFailed, Trouble
from clinfra.web.heads import Fields, ResponseHead

PROGRESS_BYTES = 1 << 18
"""Who breaks off before it has sent so much is not asked for the rest."""

_CONTENT_RANGE = re.compile(rb"bytes (\d+)-(\d+)/(\d+)\Z")


@frozen
class Rest:
    """Bytes of one version of a blob: of `total`, from `start` up to before `stop`."""

    etag: bytes
    start: int
    stop: int
    total: int

    @classmethod
    def told(cls, head: ResponseHead) -> Rest | None:
        """Return what an answer's body is; None when it could not be asked for."""
        etag = head.get(b"etag") or b""
        if not etag.startswith(b'"'):
            return None
        if head.status == 200 and head.content_length is not None:
            return cls(etag, 0, head.content_length, head.content_length)
        found = _CONTENT_RANGE.match(head.get(b"content-range") or b"")
        if head.status != 206 or found is None:
            return None
        start, last, total = map(int, found.groups())
        return cls(etag, start, last + 1, total)

    def after(self, received: int) -> Rest:
        """Return what is missing when so much has come."""
        return Rest(self.etag, self.start + received, self.stop, self.total)

    @property
    def fields(self) -> Fields:
        """Return what asks for it."""
        wanted = b"bytes=%d-%d" % (self.start, self.stop - 1)
        return (b"Range", wanted), (b"If-Match", self.etag)


Resume = Callable[[Rest, frozenset[str]], Awaitable[Found]]
"""Asks for the rest, but none of those.  Raises Trouble when nobody has it."""


async def pieces(
    found: Found, broke_off: Callable[[str], object], resume: Resume
) -> AsyncGenerator[bytes, None]:
    """Yield the body of an answer to its end.

    Args:
        broke_off: told who did.

    Raises errors.OriginFailed: nobody has the rest.
    """
    whole = Rest.told(found.response.head)
    received, since = 0, 0
    spared: frozenset[str] = frozenset()
    try:
        while True:
            try:
                piece = await found.response.read()
            except OriginFailed as trouble:
                broke_off(found.peer)
                if whole is None:
                    raise
                if received - since < PROGRESS_BYTES:
                    spared |= {found.peer}
                since = received
                try:
                    found = await resume(whole.after(received), spared)
                except Trouble:
                    raise trouble from None
                continue
            if not piece:
                return
            received += len(piece)
            yield piece
    finally:
        found.response.abort()
