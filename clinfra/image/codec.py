"""Decode once, make every size, encode: the only module that touches pixels.

Pillow and its resizer, no Twisted.  Meant to run in a worker process, one picture at
a time per process (Pillow's tolerance of truncated files is a global switch).

The order of things matters for speed and quality.  A JPEG is decoded at the smallest
DCT scale that leaves headroom over the largest size; sizes are made from largest to
smallest, each from the smallest picture at hand that still has headroom; colour,
transparency and orientation are settled on the small pictures.  The same bytes and the
same job always give the same results.
"""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from PIL import Image, ImageCms, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from clinfra.image import exif, metadata, sniff
from clinfra.image.geometry import (
    Box,
    Level,
    Target,
    choose_level,
    level_of,
    make_target,
    shrink_factor,
)
from clinfra.image.job import BadImage, Bounds, Job, Rendered, Rendition, ResultTooLarge
from clinfra.image.resizer import resize

# Opened by class and not by Image.open: no other plugin ever sees the bytes, and the
# several pictures in one file that some cameras write (MPO) are a JPEG and a tail.
_OPENERS: Final[dict[str, type[ImageFile.ImageFile]]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "GIF": GifImageFile,
    "TIFF": TiffImageFile,
    "BMP": BmpImageFile,
}

# EXIF orientation → how to turn the picture upright.
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Info = dict[str, int | str]
Span = tuple[int, int, str, int, int]
"""Offset, length, media type, width and height of something made."""

_BACKGROUND: Final = "white"
_MAX_PROFILE_BYTES: Final = 4 << 20


def render(source: int | bytes, job: Job) -> Rendered:
    """Make every size of one picture.

    Args:
        source: an open file descriptor, or the bytes.

    Raises:
        BadImage: not a picture that is accepted, or one that cannot be decoded.
        ResultTooLarge: a size of it would have too many pixels.
    """
    with os.fdopen(os.memfd_create("renditions"), "wb") as sink:
        info, spans = render_to(source, job, sink)
        renditions = {
            name: Rendition(os.pread(sink.fileno(), span[1], span[0]), *span[2:])
            for name, span in spans.items()
        }
    return Rendered(info, renditions)


def render_to(
    source: int | bytes, job: Job, sink: io.BufferedWriter
) -> tuple[Info, dict[str, Span]]:
    """Make every size of one picture and write them one after the other.

    Args:
        sink: a real file, best a memfd: only then the encoder lets other threads run.

    Returns:
        The info, and name of a recipe → where in the sink it is and what.

    Raises:
        BadImage: not a picture that is accepted, or one that cannot be decoded.
        ResultTooLarge: a size of it would have too many pixels.
    """
    try:
        with warnings.catch_warnings():
            # What Pillow only warns of is no reason to refuse or to write to a log.
            warnings.simplefilter("ignore")
            return _render(_read(source, job.bounds.max_bytes), job, sink)
    except (BadImage, ResultTooLarge):
        raise
    except MemoryError as error:
        raise BadImage("needs more memory than a worker has") from error
    except Exception as error:
        # A decoder given hostile bytes may raise anything at all.
        raise BadImage(f"{type(error).__name__}: {error}") from error


def _read(source: int | bytes, max_bytes: int) -> bytes:
    """Return the whole of a source; a descriptor may be anywhere, and stays there."""
    length = os.fstat(source).st_size if isinstance(source, int) else len(source)
    if length > max_bytes:
        raise BadImage(f"{length} bytes")
    return os.pread(source, length, 0) if isinstance(source, int) else source


def _render(
    data: bytes, job: Job, sink: io.BufferedWriter
) -> tuple[Info, dict[str, Span]]:
    image = _open(data, job.bounds)
    block = image.info.get("exif", b"")
    camera = exif.parse(block if isinstance(block, bytes) else b"")
    # Pillow turns TIFF files upright by itself.
    orientation = 1 if image.format == "TIFF" else camera.orientation
    targets = [make_target(size, *image.size, orientation) for size in job.recipes]
    for target in targets:
        if target.pixels > job.bounds.max_size_pixels:
            raise ResultTooLarge(target.name)
    info = _info(image, camera, job, hashlib.sha256(data).hexdigest())
    spans: dict[str, Span] = {}
    for name, picture in _pictures(image, targets):
        start = sink.tell()
        upright = _turn(picture, orientation)
        upright.save(
            sink,
            "JPEG",
            quality=job.quality,
            optimize=True,
            subsampling="4:2:0",
            comment=b"",
        )
        length = sink.seek(0, os.SEEK_END) - start
        spans[name] = (start, length, "image/jpeg", *upright.size)
    return info, spans


def _open(data: bytes, bounds: Bounds) -> ImageFile.ImageFile:
    """Open a picture without decoding it, if it is within bounds."""
    kind = sniff.sniff(data[: sniff.HEAD_BYTES])
    if kind is None:
        raise BadImage("not a known format")
    if kind.format not in bounds.formats:
        raise BadImage(f"format {kind.format}")
    if kind.format == "JPEG" and sniff.scans(data, bounds.max_scans + 1) > (
        bounds.max_scans
    ):
        raise BadImage(f"more than {bounds.max_scans} scans")
    # As the original's repair did: what there is of a JPEG is better than nothing.
    ImageFile.LOAD_TRUNCATED_IMAGES = kind.format == "JPEG"
    Image.MAX_IMAGE_PIXELS = bounds.max_pixels
    image = _OPENERS[kind.format](io.BytesIO(data))
    width, height = image.size
    if not (width > 0 and height > 0):
        raise BadImage(f"{width}x{height} pixels")
    if (
        width > bounds.max_width
        or height > bounds.max_height
        or width * height > bounds.max_pixels
    ):
        raise BadImage(f"{width}x{height} pixels")
    return image


def _info(
    image: ImageFile.ImageFile, camera: exif.Exif, job: Job, checksum: str
) -> Info:
    info: Info = {
        **metadata.picture_info(image.info),
        **metadata.exif_info(camera, publish=job.publish_exif),
        "width": image.width,
        "height": image.height,
        "format": image.format or "",
        "mode": image.mode,
        "checksum": checksum,
    }
    if job.filename is not None:
        info["filename"] = job.filename
    return info


def _pictures(
    image: ImageFile.ImageFile, targets: Sequence[Target]
) -> list[tuple[str, Image.Image]]:
    """Decode, and return every target's pixels, in stored orientation."""
    if not targets:
        return []
    width, height = image.size
    factor = shrink_factor(targets) if image.format == "JPEG" else 1
    if factor > 1:
        # The size asked for names the factor: draft() divides by it again.
        image.draft(None, (width // factor, height // factor))
        factor = image.decoderconfig[0]
    profile = image.info.get("icc_profile")
    image.load()
    levels = [Level((0, 0, width, height), 1 / factor, 1 / factor)]
    pictures: list[Image.Image] = [_resizable(image)]
    made = []
    for target in sorted(targets, key=lambda each: each.pixels, reverse=True):
        index = choose_level(levels, target)
        picture = _cut(pictures[index], levels[index].window(target.box), target)
        if index == 0:
            picture = _displayable(picture, profile)
        levels.append(level_of(target))
        pictures.append(picture)
        made.append((target.name, picture))
    return made


def _resizable(image: Image.Image) -> Image.Image:
    """Return the picture in a mode whose values may be averaged."""
    mode = image.mode
    if mode == "P":
        return image.convert("RGBA" if "transparency" in image.info else "RGB")
    if mode in ("PA", "LA", "La", "RGBa"):
        return image.convert("RGBA")
    if mode == "1":
        return image.convert("L")
    if mode.startswith("I;16"):
        return image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if mode in ("I", "F"):
        return _to_8_bits(image)
    if mode in ("L", "RGB", "RGBA") and "transparency" in image.info:
        return image.convert("RGBA")
    if mode in ("L", "RGB", "RGBA", "CMYK", "LAB"):
        return image
    return image.convert("RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Return wide or real values as 256 greys.

    No file says which value is white: the next of the usual ones above the largest is
    taken, and what goes beyond all of them, or below zero, is spread over the range.
    """
    low, high = image.getextrema()
    assert isinstance(low, int | float) and isinstance(high, int | float)
    if low >= 0:
        whites = (255, 65535) if image.mode == "I" else (1, 255, 65535)
        low, high = 0, next((white for white in whites if white >= high), high)
    scale = 255 / (high - low) if high > low else 0.0
    return image.point(lambda value: value * scale + -low * scale).convert("L")


def _cut(picture: Image.Image, window: Box, target: Target) -> Image.Image:
    left, upper, right, lower = window
    box = (left, upper, min(right, picture.width), min(lower, picture.height))
    return resize(picture, (target.width, target.height), box)


def _displayable(picture: Image.Image, profile: object) -> Image.Image:
    """Return the picture as sRGB or grey, without transparency."""
    if picture.mode == "RGBA":
        canvas = Image.new("RGB", picture.size, _BACKGROUND)
        canvas.paste(picture, mask=picture.getchannel("A"))
        picture = canvas
    if picture.mode == "L":
        return picture
    transform = None
    if isinstance(profile, bytes) and len(profile) <= _MAX_PROFILE_BYTES:
        transform = _to_srgb(profile, picture.mode)
    if transform is None and picture.mode == "LAB":
        transform = _lab_to_srgb()
    if transform is not None:
        converted = ImageCms.applyTransform(picture, transform)
        assert converted is not None
        return converted
    return picture.convert("RGB")


@lru_cache(maxsize=8)
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the way from a profile to sRGB; None when there is none or no need."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if mode == "RGB" and "sRGB" in ImageCms.getProfileDescription(source):
            return None
        return ImageCms.buildTransform(
            source,
            _srgb(),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        # A broken profile, or one of another kind than the picture: as if untagged.
        return None


@lru_cache(maxsize=1)
def _lab_to_srgb() -> ImageCms.ImageCmsTransform:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    return ImageCms.buildTransform(lab, _srgb(), "LAB", "RGB")


@lru_cache(maxsize=1)
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _turn(picture: Image.Image, orientation: int) -> Image.Image:
    method = _UPRIGHT.get(orientation)
    return picture if method is None else picture.transpose(method)
