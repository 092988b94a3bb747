"""Deflate, by isa-l where it is installed, else by zlib.

Pillow's wheels run on whatever zlib the system has, which is slow; with isa-l reading
takes less than half the time and writing a fifth.  Both give what any reader of PNG
understands; which of them wrote it shows only in some bytes.
"""

from __future__ import annotations

import struct
import zlib
from types import ModuleType
from typing import Protocol

_isal: ModuleType | None
try:
    from isal import isal_zlib as _isal
except ImportError:
    _isal = None

_FAST_LEVEL = 3
"""The best of isa-l's."""

_PLAIN_LEVEL = 6
_BLOCK_BYTES = 65535


class Compressor(Protocol):
    """Takes bytes in pieces."""

    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


class Decompressor(Protocol):
    """Gives bytes in pieces."""

    @property
    def eof(self) -> bool: ...

    @property
    def unconsumed_tail(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class Corrupt(Exception):
    """What was compressed cannot be read any further."""


def is_fast() -> bool:
    """Tell whether isa-l is there."""
    return _isal is not None


def compressor(*, noisy: bool) -> Compressor:
    """Return a new one.

    Args:
        noisy: hardly anything in it comes again, as in a filtered photograph.
    """
    if _isal is not None:
        made: Compressor = _isal.compressobj(_FAST_LEVEL)
        return made
    if noisy:
        # To look for what does not come again takes time and space.
        return zlib.compressobj(1, zlib.DEFLATED, 15, 9, zlib.Z_RLE)
    return zlib.compressobj(_PLAIN_LEVEL)


def decompressor() -> Decompressor:
    """Return a new one for what stands between the head and the sum of a zlib stream.

    A sum that is wrong would only take away what was read already.
    """
    made: Decompressor = (_isal or zlib).decompressobj(-15)
    return made


def inflate(reader: Decompressor, data: bytes, most: int) -> bytes:
    """Return up to `most` further bytes.  Raises Corrupt."""
    try:
        return reader.decompress(data, most)
    except Exception as error:
        # Each library has an error of its own, all alike.
        raise Corrupt(str(error)) from error


def stored(data: bytes) -> bytes:
    """Return a zlib stream of what is not compressed at all."""
    parts: list[bytes | memoryview] = [b"\x78\x01"]
    view = memoryview(data)
    for at in range(0, len(data), _BLOCK_BYTES):
        block = view[at : at + _BLOCK_BYTES]
        last = at + _BLOCK_BYTES >= len(data)
        head = struct.pack("<BHH", last, len(block), len(block) ^ 0xFFFF)
        parts += (head, block)
    parts.append(struct.pack(">I", (_isal or zlib).adler32(data)))
    return b"".join(parts)
