"""What the results of an upload are called: the original's content-addressed names.

Pure.  The base is the first 64 bits of the upload's SHA-256 in base 62; the blob
service turns it into a stored name, which already says where the blob lives.
"""

from __future__ import annotations

import string

from attrs import frozen

from clinfra.image.sizes import Recipe, parse_size

_ALPHABET = string.digits + string.ascii_lowercase + string.ascii_uppercase


def base62(number: int) -> str:
    """Write a number that is not negative with digits, lower and upper case letters."""
    digits = ""
    while True:
        number, digit = divmod(number, 62)
        digits = _ALPHABET[digit] + digits
        if not number:
            return digits


def base_name(sha256: str) -> str:
    """Return the plain name of an upload, given the hex digest of its bytes."""
    return base62(int(sha256[:16], 16))


@frozen
class BlobNames:
    """The stored names of one upload's results.

    Attributes:
        stored: what the blob service made of the base name.
    """

    stored: str

    @property
    def info(self) -> str:
        """Name of the info JSON."""
        return f"{self.stored}.json"

    @property
    def original(self) -> str:
        """Name of the upload itself, when it was kept."""
        return f"{self.stored}.original"

    def mezzanine(self, rung: str) -> str:
        """Return the name of what others are made of quickly, given its own."""
        return f"{self.stored}.{rung}.jpg"

    def size(self, name: str) -> str:
        """Return the name of one rendition, given the name of its recipe."""
        return self.rendition(parse_size(name))

    def rendition(self, recipe: Recipe) -> str:
        """Return the name of one rendition."""
        return f"{self.stored}_{recipe.stem}.{recipe.extension}"
