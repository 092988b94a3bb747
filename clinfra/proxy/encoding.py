"""Content codings: which one a client gets, of which answers, and how it is made.

Pure.  Every client is asked for as if it accepted one coding only, the best of those it
does; so a page is kept once for each coding, and not for every list of them that some
client sends.  A coded answer is not byte for byte what its origin has: strong entity
tags become weak, and what is said of its bytes (a digest) forbids coding it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from attrs import frozen

from clinfra.proxy.message import Reply
from clinfra.web.headers import (
    ETag,
    coding_quality,
    parse_cache_control,
    parse_etag,
    parse_etags,
    parse_media_type,
    split_list,
)

try:
    import brotli
except ImportError:  # an extra: "compression"
    brotli = None
try:
    import zstandard
except ImportError:  # the same
    zstandard = None  # type: ignore[assignment]  # looked at before it is used

_STATUSES = frozenset((200, 203, 404, 410))
_FORBIDDING = (
    *(b"content-encoding", b"content-range", b"content-digest", b"repr-digest"),
    *(b"digest", b"content-md5"),
)
_BROTLI_WINDOW_BITS = 18
"""256 KiB: an encoder's memory is some megabytes with more."""


class Coder(Protocol):
    """Codes one body."""

    def add(self, data: bytes) -> bytes:
        """Take a piece; return what there is to send."""

    def end(self) -> bytes:
        """Return the rest."""


class _Coder:
    def __init__(
        self,
        add: Callable[[bytes], bytes],
        flush: Callable[[], bytes] | None,
        end: Callable[[], bytes],
    ) -> None:
        self._add = add
        self._flush = flush
        self.end = end

    def add(self, data: bytes) -> bytes:
        coded = self._add(data)
        return coded if self._flush is None else coded + self._flush()


def gzip_coder(level: int, flushing: bool) -> Coder:
    """Return a gzip encoder."""
    made = zlib.compressobj(level, zlib.DEFLATED, 31)
    flush = (lambda: made.flush(zlib.Z_SYNC_FLUSH)) if flushing else None
    return _Coder(made.compress, flush, made.flush)


def br_coder(level: int, flushing: bool) -> Coder:
    """Return a Brotli encoder."""
    made: Any = brotli.Compressor(quality=level, lgwin=_BROTLI_WINDOW_BITS)
    return _Coder(made.process, made.flush if flushing else None, made.finish)


def zstd_coder(level: int, flushing: bool) -> Coder:
    """Return a Zstandard encoder."""
    made = zstandard.ZstdCompressor(level=level).compressobj()
    block = zstandard.COMPRESSOBJ_FLUSH_BLOCK
    flush = (lambda: made.flush(block)) if flushing else None
    return _Coder(made.compress, flush, made.flush)


CODERS: Mapping[str, Callable[[int, bool], Coder]] = {
    "gzip": gzip_coder,
    **({"br": br_coder} if brotli is not None else {}),
    **({"zstd": zstd_coder} if zstandard is not None else {}),
}
"""What can be made here, by the coding's name; called with the level, and whether every
piece is to be sent at once."""


def best_coding(accepted: bytes, codings: Sequence[bytes]) -> bytes | None:
    """Return the coding a client is to get; b"identity" for none of these.

    None when it refuses identity: then it must be left as it is.

    Args:
        accepted: value of Accept-Encoding.
        codings: what can be made, best first.
    """
    if not coding_quality(accepted, b"identity"):
        return None
    best, most = b"identity", 0.0
    for coding in codings:
        quality = coding_quality(accepted, coding)
        if quality > most:
            best, most = coding, quality
    return best


@frozen
class Types:
    """Media types, "text/html", "text/*" or "application/*+json" alike."""

    names: frozenset[bytes]
    families: frozenset[bytes]
    suffixes: tuple[tuple[bytes, bytes], ...]

    @classmethod
    def of(cls, texts: Sequence[str]) -> Types:
        """Read them.  Raises ValueError with a plain sentence."""
        names, families, suffixes = set(), set(), []
        for text in texts:
            family, slash, name = (
                text.lower().encode("latin-1", "replace").partition(b"/")
            )
            if not family or not slash or not name or b"*" in family + name[1:]:
                raise ValueError(f'"{text}" is not a media type')
            if name == b"*":
                families.add(family)
            elif name.startswith(b"*"):
                suffixes.append((family + b"/", name[1:]))
            else:
                names.add(family + b"/" + name)
        return cls(frozenset(names), frozenset(families), tuple(suffixes))

    def match(self, content_type: bytes) -> bool:
        """Whether a Content-Type is one of them."""
        parsed = parse_media_type(content_type)
        if parsed is None:
            return False
        name = parsed[0].lower()
        return (
            name in self.names
            or name.partition(b"/")[0] in self.families
            or any(name.startswith(a) and name.endswith(b) for a, b in self.suffixes)
        )


def may_code(reply: Reply, types: Types, min_bytes: int) -> bool:
    """Whether an answer is worth coding, and nothing forbids it."""
    if reply.status not in _STATUSES or reply.stream is None:
        return False
    if reply.length is not None and reply.length < min_bytes:
        return False
    content_type = reply.get(b"content-type")
    if content_type is None or not types.match(content_type):
        return False
    if any(reply.get(name) is not None for name in _FORBIDDING):
        return False
    control = reply.get(b"cache-control")
    return control is None or b"no-transform" not in parse_cache_control(control)


def vary_on_coding(reply: Reply) -> None:
    """Say that another client may get another coding."""
    vary = reply.get(b"vary")
    names = [name.lower() for name in split_list(vary or b"")]
    if b"*" not in names and b"accept-encoding" not in names:
        reply.set(b"Vary", vary + b", Accept-Encoding" if vary else b"Accept-Encoding")


def code(reply: Reply, coding: bytes, coder: Coder) -> None:
    """Have an answer coded on its way."""
    etag = reply.get(b"etag")
    if etag is not None and not etag.startswith(b"W/"):
        reply.set(b"ETag", b"W/" + etag)
    reply.set(b"Accept-Ranges", None)
    reply.fields = (*reply.fields, (b"Content-Encoding", coding))
    reply.length = None
    reply.coder = coder


def update_not_modified(reply: Reply, asked: bytes | None) -> None:
    """Let a 304 speak of the coded copy that it was asked about.

    Args:
        asked: the If-None-Match that it answers.
    """
    if reply.get(b"vary") is not None:
        vary_on_coding(reply)
    etag = parse_etag(reply.get(b"etag") or b"")
    if etag is not None and asked is not None and not etag.weak:
        tags = parse_etags(asked)
        weakened = ETag(etag.opaque, weak=True)
        if weakened in tags and etag not in tags:
            reply.set(b"ETag", bytes(weakened))
