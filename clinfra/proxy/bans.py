"""Bans: which pages are to be forgotten, or taken for stale, from some moment on.

Pure.  A ban names a page, the beginning of pages' names, or a tag that origins give to
their answers in Surrogate-Key or Cache-Tag.  It holds for what origins were asked
before it, wherever that is kept and whenever it turns up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from math import floor

from attrs import frozen

MOST_TAGS = 128
"""An answer with more tags is not kept: they could not all be honoured."""

_BETWEEN_TAGS = re.compile(rb"[\s,]+")
_LINE = re.compile(r"([0-9]+\.[0-9]{3}) ([hs]) ([upt]) (.+)")

PAGE, PREFIX, TAG = "u", "p", "t"


@frozen
class Ban:
    """One ban.

    Attributes:
        at: Unix seconds.
        kind: PAGE, PREFIX or TAG.
        text: the name, what it begins with, or the tag.
        soft: what it covers is stale, not gone.
    """

    at: float
    kind: str
    text: str
    soft: bool = False

    def covers(self, name: str, tags: Iterable[bytes]) -> bool:
        """Whether it is about a page of this name, with these tags."""
        if self.kind == TAG:
            return self.text.encode("utf-8") in tags
        if self.kind == PREFIX:
            return name.startswith(self.text)
        return name == self.text

    def encode(self) -> bytes:
        """Return it as a line; its time is rounded down."""
        mode = "s" if self.soft else "h"
        at = floor(self.at * 1000) / 1000
        return f"{at:.3f} {mode} {self.kind} {self.text}\n".encode()


def decode_bans(raw: bytes) -> tuple[Ban, ...] | None:
    """Return the bans of some lines, newest first; None when that is not what it is."""
    bans = []
    try:
        lines = raw.decode("utf-8").split("\n")
    except UnicodeDecodeError:
        return None
    for line in filter(None, lines):
        match = _LINE.fullmatch(line)
        if match is None:
            return None
        bans.append(Ban(float(match[1]), match[3], match[4], match[2] == "s"))
    return tuple(sorted(bans, key=lambda ban: -ban.at))


def split_tags(*values: bytes | None) -> tuple[bytes, ...]:
    """Return the tags of some fields, each once."""
    tags = b" ".join(value for value in values if value)
    return tuple(dict.fromkeys(tag for tag in _BETWEEN_TAGS.split(tags) if tag))
