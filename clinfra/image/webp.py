"""WebP decoded at the size that is needed.

Pillow opens a WebP, but decodes all of it and keeps it four times over: 770 MB for 49
megapixels.  The library that comes with Pillow can do with one row at a time and scale
as it goes; here it is asked to.  Its structures and their version have been the same
since 2012; it says so itself when they are not, and has to pass a small examination in
every process before it is used.  Without it pictures are decoded by Pillow.
"""

from __future__ import annotations

import ctypes
import io
from functools import lru_cache
from typing import Final

from PIL import Image, ImageChops, ImageStat
from PIL.WebPImagePlugin import WebPImageFile

_ABI: Final = 0x0209
_RGB: Final = 0
_RGBA: Final = 1
_OK: Final = 0
_EXAM_MAX_RMS: Final = 2.0


class _Features(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int) for name in ("width", "height")),
        *((name, ctypes.c_int) for name in ("has_alpha", "has_animation", "format")),
        ("pad", ctypes.c_uint32 * 5),
    )


class _Rgba(ctypes.Structure):
    _fields_ = (
        ("pixels", ctypes.c_void_p),
        ("stride", ctypes.c_int),
        ("size", ctypes.c_size_t),
    )


class _Pixels(ctypes.Union):
    # The other member, for planes, is larger.
    _fields_ = (("rgba", _Rgba), ("planes", ctypes.c_uint8 * 80))


class _Buffer(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int) for name in ("colorspace", "width", "height")),
        ("is_external_memory", ctypes.c_int),
        ("pixels", _Pixels),
        ("pad", ctypes.c_uint32 * 4),
        ("private_memory", ctypes.c_void_p),
    )


class _Options(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int) for name in ("bypass_filtering", "no_fancy_upsampling")),
        *((name, ctypes.c_int) for name in ("use_cropping", "crop_left", "crop_top")),
        *((name, ctypes.c_int) for name in ("crop_width", "crop_height")),
        *((name, ctypes.c_int) for name in ("use_scaling", "width", "height")),
        *((name, ctypes.c_int) for name in ("use_threads", "dithering_strength")),
        *((name, ctypes.c_int) for name in ("flip", "alpha_dithering_strength")),
        ("pad", ctypes.c_uint32 * 5),
    )


class _Config(ctypes.Structure):
    _fields_ = (("input", _Features), ("output", _Buffer), ("options", _Options))


def can_decode(image: WebPImageFile) -> bool:
    """Tell whether `decode` is for a picture that Pillow has opened."""
    return image.n_frames == 1 and _library() is not None


def decode(data: bytes, width: int, height: int) -> Image.Image:
    """Return a picture, RGB or RGBA, scaled to some size on the way.

    Args:
        data: the whole file.
        width: pixels, no more than it has.
        height: pixels, no more than it has.

    Raises:
        OSError: it cannot be decoded.
    """
    library = _library()
    assert library is not None
    return _decoded(library, data, width, height)


def _decoded(library: ctypes.CDLL, data: bytes, width: int, height: int) -> Image.Image:
    config = _Config()
    if not library.WebPInitDecoderConfigInternal(ctypes.byref(config), _ABI):
        raise OSError("another version of libwebp")
    features = ctypes.byref(config.input)
    if library.WebPGetFeaturesInternal(data, len(data), features, _ABI) != _OK:
        raise OSError("no WebP")
    mode = "RGBA" if config.input.has_alpha else "RGB"
    stride = width * len(mode)
    pixels = bytearray(stride * height)
    place = (ctypes.c_char * len(pixels)).from_buffer(pixels)
    config.output.colorspace = _RGBA if config.input.has_alpha else _RGB
    config.output.is_external_memory = 1
    config.output.pixels.rgba.pixels = ctypes.addressof(place)
    config.output.pixels.rgba.stride = stride
    config.output.pixels.rgba.size = stride * height
    if (width, height) != (config.input.width, config.input.height):
        config.options.use_scaling = 1
        config.options.width, config.options.height = width, height
    status = library.WebPDecode(data, len(data), ctypes.byref(config))
    if status != _OK:
        raise OSError(f"libwebp: status {status}")
    return Image.frombuffer(mode, (width, height), pixels, "raw", mode, 0, 1)


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | None:
    """Return the library if it does what it should."""
    try:
        from PIL import _webp

        # Found through what Pillow has loaded: wherever and whatever that is.
        library = ctypes.CDLL(_webp.__file__)
        size = ctypes.c_size_t
        pointer = ctypes.c_void_p
        library.WebPInitDecoderConfigInternal.argtypes = (pointer, ctypes.c_int)
        library.WebPGetFeaturesInternal.argtypes = (
            ctypes.c_char_p,
            size,
            pointer,
            ctypes.c_int,
        )
        library.WebPDecode.argtypes = (ctypes.c_char_p, size, pointer)
        return library if _passes(library) else None
    except (ImportError, OSError, AttributeError):
        return None


def _passes(library: ctypes.CDLL) -> bool:
    gradient = Image.linear_gradient("L").resize((64, 48))
    picture = Image.merge("RGB", (gradient, gradient.rotate(180), gradient))
    out = io.BytesIO()
    picture.save(out, "WEBP", quality=90)
    data = out.getvalue()
    for size in ((64, 48), (32, 24)):
        ours = _decoded(library, data, *size)
        reference = Image.open(io.BytesIO(data)).convert("RGB")
        reference = reference.resize(size, Image.Resampling.BOX)
        apart = ImageStat.Stat(ImageChops.difference(ours, reference)).rms
        if ours.size != size or max(apart) > _EXAM_MAX_RMS:
            return False
    return True
