"""Reading a blob over HTTP to its end, whoever breaks off in between."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Awaitable, Callable

from attrs import define, field

from clinfra.errors import OriginFailed
from clinfra.web.heads import Fields
from clinfra.web.responses import OriginResponse

Ask = Callable[[Fields], Awaitable[OriginResponse]]
"""Sends the GET with some more fields, to whichever server answers."""

ATTEMPTS = 3
"""Servers asked in a row without a byte of progress."""

READS = 5
"""Times that a blob is read, when it is replaced between its bytes and its info."""

_DIGEST = re.compile(rb"\bsha-256=:([A-Za-z0-9+/=]+):")
_CONTENT_RANGE = re.compile(rb"bytes (\d+)-\d+/(\d+)\Z")


@define(eq=False)
class Download:
    """A blob being read; whoever does not read it to its end closes it.

    When a server breaks off, another is asked for the rest of the very same bytes (its
    entity tag is their digest).  At the end they are held against the digest.

    Attributes:
        length: bytes; None from a server that does not tell.
        content_type: as told.
        received: bytes read so far.
    """

    _ask: Ask
    _response: OriginResponse
    length: int | None = field(init=False)
    content_type: str = field(init=False)
    received: int = field(init=False, default=0)
    _etag: bytes | None = field(init=False)
    _digest: bytes | None = field(init=False, default=None)
    _sha256: hashlib._Hash = field(init=False, factory=hashlib.sha256)

    @classmethod
    async def begin(cls, ask: Ask) -> Download:
        """Ask for the blob.  Raises what `ask` raises."""
        return cls(ask, await ask(()))

    def __attrs_post_init__(self) -> None:
        head = self._response.head
        self.length = head.content_length
        kind = head.get(b"content-type") or b"application/octet-stream"
        self.content_type = kind.decode("latin-1")
        etag = head.get(b"etag")
        self._etag = etag if etag is not None and etag.startswith(b'"') else None
        found = _DIGEST.search(head.get(b"repr-digest") or b"")
        if found is not None:
            self._digest = base64.b64decode(found[1])

    async def read(self) -> bytes:
        """Return the next piece, b"" at the end.

        Raises errors.OriginFailed: nobody has the rest, or the bytes are damaged.
        """
        for attempt in range(ATTEMPTS + 1):
            try:
                piece = await self._response.read()
                break
            except OriginFailed:
                if attempt == ATTEMPTS or self._etag is None:
                    raise
                await self._go_on()
        self.received += len(piece)
        self._sha256.update(piece)
        if not piece and self._digest not in (None, self._sha256.digest()):
            raise OriginFailed("The bytes that came are not those that were stored.")
        return piece

    @property
    def sha256(self) -> str:
        """Hex digest of what was received."""
        return self._sha256.hexdigest()

    async def _go_on(self) -> None:
        """Ask for what has not come yet."""
        fields = (
            (b"Range", b"bytes=%d-" % self.received),
            (b"If-Range", self._etag or b""),
        )
        response = await self._ask(fields)
        found = _CONTENT_RANGE.match(response.head.get(b"content-range") or b"")
        if (
            response.head.status != 206
            or found is None
            or int(found[1]) != self.received
            or (self.length is not None and int(found[2]) != self.length)
        ):
            response.abort()
            raise OriginFailed("The blob was replaced while it was being read.")
        self._response = response

    async def read_all(self, max_bytes: int) -> bytes:
        """Return all of it.  Raises as `read`, and OriginFailed when it is longer."""
        pieces = []
        while piece := await self.read():
            pieces.append(piece)
            if self.received > max_bytes:
                self.close()
                raise OriginFailed(f"The blob is over {max_bytes} bytes.")
        return b"".join(pieces)

    def close(self) -> None:
        """Stop here; no harm at its end."""
        self._response.abort()

    async def __aenter__(self) -> Download:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
