"""Structured Fields: dictionaries of RFC 9651, as CDN-Cache-Control is one.

Pure.  The grammar leaves no room for guesses: a field that breaks it anywhere is
ignored as a whole (RFC 9651 §4.2), so `parse_dictionary` returns None for it.
Parameters are checked and left out: nothing here asks for them.
"""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from urllib.parse import unquote_to_bytes

from attrs import frozen

_KEY = re.compile(rb"[a-z*][a-z0-9_\-.*]*")
_NUMBER = re.compile(rb"-?(?:([0-9]{1,12})\.([0-9]{1,3})|([0-9]{1,15}))(?![0-9.])")
_STRING = re.compile(rb'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')
_TOKEN = re.compile(rb"[A-Za-z*][!#$%&'*+\-.^_`|~0-9A-Za-z:/]*")
_BYTES = re.compile(rb":([A-Za-z0-9+/=]*):")
_BOOLEAN = re.compile(rb"\?([01])")
_DATE = re.compile(rb"@(-?[0-9]{1,15})(?![0-9.])")
_TEXT = re.compile(rb'%"((?:[\x20\x21\x23\x24\x26-\x7e]|%[0-9a-f]{2})*)"')
_SPACES = re.compile(rb" *")
_BLANKS = re.compile(rb"[ \t]*")
_COMMA = re.compile(rb"[ \t]*,[ \t]*")

_MOST_BYTES = 16384
"""A longer field is not read."""


@frozen
class Token:
    """A bare word, which is not the same as a string."""

    text: bytes


BareItem = int | Decimal | bytes | bytearray | str | bool | datetime | Token
"""A string is bytes, a byte sequence a bytearray, a display string is str."""

Value = BareItem | tuple[BareItem, ...]
"""What a key of a dictionary stands for: an item, or an inner list."""


class _Broken(Exception):
    """It is no structured field."""


class _Reader:
    """Where in a field we are."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.at = 0

    def take(self, pattern: re.Pattern[bytes]) -> re.Match[bytes] | None:
        """Step over a pattern, if it is here."""
        match = pattern.match(self.raw, self.at)
        if match is not None:
            self.at = match.end()
        return match

    def take_one(self, mark: bytes) -> bool:
        """Step over a byte, if it is here."""
        if self.raw[self.at : self.at + 1] != mark:
            return False
        self.at += 1
        return True

    @property
    def ended(self) -> bool:
        return self.at == len(self.raw)

    def key(self) -> bytes:
        match = self.take(_KEY)
        if match is None:
            raise _Broken
        return match[0]

    def dictionary(self) -> dict[bytes, Value]:
        members: dict[bytes, Value] = {}
        self.take(_SPACES)
        while not self.ended:
            key = self.key()
            value: Value = True
            if self.take_one(b"="):
                value = self.member()
            else:
                self.parameters()
            # The last of equal keys wins, in its place.
            members.pop(key, None)
            members[key] = value
            if self.take(_COMMA) is None:
                self.take(_BLANKS)
                if not self.ended:
                    raise _Broken
            elif self.ended:
                raise _Broken  # a comma at the end
        return members

    def member(self) -> Value:
        if not self.take_one(b"("):
            item = self.bare_item()
            self.parameters()
            return item
        items: list[BareItem] = []
        while True:
            spaces = self.take(_SPACES)
            if self.take_one(b")"):
                self.parameters()
                return tuple(items)
            if items and not (spaces and spaces[0]):
                raise _Broken
            items.append(self.bare_item())
            self.parameters()

    def parameters(self) -> None:
        while self.take_one(b";"):
            self.take(_SPACES)
            self.key()
            if self.take_one(b"="):
                self.bare_item()

    def bare_item(self) -> BareItem:
        if number := self.take(_NUMBER):
            whole = number[3] is not None
            return int(number[0]) if whole else Decimal(number[0].decode("ascii"))
        if string := self.take(_STRING):
            return re.sub(rb"\\(.)", rb"\1", string[1])
        if sequence := self.take(_BYTES):
            try:
                return bytearray(
                    b64decode(sequence[1] + b"=" * (-len(sequence[1]) % 4))
                )
            except Base64Error:
                raise _Broken from None
        if boolean := self.take(_BOOLEAN):
            return boolean[1] == b"1"
        if date := self.take(_DATE):
            try:
                return datetime.fromtimestamp(int(date[1]), UTC)
            except (ValueError, OverflowError, OSError):
                raise _Broken from None
        if text := self.take(_TEXT):
            try:
                return unquote_to_bytes(text[1]).decode("utf-8")
            except UnicodeDecodeError:
                raise _Broken from None
        if token := self.take(_TOKEN):
            return Token(token[0])
        raise _Broken


def parse_dictionary(value: bytes) -> Mapping[bytes, Value] | None:
    """Return the members of a dictionary; None when it is not exactly one.

    Args:
        value: the field, repeats of it joined by a comma.
    """
    if len(value) > _MOST_BYTES:
        return None
    try:
        return _Reader(value.rstrip(b" ")).dictionary()
    except _Broken:
        return None
