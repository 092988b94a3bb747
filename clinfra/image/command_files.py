"""Which pictures a command line means, and what their results are called."""

from __future__ import annotations

import glob
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from attrs import frozen

from clinfra.image import sniff
from clinfra.image.job import Rendition
from clinfra.image.sizes import Recipe

_EXTENSIONS = {
    "image/jpeg": "jpg",
    "image/png": "png",
    "image/webp": "webp",
    "image/avif": "avif",
}


@frozen
class Picture:
    """A file to render.

    Attributes:
        path: where it is.
        directory: where its results go.
    """

    path: Path
    directory: Path

    @property
    def claim(self) -> Path:
        """What its results' names begin with; two pictures must not have the same."""
        return self.directory / self.path.stem

    def result(self, recipe: Recipe, content_type: str) -> Path:
        """Return the path of a rendition."""
        extension = _EXTENSIONS.get(content_type, recipe.extension)
        return self.directory / f"{self.path.stem}_{recipe.stem}.{extension}"


def find_pictures(
    given: Sequence[str], recipes: Sequence[Recipe], out: Path | None
) -> Iterator[Picture]:
    """Yield the pictures that arguments mean: files, directories and patterns.

    Of a directory these are the pictures in it and below, but for hidden ones and the
    results of the others; below `out` they keep their places.  Whatever else is
    named is yielded as it is, to be complained of when it is read.
    """
    for argument in given:
        path = Path(argument)
        paths = [path]
        if not path.exists() and glob.has_magic(argument):
            paths = [Path(each) for each in sorted(glob.glob(argument, recursive=True))]
        for each in paths or [path]:
            if each.is_dir():
                yield from _below(each, recipes, out)
            else:
                yield Picture(each, each.parent if out is None else out)


def _below(top: Path, recipes: Sequence[Recipe], out: Path | None) -> Iterator[Picture]:
    found = []
    for where, directories, names in os.walk(top):
        directories[:] = sorted(each for each in directories if each[0] != ".")
        place = Path(where)
        into = place if out is None else out / place.relative_to(top)
        found += [
            Picture(place / name, into)
            for name in sorted(names)
            if name[0] != "." and _is_picture(place / name)
        ]
    results = {
        picture.result(recipe, kind)
        for picture in found
        for recipe in recipes
        for kind in ("", *_EXTENSIONS)
    }
    yield from (picture for picture in found if picture.path not in results)


def _is_picture(path: Path) -> bool:
    try:
        with opened(path) as file:
            return sniff.sniff(os.pread(file, 64, 0)) is not None
    except OSError:
        return False


class opened:  # noqa: N801 - reads as a function
    """Open a file for reading, while inside; never waits for whoever writes a pipe."""

    def __init__(self, path: Path) -> None:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
        self._descriptor = os.open(path, flags)

    def __enter__(self) -> int:
        return self._descriptor

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


class WouldOverwrite(Exception):
    """A result has the place of a picture that was given."""


class Results:
    """Writes results, and never over what was given.

    Args:
        pictures: all that were given.
    """

    def __init__(self, pictures: Sequence[Picture]) -> None:
        self._inputs = set()
        for picture in pictures:
            with suppress(OSError):
                self._inputs.add(_identity(picture.path))

    def write(self, picture: Picture, recipe: Recipe, rendition: Rendition) -> Path:
        """Write one, whole or not at all; return where.

        Raises WouldOverwrite, OSError.
        """
        path = picture.result(recipe, rendition.content_type)
        with suppress(FileNotFoundError):
            if _identity(path) in self._inputs:
                raise WouldOverwrite(f"{path} is one of the pictures given")
        path.parent.mkdir(parents=True, exist_ok=True)
        written = path.with_name(f".{secrets.token_hex(8)}.clinfra")
        try:
            written.write_bytes(rendition.body)
            written.replace(path)
        finally:
            written.unlink(missing_ok=True)
        return path


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
