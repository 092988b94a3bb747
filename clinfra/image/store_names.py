"""What blobs are called, and what is known of them, in stores of our own.

Names, stamps and expiry are those of a blob store that is alone in its cluster.  So
blobs can be moved from one kind of store to another, and are found there.

Pure.
"""

from __future__ import annotations

import json
import math
import mimetypes
import re
from collections.abc import Mapping

from attrs import frozen

from clinfra.errors import InvalidRequest
from clinfra.interfaces import BlobInfo

_ALONE = "000_"
"""Version 0, bucket 00 of the only cluster."""

_STORED = re.compile(r"0(?:[0-9A-Za-z]{2})*_.+", re.DOTALL)
_LONGEST = 1024

_TYPES = mimetypes.MimeTypes()
"""Python's own table: what the machine's files say must not change answers."""


def encode(name: str) -> str:
    """Return the stored name of a plain name.  Raises InvalidRequest."""
    if not name:
        raise InvalidRequest("Name cannot be empty")
    if name[0] == "_":
        raise InvalidRequest("Name cannot start with a _")
    _check_parts(name)
    return check(_ALONE + name)


def check(stored: str) -> str:
    """Return a stored name that is one.

    Raises InvalidRequest: not a stored name, or one that could do harm in a path, a
    log or a header.
    """
    if not _STORED.fullmatch(stored):
        raise InvalidRequest("Not the name of a stored blob")
    if len(stored.encode("utf-8", "replace")) > _LONGEST:
        raise InvalidRequest(f"Name cannot be longer than {_LONGEST} bytes")
    if any(letter < " " or letter == "\x7f" for letter in stored):
        raise InvalidRequest("Name cannot contain control characters")
    if any("\ud800" <= letter <= "\udfff" for letter in stored):
        raise InvalidRequest("Name must be UTF-8 safe")
    _check_parts(stored)
    return stored


def _check_parts(name: str) -> None:
    if any(part in (".", "..") for part in name.split("/")):
        raise InvalidRequest("Name cannot contain . or .. as a path segment")


def stamp_at(seconds: float) -> int:
    """Return the stamp of a moment, unix seconds, in the form that all blobs have."""
    whole = math.floor(seconds)
    return (whole << 32) + (min(int((seconds - whole) * 1e6), 999_999) << 12)


@frozen
class Kept:
    """What is kept beside the bytes of a blob.

    Attributes:
        modified: stamp of the bytes.
        expires: unix seconds; 0 never.
        sha256: hex digest of the bytes.
        content_type: as given, or guessed from the name.
    """

    modified: int
    expires: int
    sha256: str
    content_type: str

    @classmethod
    def of(
        cls,
        stored: str,
        sha256: str,
        *,
        now: float,
        ttl_seconds: int | None,
        content_type: str | None,
    ) -> Kept:
        """Return what is to be kept of a blob that is put at `now`, unix seconds."""
        expires = 0 if ttl_seconds is None else math.ceil(now) + ttl_seconds
        kind = content_type or guess_type(stored)
        return cls(stamp_at(now), expires, sha256, kind)

    def is_over(self, now: float) -> bool:
        """Say whether its time has passed."""
        return 0 < self.expires <= now

    def info(self, stored: str, size: int) -> BlobInfo:
        """Return it as everybody knows it."""
        return BlobInfo(
            name=stored,
            modified=self.modified,
            deleted=self.expires,
            modified_deleted=self.modified,
            buckets={0: 0},
            size=size,
            sha256=self.sha256,
            content_type=self.content_type,
        )

    def to_json(self) -> bytes:
        """Return what `from_json` reads."""
        return json.dumps(
            {
                "modified": self.modified,
                "expires": self.expires,
                "sha256": self.sha256,
                "content_type": self.content_type,
            },
            separators=(",", ":"),
        ).encode("ascii")

    @classmethod
    def from_json(cls, raw: bytes) -> Kept:
        """Read what `to_json` wrote.  Raises ValueError."""
        try:
            told: Mapping[str, object] = json.loads(raw)
            modified, expires = told["modified"], told["expires"]
            sha256, content_type = told["sha256"], told["content_type"]
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"not what is kept of a blob: {error!r}") from error
        if not (
            isinstance(modified, int)
            and isinstance(expires, int)
            and isinstance(sha256, str)
            and isinstance(content_type, str)
        ):
            raise ValueError("not what is kept of a blob")
        return cls(modified, expires, sha256, content_type)


def deleted(stored: str, now: float) -> BlobInfo:
    """Return what is told of a blob that was deleted at `now`, unix seconds."""
    return BlobInfo(stored, None, math.floor(now), stamp_at(now), {0: 0})


def guess_type(name: str) -> str:
    """Return the content type that a name's extension stands for."""
    # The slash keeps "data:…" names from being read as URLs.
    guessed = _TYPES.guess_type("/" + name.rpartition("/")[2])[0]
    return guessed or "application/octet-stream"
