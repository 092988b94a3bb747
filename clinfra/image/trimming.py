"""Find the border of one colour that surrounds some pictures."""

from __future__ import annotations

from PIL import Image


def content(
    picture: Image.Image, corner: tuple[float, float], tolerance: int
) -> tuple[int, int, int, int] | None:
    """Return the box of what is not border; None when all of it is.

    Args:
        picture: in a workable mode.
        corner: which corner has the border's colour, as 0 or 1 across and down.
        tolerance: by how much each channel of a border may differ, 0 to 255.
    """
    # Colours of what is invisible mean nothing.
    bands = picture.convert("RGBa") if picture.mode == "RGBA" else picture
    x, y = (int(at * (side - 1)) for at, side in zip(corner, picture.size, strict=True))
    boxes: list[tuple[int, int, int, int]] = []
    for band in bands.split():
        colour = band.getpixel((x, y))
        assert isinstance(colour, int)
        differs = [abs(value - colour) > tolerance and 255 for value in range(256)]
        box = band.point(differs).getbbox()
        if box is not None:
            boxes.append(box)
    if not boxes:
        return None
    lefts, uppers, rights, lowers = zip(*boxes, strict=True)
    return min(lefts), min(uppers), max(rights), max(lowers)
