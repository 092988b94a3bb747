"""The chunked transfer coding of RFC 9112 §7.1, both ways, strictly.

Pure: bytes in, bytes out.  Nothing that another reader of the same bytes could take
for a different framing is accepted: no bare LF, no sign, blank or `0x` in a size.
Extensions are skipped, trailer fields are checked and dropped.
"""

from __future__ import annotations

import re

from clinfra.web.heads import BadHead, parse_fields

LAST_CHUNK = b"0\r\n\r\n"
"""Ends a chunked body, without trailer fields."""

_SIZE_LINE = re.compile(
    rb"([0-9A-Fa-f]{1,16})([ \t]*;[\t\x20-\x7e\x80-\xff]*)?", re.DOTALL
)
_LONGEST_LINE = 4096
_LARGEST_CHUNK = (1 << 63) - 1
_EXTENSION_CREDIT = 16384
"""Bytes of extensions a body may have beyond one per byte of data."""
_LARGEST_TRAILER = 8192
_MOST_TRAILER_FIELDS = 64

# Where in the coding the decoder stands.
_SIZE, _DATA, _DATA_END, _TRAILER, _DONE = range(5)


class BadChunk(Exception):
    """The body is not in the chunked coding; `sentence` may be shown to its sender."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence


class ChunkedDecoder:
    """Takes a chunked body in pieces of any size, gives its data as it comes.

    Keeps no more than one unfinished line (or the trailer) between calls.

    Attributes:
        finished: the end of the body has been seen.
    """

    __slots__ = ("_credit", "_left", "_pending", "_state", "finished")

    def __init__(self) -> None:
        self.finished = False
        self._state = _SIZE
        self._left = 0
        self._pending = b""
        self._credit = _EXTENSION_CREDIT

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """Take the next bytes from the wire.

        Returns:
            The pieces of data in them, none empty, and what came after the end of the
            body, which belongs to the next message (b"" before the end).

        Raises:
            BadChunk: the decoder cannot be used any more.
        """
        if self._pending:
            data = self._pending + data
            self._pending = b""
        pieces: list[bytes] = []
        at = 0
        while True:
            if self._state == _DATA:
                piece = data[at : at + self._left]
                if not piece:
                    break
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
                self._credit += len(piece)
                if not self._left:
                    self._state = _DATA_END
            elif self._state == _DATA_END:
                end = data[at : at + 2]
                if end != b"\r\n":
                    if end == b"\r" or not end:
                        break
                    raise BadChunk("A chunk is longer than its size says.")
                at += 2
                self._state = _SIZE
            elif self._state == _SIZE:
                stop = data.find(b"\r\n", at, at + _LONGEST_LINE)
                if stop < 0:
                    if len(data) - at >= _LONGEST_LINE:
                        raise BadChunk("The line of a chunk's size is too long.")
                    _refuse_bare_lf(data, at)
                    break
                self._size_line(data[at:stop])
                # The line end of an empty last line is looked for from here.
                at = stop if self._state == _TRAILER else stop + 2
            elif self._state == _TRAILER:
                stop = data.find(b"\r\n\r\n", at, at + _LARGEST_TRAILER)
                if stop < 0:
                    if len(data) - at >= _LARGEST_TRAILER:
                        raise BadChunk("The trailer fields are too long.")
                    _refuse_bare_lf(data, at)
                    break
                self._trailer(data[at + 2 : stop + 4])
                at = stop + 4
                self._state = _DONE
                self.finished = True
            else:
                return pieces, data[at:]
        self._pending = data[at:]
        return pieces, b""

    def _size_line(self, line: bytes) -> None:
        match = _SIZE_LINE.fullmatch(line)
        if match is None:
            raise BadChunk("The size of a chunk is not a hexadecimal number.")
        size = int(match[1], 16)
        if size > _LARGEST_CHUNK:
            raise BadChunk("The size of a chunk is too large.")
        if match[2]:
            self._credit -= len(match[2])
            if self._credit < 0:
                raise BadChunk("There are more chunk extensions than data.")
        self._left = size
        self._state = _DATA if size else _TRAILER

    def _trailer(self, block: bytes) -> None:
        if len(block) > 2:
            try:
                parse_fields(block, max_fields=_MOST_TRAILER_FIELDS)
            except BadHead as bad:
                raise BadChunk(f"The trailer cannot be read: {bad.sentence}") from bad


def _refuse_bare_lf(data: bytes, start: int) -> None:
    """Do not wait for the rest of a line that has ended, for somebody else."""
    if data.count(b"\n", start) != data.count(b"\r\n", start):
        raise BadChunk("The body has a bare LF between its chunks.")


def encode_chunk(data: bytes) -> bytes:
    """Return `data` as one chunk; nothing for b"", which would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""
