"""PNG: its pixels read in strips and written fast.

Pillow reads the head of a file; here is what it is slow at.  Reading goes strip by
strip, so that a picture which is only wanted smaller is reduced while it is read and
never in memory as a whole; a file that ends early gives what it has.  Writing uses one
filter for the whole picture, chosen by a sample, in place of the best for every row:
a tenth of the time, at a few per cent more or less in size.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO, Final

import attrs
from attrs import define, field
from PIL import Image, ImageChops, _imaging
from PIL.PngImagePlugin import PngImageFile

from clinfra.image import deflating

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_STRIP_BYTES: Final = 1 << 18
_PIECE_BYTES: Final = 1 << 16
_ZLIB_HEAD_BYTES: Final = 2

# Filters.
_NONE: Final = 0
_UP: Final = 2
_AVERAGE: Final = 3
_SAMPLE_ROWS: Final = 16

_MOST_COLOURS: Final = 256
_MOST_INDEXED: Final = 1_000_000
"""Pixels that are looked up in a palette; a million take 50 ms."""

_COLOUR_TYPES: Final = {"L": 0, "RGB": 2, "P": 3, "RGBA": 6}

# Bytes of a filtered pixel → the mode that Pillow undoes such filters in.
_LAYOUTS: Final = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}

# Colour type → how many samples a pixel has.
_SAMPLES: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}

DEPTHS: Final = {
    0: (1, 2, 4, 8, 16),
    2: (8, 16),
    3: (1, 2, 4, 8),
    4: (8, 16),
    6: (8, 16),
}
"""Colour type → bits of a sample."""

# Colour type and bits → mode of pixels smaller than a byte, and what Pillow calls them.
_PALETTE: Final = 3
_SMALL: Final = {
    (0, 1): ("1", "1"),
    (0, 2): ("L", "L;2"),
    (0, 4): ("L", "L;4"),
    (3, 1): ("P", "P;1"),
    (3, 2): ("P", "P;2"),
    (3, 4): ("P", "P;4"),
}


@attrs.frozen
class Head:
    """What the first chunk of a PNG says."""

    width: int
    height: int
    bits: int
    colour_type: int
    interlaced: bool

    @property
    def samples(self) -> int:
        """Numbers per pixel."""
        return _SAMPLES[self.colour_type]

    @property
    def row_bytes(self) -> int:
        """Bytes of a row without its filter."""
        return (self.width * self.samples * self.bits + 7) // 8


def head_of(data: bytes) -> Head | None:
    """Return the head of a PNG whose pixels can be read here; None for others."""
    if data[:8] != _SIGNATURE or data[12:16] != b"IHDR" or len(data) < 29:
        return None
    width, height, bits, colour_type, _, _, interlace = struct.unpack_from(
        ">IIBBBBB", data, 16
    )
    if colour_type not in _SAMPLES or not (width and height):
        return None
    if bits not in DEPTHS[colour_type]:
        return None
    return Head(width, height, bits, colour_type, bool(interlace))


def can_read(image: PngImageFile, data: bytes) -> bool:
    """Tell whether `Strips` can read a picture that Pillow has opened."""
    head = head_of(data)
    return (
        head is not None
        and not head.interlaced
        and image.n_frames == 1
        and image.size == (head.width, head.height)
        # A colour that means transparent would have to be reduced to 8 bits as well.
        and not (head.bits == 16 and "transparency" in image.info)
    )


@define(eq=False)
class Strips:
    """The pixels of a PNG, some rows at a time.

    Args:
        image: as Pillow has opened it; see `can_read`.
        data: the whole file.
        multiple: all strips but the last have a multiple of so many rows.

    Attributes:
        truncated: after reading: there was not enough of it.
    """

    _image: PngImageFile
    _data: bytes
    _multiple: int = 1
    _head: Head = field(init=False)
    truncated: bool = field(init=False, default=False)

    def __attrs_post_init__(self) -> None:
        head = head_of(self._data)
        assert head is not None
        self._head = head

    def __iter__(self) -> Iterator[Image.Image]:
        """Yield strips from above, which together are the picture.

        Fewer when it is truncated, perhaps none.
        """
        # To keep memory is good for large pictures; strips would have it cut to size
        # and grown again each time, at a third more work.
        kept = _imaging.get_blocks_max()
        _imaging.set_blocks_max(0)
        try:
            yield from self._strips()
        finally:
            _imaging.set_blocks_max(kept)

    def _strips(self) -> Iterator[Image.Image]:
        head = self._head
        samples = head.samples if head.bits >= 8 else 1
        layout = _LAYOUTS[samples]
        length = 1 + head.row_bytes
        if head.bits == 16:
            length = 1 + head.row_bytes // 2
        columns = (length - 1) // samples
        before = bytes(length)
        for rows in self._filtered():
            if head.bits == 16:
                rows = _high_bytes(rows, 1 + head.row_bytes)
            # The row before comes along, unfiltered, for filters to refer to.
            count = len(rows) // length
            strip = Image.frombytes(
                layout,
                (columns, count + 1),
                deflating.stored(before + rows),
                "zip",
                layout,
            )
            before = b"\x00" + strip.crop((0, count, columns, count + 1)).tobytes()
            yield self._coloured(strip.crop((0, 1, columns, count + 1)))

    def _coloured(self, strip: Image.Image) -> Image.Image:
        """Return unfiltered bytes as pixels."""
        head, info = self._head, self._image.info
        small = _SMALL.get((head.colour_type, head.bits))
        if small is not None:
            mode, raw_mode = small
            size = head.width, strip.height
            strip = Image.frombytes(mode, size, strip.tobytes(), "raw", raw_mode)
        if head.colour_type == _PALETTE and self._image.palette is not None:
            strip.putpalette(self._image.palette.getdata()[1])
        if "transparency" in info:
            strip.info["transparency"] = info["transparency"]
        return strip

    def _filtered(self) -> Iterator[bytes]:
        """Yield filtered rows, several at a time."""
        length = 1 + self._head.row_bytes
        left = length * self._head.height
        at_once = (
            length * self._multiple * max(_STRIP_BYTES // (length * self._multiple), 1)
        )
        parts: list[bytes] = []
        ready = 0
        for part in self._inflated(at_once):
            parts.append(part)
            ready += len(part)
            while ready >= at_once or ready >= left:
                joined = b"".join(parts)
                wanted = min(at_once, left)
                yield joined[:wanted]
                left -= wanted
                if not left:
                    return
                ready -= wanted
                parts = [joined[wanted:]]
        self.truncated = True
        whole = ready - ready % length
        if whole:
            yield b"".join(parts)[:whole]

    def _inflated(self, at_once: int) -> Iterator[bytes]:
        reader = deflating.decompressor()
        head = _ZLIB_HEAD_BYTES
        try:
            for start, end in self._chunks():
                begin = min(start + head, end)
                head -= begin - start
                for at in range(begin, end, _PIECE_BYTES):
                    data = self._data[at : min(at + _PIECE_BYTES, end)]
                    made = b""
                    while not reader.eof and (data or len(made) == at_once):
                        # Of all that went in some may wait to come out.
                        made = deflating.inflate(reader, data, at_once)
                        data = reader.unconsumed_tail
                        yield made
        except deflating.Corrupt:
            return

    def _chunks(self) -> Iterator[tuple[int, int]]:
        """Yield where compressed pixels begin and end."""
        at, begun = 8, False
        while at + 8 <= len(self._data):
            length, name = struct.unpack_from(">I4s", self._data, at)
            if name == b"IDAT":
                begun = True
                yield at + 8, min(at + 8 + length, len(self._data))
            elif begun:
                return
            at += 12 + length


def _high_bytes(rows: bytes, length: int) -> bytes:
    """Return rows of 16 bits as rows of 8: filters never mix high and low bytes."""
    return b"".join(
        rows[at : at + 1] + rows[at + 1 : at + length : 2]
        for at in range(0, len(rows), length)
    )


def write(picture: Image.Image, sink: BinaryIO, exif: bytes = b"") -> None:
    """Write a picture where a file stands.

    Args:
        picture: L, RGB or RGBA; it becomes a palette and indices when it has few
            colours and is not huge.
        exif: a block to put in.
    """
    colours, alphas, pixels = _few_colours(picture)
    if colours:
        picture = pixels
    samples = len(picture.getbands())
    head = struct.pack(
        ">IIBBBBB", *picture.size, 8, _COLOUR_TYPES[picture.mode], 0, 0, 0
    )
    sink.write(_SIGNATURE)
    _write_chunk(sink, b"IHDR", head)
    if colours:
        _write_chunk(sink, b"PLTE", colours)
    if alphas:
        _write_chunk(sink, b"tRNS", alphas)
    if exif:
        _write_chunk(sink, b"eXIf", exif)
    kind = _NONE if colours else _best_filter(picture)
    packer = deflating.compressor(noisy=kind != _NONE)
    at_once = max(_STRIP_BYTES // (samples * picture.width), 1)
    for upper in range(0, picture.height, at_once):
        rows = _as_filtered(picture, upper, upper + at_once, kind)
        _write_chunk(sink, b"IDAT", packer.compress(rows))
    _write_chunk(sink, b"IDAT", packer.flush())
    _write_chunk(sink, b"IEND", b"")


def _write_chunk(sink: BinaryIO, name: bytes, body: bytes) -> None:
    if body or name != b"IDAT":
        sink.write(struct.pack(">I", len(body)) + name)
        sink.write(body)
        sink.write(struct.pack(">I", zlib.crc32(body, zlib.crc32(name))))


def _few_colours(picture: Image.Image) -> tuple[bytes, bytes, Image.Image]:
    """Return palette, alphas and indices, when they are exactly the picture.

    The palette is empty when they are not, the alphas also when all is opaque.
    """
    nothing = b"", b"", picture
    if picture.mode == "L" or picture.width * picture.height > _MOST_INDEXED:
        return nothing
    full = picture.convert("RGBA")
    counted = full.getcolors(_MOST_COLOURS)
    if counted is None:
        return nothing
    # What is not opaque comes first: alphas are listed up to the last that matters.
    palette = sorted((bytes(_four(each)) for _, each in counted), key=lambda c: c[3])
    places = {struct.unpack("=I", each)[0]: place for place, each in enumerate(palette)}
    indices = bytes(map(places.__getitem__, memoryview(full.tobytes()).cast("I")))
    colours = b"".join(each[:3] for each in palette)
    alphas = bytes(each[3] for each in palette if each[3] < 255)
    return colours, alphas, Image.frombytes("P", picture.size, indices)


def _four(colour: object) -> tuple[int, ...]:
    assert isinstance(colour, tuple)
    return colour


def _best_filter(picture: Image.Image) -> int:
    """Return the filter that makes the least of some rows here and there."""
    least, best = -1, _NONE
    starts = [picture.height * number // 6 for number in (1, 3, 5)]
    for kind in (_AVERAGE, _UP, _NONE):
        packer = deflating.compressor(noisy=kind != _NONE)
        length = sum(
            len(packer.compress(_as_filtered(picture, at, at + _SAMPLE_ROWS, kind)))
            for at in starts
        )
        length += len(packer.flush())
        if least < 0 or length < least:
            least, best = length, kind
    return best


def _as_filtered(picture: Image.Image, upper: int, lower: int, kind: int) -> bytes:
    """Return some rows as a filter of PNG makes them, each behind its number."""
    width, lower = picture.width, min(lower, picture.height)
    rows = picture.crop((0, upper, width, lower))
    if kind != _NONE:
        above = picture.crop((0, upper - 1, width, lower - 1))
        if kind == _AVERAGE:
            left = picture.crop((-1, upper, width - 1, lower))
            above = ImageChops.add(left, above, 2)
        rows = ImageChops.subtract_modulo(rows, above)
    length = 1 + width * len(rows.getbands())
    # Pillow leaves the room behind each row that is needed before it.
    packed = bytearray(1) + rows.tobytes("raw", rows.mode, length)
    packed.pop()
    packed[::length] = bytes((kind,)) * rows.height
    return bytes(packed)
