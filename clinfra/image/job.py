"""What is asked of a worker and what it gives back, as values and as JSON.

Pure.  The picture itself and the results never pass through here: they travel as file
descriptors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import attrs
from attrs import frozen

from clinfra.config import ImageConfig
from clinfra.image.sizes import Recipe, parse_recipe, parse_size

_MEZZANINE: Final = "mezzanine"


def rung_name(number: int) -> str:
    """Return the name of a rendition that others are made of later, the largest 0."""
    return f"{_MEZZANINE}-{number + 1}" if number else _MEZZANINE


def is_rung(name: str) -> bool:
    """Tell whether a rendition is there for others to be made of later."""
    return name.startswith(_MEZZANINE)


class BadImage(Exception):
    """These bytes cannot or may not be rendered; `reason` is for the log."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ResultTooLarge(Exception):
    """The picture is fine, but a size of it would have too many pixels."""

    def __init__(self, size_name: str) -> None:
        super().__init__(size_name)
        self.size_name = size_name


class NoSuchFrame(Exception):
    """The picture is fine, but has no such frame or page, or it is too far in it."""

    def __init__(self, size_name: str) -> None:
        super().__init__(size_name)
        self.size_name = size_name


@frozen
class Bounds:
    """What a picture may be, checked before it is decoded.

    Attributes:
        max_memory: bytes that decoding it may take, as far as that can be told.
        max_size_pixels: of one result; of an animation, in all its frames together.
        max_frames: an animation of more is not kept; its first frame is taken.
        max_film_pixels: most pixels of all frames of an upload together for it to be
            kept as an animation, and of those decoded to get at a later frame.
    """

    formats: tuple[str, ...]
    max_bytes: int
    max_width: int
    max_height: int
    max_pixels: int
    max_scans: int
    max_memory: int
    max_size_pixels: int
    max_frames: int
    max_film_pixels: int

    @classmethod
    def of(cls, config: ImageConfig) -> Bounds:
        """Take them from the configuration."""
        return cls(
            formats=tuple(config.formats),
            max_bytes=config.max_bytes,
            max_width=config.max_width,
            max_height=config.max_height,
            max_pixels=config.max_pixels,
            max_scans=config.max_scans,
            max_memory=config.max_memory,
            max_size_pixels=config.max_size_pixels,
            max_frames=config.max_frames,
            max_film_pixels=config.max_film_pixels,
        )

    def check_size(self, width: int, height: int, *, known: bool = False) -> None:
        """Check the size of a picture.

        Args:
            known: zeros are what it is, and not what is not known yet.

        Raises:
            BadImage: it is too large, or nothing.
        """
        if (
            width > self.max_width
            or height > self.max_height
            or width * height > self.max_pixels
            or (known and not (width > 0 and height > 0))
        ):
            raise BadImage(f"{width}x{height} pixels")


@frozen
class Job:
    """One picture to render.

    Attributes:
        recipes: the renditions, each once.
        quality: where a recipe names none, 1 to 100.
        filename: goes into the info.
        publish_exif: put EXIF into the info.
        want_info: describe the picture.  Without, nothing is hashed, read of EXIF but
            the orientation, or looked at for a placeholder, and the info is empty:
            for renditions on demand.
        piece: where in its file the picture is, offset and length; None when it is all
            of it.
        mezzanines: besides the recipes make these, largest first, with names of
            their own (`rung_name`): JPEGs to make renditions on demand of, at less cost
            than of the upload.  They lack what a JPEG has not: transparency, further
            frames, and who made the picture.
    """

    recipes: tuple[Recipe, ...]
    quality: int
    bounds: Bounds
    filename: str | None = None
    publish_exif: bool = True
    want_info: bool = True
    mezzanines: tuple[Recipe, ...] = ()
    piece: tuple[int, int] | None = None

    def to_json(self) -> Mapping[str, Any]:
        """Return what `from_json` reads."""
        values = attrs.asdict(self, recurse=False)
        return {
            **values,
            "recipes": [recipe.name for recipe in self.recipes],
            "bounds": attrs.asdict(self.bounds),
            "mezzanines": [recipe.name for recipe in self.mezzanines],
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Job:
        """Read what `to_json` wrote."""
        bounds = values["bounds"]
        return cls(
            recipes=tuple(map(parse_size, values["recipes"])),
            quality=values["quality"],
            bounds=Bounds(**{**bounds, "formats": tuple(bounds["formats"])}),
            filename=values["filename"],
            publish_exif=values["publish_exif"],
            want_info=values["want_info"],
            mezzanines=tuple(map(parse_recipe, values["mezzanines"])),
            piece=values["piece"] and tuple(values["piece"]),
        )


@frozen
class Rendition:
    """One picture made.

    Attributes:
        body: the encoded picture.
        content_type: its media type.
        width: pixels.
        height: pixels.
    """

    body: bytes
    content_type: str
    width: int
    height: int


@frozen
class Rendered:
    """Everything made of one picture.

    Attributes:
        info: the info JSON, without blob names; empty when the job did not want it.
        renditions: name of a recipe → what was made.
    """

    info: Mapping[str, int | str]
    renditions: Mapping[str, Rendition]

    @property
    def checksum(self) -> str:
        """SHA-256 of the upload, hexadecimal."""
        return str(self.info["checksum"])

    def info_json(self, extra: Mapping[str, object] | None = None) -> bytes:
        """Write the info as the original did."""
        return json.dumps({**self.info, **(extra or {})}).encode("ascii")
