"""Stored names: what a client may call a blob, and how placement is written in it.

A *plain* name is what the first writer chose.  Its *stored* name is, when the cluster
encodes names, ``"0"`` (the version) + two base62 digits of the bucket in cluster 0, 1,
2… + ``"_"`` + the plain name.  So whoever knows a name knows where the blob is.

Pure.  Which bucket a plain name belongs to is `topology`'s business.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from urllib.parse import quote_from_bytes, unquote_to_bytes

from clinfra.errors import InvalidRequest

ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_VALUE = {digit: value for value, digit in enumerate(ALPHABET)}

MAX_NAME_BYTES = 1024
"""Longest stored name, UTF-8."""

MAX_BUCKET = 62 * 62 - 1
"""Two base62 digits."""


def base62(number: int, width: int = 1) -> str:
    """Return `number` in base62, zero-filled to `width` digits."""
    digits = ""
    while number:
        number, rest = divmod(number, 62)
        digits = ALPHABET[rest] + digits
    return digits.rjust(width, "0")


def from_base62(text: str) -> int:
    """Return the number that base62 text stands for.  Raises ValueError."""
    number = 0
    for digit in text:
        value = _VALUE.get(digit)
        if value is None:
            raise ValueError(f"not a base62 digit: {digit!r}")
        number = number * 62 + value
    return number


def hash_of(name: str) -> int:
    """Return the number that chooses a plain name's bucket in every cluster."""
    digest = hashlib.md5(name.encode("utf-8"), usedforsecurity=False)
    return int(digest.hexdigest()[:8], 16)


def encode(name: str, buckets: Sequence[int]) -> str:
    """Return the stored name of a plain name; `buckets` has one for each cluster."""
    return _prefix(tuple(buckets)) + name


@lru_cache(4096)
def _prefix(buckets: tuple[int, ...]) -> str:
    return "0" + "".join(base62(bucket, 2) for bucket in buckets) + "_"


def decode(stored: str) -> Mapping[int, int]:
    """Return cluster → bucket as written in a stored name.  Raises InvalidRequest."""
    try:
        return _buckets(stored.partition("_")[0])
    except KeyError:
        raise InvalidRequest(f"Name version not valid: {stored}") from None
    except ValueError:
        raise InvalidRequest(f"Name bucket list corrupt: {stored}") from None


@lru_cache(4096)
def _buckets(prefix: str) -> Mapping[int, int]:
    """Return what the prefix of a stored name says.

    Raises KeyError for an unknown version, ValueError.
    """
    version = from_base62(prefix[:1])
    if version != 0:
        raise KeyError(version)
    if len(prefix) % 2 == 0:
        raise ValueError(prefix)
    return MappingProxyType(
        {
            cluster: from_base62(prefix[at : at + 2])
            for cluster, at in enumerate(range(1, len(prefix), 2))
        }
    )


def check(name: str) -> None:
    """Raise InvalidRequest for what the original does not take for a name."""
    if not name:
        raise InvalidRequest("Name cannot be empty")
    if name[0] == "_":
        raise InvalidRequest("Name cannot start with a _")
    if not name.isascii():
        try:
            name.encode("utf-8")
        except UnicodeEncodeError:
            raise InvalidRequest("Name must be UTF-8 safe") from None


def check_harmless(stored: str) -> None:
    """Raise InvalidRequest for a name that could do harm in a path, log or header.

    No control bytes, no "." or ".." segments, nothing over-long: the original took
    these, and fell over them.
    """
    if len(stored.encode("utf-8", "replace")) > MAX_NAME_BYTES:
        raise InvalidRequest(f"Name cannot be longer than {MAX_NAME_BYTES} bytes")
    if not stored.isprintable() and any(
        character < " " or character == "\x7f" for character in stored
    ):
        raise InvalidRequest("Name cannot contain control characters")
    if "." in stored and any(part in (".", "..") for part in stored.split("/")):
        raise InvalidRequest("Name cannot contain . or .. as a path segment")


def from_path(path: bytes) -> str:
    """Return the name a request path stands for: decoded once, outer slashes gone.

    Raw UTF-8 and percent-encoding are both understood; a "%" that begins no escape
    stands for itself.  The name is not yet checked.  Raises InvalidRequest.
    """
    try:
        return unquote_to_bytes(path).strip(b"/").decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidRequest("Name must be UTF-8 safe") from None


def to_path(name: str) -> bytes:
    """Return the request path of a name, percent-encoded."""
    return b"/" + quote_from_bytes(name.encode("utf-8"), safe="/").encode("ascii")
