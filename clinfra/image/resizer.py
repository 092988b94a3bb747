"""Lanczos resizing: by SIMD where it proves itself, else by Pillow.

cykooz_resizer reads Pillow's pictures in place, which ties it to how Pillow lays them
out.  So it has to pass a small examination in every process before it is used, and is
checked against Pillow's own resizer, the reference.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

from PIL import Image, ImageChops, ImageStat

from clinfra.image.geometry import Box

if TYPE_CHECKING:
    from cykooz_resizer import Resizer

_SIMD_MODES: Final = frozenset({"L", "RGB", "RGBA", "CMYK"})
_EXAM_MAX_RMS: Final = 1.5
"""Root mean square of what may differ in the examination, out of 255 (45 dB)."""


def resize(picture: Image.Image, size: tuple[int, int], box: Box) -> Image.Image:
    """Return a box of a picture resized, in the same mode."""
    if box == (0, 0, *picture.size) and size == picture.size:
        return picture
    simd = _simd()
    if simd is not None and picture.mode in _SIMD_MODES:
        return _resize_simd(simd, picture, size, box)
    return _resize_pillow(picture, size, box)


def uses_simd() -> bool:
    """Tell whether the fast resizer is there and passed."""
    return _simd() is not None


def _resize_pillow(
    picture: Image.Image, size: tuple[int, int], box: Box
) -> Image.Image:
    return picture.resize(size, Image.Resampling.LANCZOS, box, reducing_gap=2.0)


def _resize_simd(
    simd: Resizer, picture: Image.Image, size: tuple[int, int], box: Box
) -> Image.Image:
    from cykooz_resizer import CropBox, FilterType, ResizeAlg, ResizeOptions

    left, upper, right, lower = box
    out = Image.new(picture.mode, size)
    simd.resize_pil(
        picture,
        out,
        ResizeOptions(
            resize_alg=ResizeAlg.convolution(FilterType.lanczos3),
            crop_box=CropBox(left, upper, right - left, lower - upper),
            use_alpha=picture.mode == "RGBA",
        ),
    )
    return out


def _upper_half(value: int) -> int:
    return value // 2 + 128


@lru_cache(maxsize=1)
def _simd() -> Resizer | None:
    """Return the process's resizer if it agrees with Pillow in every mode."""
    try:
        from cykooz_resizer import Resizer

        simd = Resizer()
        # Never transparent: colours mean nothing there, and may differ.
        gradient = Image.radial_gradient("L").resize((97, 97)).point(_upper_half)
        for mode in sorted(_SIMD_MODES):
            bands = [
                gradient.rotate(90 * number)
                for number in range(Image.getmodebands(mode))
            ]
            picture = Image.merge(mode, bands)
            box = (3.25, 2.5, 90.75, 85.0)
            ours = _resize_simd(simd, picture, (31, 19), box)
            reference = picture.resize((31, 19), Image.Resampling.LANCZOS, box)
            difference = ImageStat.Stat(ImageChops.difference(ours, reference))
            if max(difference.rms) > _EXAM_MAX_RMS:
                return None
    except Exception:
        # Missing, or not made for this Pillow: slower is better than wrong.
        return None
    return simd
