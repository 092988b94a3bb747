"""Open an upload, frame by frame, without decoding more of it than is needed.

What a picture may be is checked before any of it is decoded.  Pillow keeps its
tolerance of truncated files, and the most pixels it decodes, in globals: one picture
at a time per process.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Final

import PIL.Image
from PIL import ImageFile
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from clinfra.image import animation, colour, exif, sniff
from clinfra.image.geometry import Level, Target, average_factor, shrink_factor
from clinfra.image.job import BadImage, Bounds

# Opened by class and not by Image.open: no other plugin ever sees the bytes, and the
# several pictures in one file that some cameras write (MPO) are a JPEG and a tail.
_OPENERS: Final[dict[str, type[ImageFile.ImageFile]]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "GIF": GifImageFile,
    "WEBP": WebPImageFile,
    "AVIF": AvifImageFile,
    "TIFF": TiffImageFile,
    "BMP": BmpImageFile,
}

_MOVING: Final = frozenset({"GIF", "WEBP", "AVIF", "PNG"})
"""Formats whose frames are an animation, and must be decoded one after the other."""

_LARGE_PIXELS: Final = 16 << 20
"""From here on pictures of other formats are reduced before all else, for memory."""

_COUNTED_FRAMES: Final = 10_000
_COUNTED_PAGES: Final = 1000
"""Frames and pages are counted up to here; to turn a page takes 0.1 ms."""


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
        self._file = _Bytes(data)
        # What there is of a JPEG is better than nothing, as the original's repair did.
        ImageFile.LOAD_TRUNCATED_IMAGES = self._scalable
        self.image = _OPENERS[format_name](self._file)
        self.info: Mapping[str | tuple[int, int], object] = dict(self.image.info)
        block = self.info.get("exif", b"")
        self.camera = exif.parse(block if isinstance(block, bytes) else b"")
        # Pillow turns TIFF files upright by itself.
        self.orientation = 1 if format_name == "TIFF" else self.camera.orientation
        self._measure()

    def _measure(self) -> None:
        self.width, self.height = self.image.size
        self.profile: object = self.image.info.get("icc_profile")
        bounds = self._bounds
        if not (
            0 < self.width <= bounds.max_width
            and 0 < self.height <= bounds.max_height
            and self.width * self.height <= bounds.max_pixels
        ):
            raise BadImage(f"{self.width}x{self.height} pixels")

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
        return self._scalable and self._decoded and self._file.exhausted

    @cached_property
    def frames(self) -> int:
        """How many frames or pages it has."""
        if self.format == "GIF":
            return animation.gif_frames(self._data, _COUNTED_FRAMES)
        if self.format == "TIFF":
            return self._pages()
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
            and self.frames * self.width * self.height <= self._bounds.max_film_pixels
        )

    def reaches(self, frame: int) -> bool:
        """Tell whether there is a frame, and that it costs not too much to get at."""
        if frame == 0:
            return True
        pixels = (frame + 1) * self.width * self.height
        return frame < self.frames and (
            self.format not in _MOVING or pixels <= self._bounds.max_film_pixels
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
            self._file = _Bytes(self._data)
            self.image = _OPENERS[self.format](self._file)
        if factor > 1 and isinstance(self.image, JpegImageFile):
            # The size asked for names the factor: draft() divides by it again.
            self.image.draft(None, (self.width // factor, self.height // factor))
            factor = self.image.decoderconfig[0]
        self._file.exhausted = False
        self.image.load()
        self._decoded = True
        if factor > 1 and not self._scalable:
            picture = colour.averaged(self.image, factor)
        else:
            picture = colour.workable(self.image)
        if picture is self.image and self.format in _MOVING and self.frames > 1:
            # The next frame may be painted over it.
            picture = picture.copy()
        return picture, Level((0, 0, *self.size), 1 / factor, 1 / factor)

    def _pages(self) -> int:
        # Another one, because going to a page leaves traces.
        image = TiffImageFile(io.BytesIO(self._data))
        count = 1
        try:
            while count < _COUNTED_PAGES:
                image.seek(count)
                count += 1
        except Exception:
            # No more of them, or none that can be read.
            pass
        return count


def open_source(data: bytes, bounds: Bounds) -> Source:
    """Open a picture without decoding it.

    Raises:
        BadImage: it is nothing that is accepted.
    """
    kind = sniff.sniff(data[: sniff.HEAD_BYTES])
    if kind is None:
        raise BadImage("not a known format")
    if kind.format not in bounds.formats or kind.format not in _OPENERS:
        raise BadImage(f"format {kind.format}")
    if kind.format == "JPEG" and sniff.scans(data, bounds.max_scans + 1) > (
        bounds.max_scans
    ):
        raise BadImage(f"more than {bounds.max_scans} scans")
    PIL.Image.MAX_IMAGE_PIXELS = bounds.max_pixels
    return Source(data, kind.format, bounds)
