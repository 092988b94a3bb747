"""Open an upload, frame by frame, without decoding more of it than is needed.

What a picture may be is checked before any of it is decoded.  Pillow keeps its
tolerance of truncated files, and the most pixels it decodes, in globals: one picture
at a time per process.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from itertools import takewhile
from typing import Final

import PIL.Image
from PIL import AvifImagePlugin, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from clinfra.image import colour, exif, gif, hazards, heic, png, sniff, tiff, webp
from clinfra.image.geometry import Level, Target, average_factor, shrink_factor
from clinfra.image.job import BadImage, Bounds

# Decoding in one thread: a worker is one process of one core.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1

# Opened by class and not by Image.open: no other plugin ever sees the bytes, and the
# several pictures in one file that some cameras write (MPO) are a JPEG and a tail.
_OPENERS: Final[dict[str, type[ImageFile.ImageFile]]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "GIF": GifImageFile,
    "WEBP": WebPImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
    "TIFF": TiffImageFile,
    "BMP": BmpImageFile,
}

_MOVING: Final = frozenset({"GIF", "WEBP", "AVIF", "PNG"})
"""Formats whose frames are an animation, and must be decoded one after the other."""

_LARGE_PIXELS: Final = 16 << 20
"""From here on pictures of other formats are reduced before all else, for memory."""

_MOVING_PIXELS: Final = 8_000_000
"""Of a frame: beyond the first, several of them are in memory."""

_COUNTED_FRAMES: Final = 10_000
_COUNTED_PAGES: Final = 1000
"""Frames and pages are counted up to here."""


class _Bytes(io.BytesIO):
    """A file in memory that knows whether more was read than there is."""

    exhausted = False

    def read(self, size: int | None = -1, /) -> bytes:
        found = super().read(size)
        self.exhausted = self.exhausted or not found
        return found


class Source:
    """An upload that is open.

    Attributes:
        format: Pillow's name of it.
        image: the frame at hand as Pillow has opened it.
        info: what Pillow read beside the pixels of the first frame.
        camera: its EXIF.
        orientation: EXIF orientation, 1 to 8.
        width: pixels of the frame at hand as stored.
        height: pixels of the frame at hand as stored.
        profile: its ICC profile, if it has one.
    """

    def __init__(self, data: bytes, format_name: str, bounds: Bounds) -> None:
        self.format = format_name
        self._data = data
        self._bounds = bounds
        self._decoded = False
        # What there is of it is better than nothing, as the original's repair did.
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        self._open()
        self.info: Mapping[str | tuple[int, int], object] = dict(self.image.info)
        block = self.info.get("exif", b"")
        self.camera = exif.parse(block if isinstance(block, bytes) else b"")
        # Pillow turns TIFF files upright by itself.
        self.orientation = 1 if format_name == "TIFF" else self.camera.orientation
        self._measure()

    def _measure(self) -> None:
        self.width, self.height = self.image.size
        self.profile: object = self.image.info.get("icc_profile")
        self._bounds.check_size(self.width, self.height, known=True)

    def _open(self) -> None:
        """Have Pillow read what stands before the pixels."""
        self._file = _Bytes(self._data)
        self.image = _opener(self.format)(self._file)
        if isinstance(self.image, JpegImageFile):
            # All at once: at the end of each piece its decoder goes slower.
            self.image.decodermaxblock = len(self._data)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the frame at hand as stored."""
        return self.width, self.height

    @property
    def _scalable(self) -> bool:
        """Whether it can be decoded at a fraction of its size, for less work."""
        return self.format == "JPEG"

    def reduction(self, targets: Iterable[Target]) -> int:
        """Return by how much it can be reduced for what is to be made of it."""
        if self._scalable:
            return shrink_factor(targets)
        large = self.width * self.height > _LARGE_PIXELS
        return average_factor(targets) if large else 1

    @property
    def truncated(self) -> bool:
        """Whether decoding has missed the end of the file."""
        return self._decoded and self._file.exhausted

    @cached_property
    def frames(self) -> int:
        """How many frames or pages it has."""
        if self.format == "GIF":
            return gif.frames(self._data, _COUNTED_FRAMES) or 1
        if self.format == "TIFF":
            pages = tiff.pages(self._data, _COUNTED_PAGES)
            return max(sum(1 for page in takewhile(_is_harmless, pages)), 1)
        return int(getattr(self.image, "n_frames", 1))

    @property
    def first_moving(self) -> int:
        """Which frame an animation begins with: a PNG may show another at rest."""
        return int(bool(getattr(self.image, "default_image", False)))

    @property
    def moves(self) -> bool:
        """Whether it is an animation that is within bounds."""
        return (
            self.format in _MOVING
            and 1 < self.frames <= self._bounds.max_frames
            and self.width * self.height <= _MOVING_PIXELS
            and self.frames * self.width * self.height <= self._bounds.max_film_pixels
        )

    def reaches(self, frame: int) -> bool:
        """Tell whether there is a frame, and that it costs not too much to get at."""
        if frame == 0:
            return True
        if frame >= self.frames:
            return False
        pixels = self.width * self.height
        return self.format not in _MOVING or (
            pixels <= _MOVING_PIXELS
            and (frame + 1) * pixels <= self._bounds.max_film_pixels
        )

    def go_to(self, frame: int) -> None:
        """Take another frame, one that it `reaches`.

        Raises:
            BadImage: it is larger than what is accepted.
        """
        if frame != self.image.tell():
            self.image.seek(frame)
            self._measure()

    def decode(self, factor: int = 1) -> tuple[PIL.Image.Image, Level]:
        """Return the frame at hand, in a workable mode, and where it lies.

        Args:
            factor: reduce it by so much at most, see `reduction`.
        """
        if self._scalable and self._decoded:
            self._open()
        if factor > 1 and isinstance(self.image, JpegImageFile):
            # The size asked for names the factor: draft() divides by it again.
            self.image.draft(None, (self.width // factor, self.height // factor))
            factor = self.image.decoderconfig[0]
        # Of later frames either all is there, or the animation ends before them; and
        # of a HEIC there is nothing to see before its end.
        partly = self.image.tell() == 0 and self.format != "HEIC"
        ImageFile.LOAD_TRUNCATED_IMAGES = partly
        self._file.exhausted = False
        picture = self._pixels(factor)
        self._decoded = True
        if picture is self.image and self.format in _MOVING and self.frames > 1:
            # The next frame may be painted over it.
            picture = picture.copy()
        return picture, Level((0, 0, *self.size), 1 / factor, 1 / factor)

    def _pixels(self, factor: int) -> PIL.Image.Image:
        image = self.image
        if isinstance(image, PngImageFile) and png.can_read(image, self._data):
            strips = png.Strips(image, self._data, factor)
            picture = colour.assembled(strips, self.size, factor)
            self._file.exhausted = strips.truncated
            return picture
        if isinstance(image, WebPImageFile) and webp.can_decode(image):
            size = -(-self.width // factor), -(-self.height // factor)
            return colour.workable(webp.decode(self._data, *size))
        image.load()
        if factor > 1 and not self._scalable:
            return colour.averaged(image, factor)
        return colour.workable(image)


def open_source(data: bytes, bounds: Bounds) -> Source:
    """Open a picture without decoding it.

    Raises:
        BadImage: it is nothing that is accepted.
    """
    kind = sniff.sniff(data)
    if kind is None:
        raise BadImage("not a known format")
    if kind.format not in heic.openable(bounds.formats):
        raise BadImage(f"format {kind.format}")
    bounds.check_size(kind.width, kind.height)
    reason = hazards.hazard(data, kind, bounds.max_scans)
    if reason is not None:
        raise BadImage(reason)
    if sniff.memory_bytes(kind, len(data)) > bounds.max_memory:
        raise BadImage(f"{kind.width}x{kind.height} {kind.format}: too much to decode")
    PIL.Image.MAX_IMAGE_PIXELS = bounds.max_pixels
    return Source(data, kind.format, bounds)


def _opener(format_name: str) -> Callable[[io.BytesIO], ImageFile.ImageFile]:
    return heic.opener() if format_name == "HEIC" else _OPENERS[format_name]


def _is_harmless(page: tiff.Page) -> bool:
    return page.is_harmless
