"""Values of header fields: dates, entity tags, lists, directives, preferences.

Pure.  Parsers here never raise for what a peer may send: they return None, or leave
out what cannot be read, as RFC 9110 and 9111 say for each.  Names and values are bytes,
as on the wire; times are Unix seconds.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache

from attrs import frozen

from clinfra.web.heads import Fields, Index

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
"""Regular expression of RFC 9110's token."""

_TOKEN = re.compile(TOKEN)
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t -\x7e\x80-\xff])*"'
_QUOTED_STRING = re.compile(_QUOTED)

# --- dates, RFC 9110 §5.6.7 ---

_DAYS = (b"Mon", b"Tue", b"Wed", b"Thu", b"Fri", b"Sat", b"Sun")
_MONTHS = (
    *(b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun"),
    *(b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"),
)
_MONTH_NUMBERS = {name.lower(): number for number, name in enumerate(_MONTHS, 1)}
_CLOCK = rb"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_DATES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # Sun, 06 Nov 1994 08:49:37 GMT
        rb"[a-z]{3}, (?P<day>[0-9]{2}) (?P<month>[a-z]{3}) (?P<year>[0-9]{4}) "
        + _CLOCK
        + rb" GMT",
        # Sunday, 06-Nov-94 08:49:37 GMT
        rb"[a-z]{6,9}, (?P<day>[0-9]{2})-(?P<month>[a-z]{3})-(?P<year>[0-9]{2}) "
        + _CLOCK
        + rb" GMT",
        # Sun Nov  6 08:49:37 1994
        rb"[a-z]{3} (?P<month>[a-z]{3}) (?P<day>[0-9]{2}| [0-9]) "
        + _CLOCK
        + rb" (?P<year>[0-9]{4})",
    )
)


@lru_cache(maxsize=256)
def format_http_date(seconds: int) -> bytes:
    """Return whole Unix seconds as an IMF-fixdate."""
    year, month, day, hour, minute, second, weekday, _, _ = time.gmtime(seconds)
    return b"%b, %02d %b %04d %02d:%02d:%02d GMT" % (
        *(_DAYS[weekday], day, _MONTHS[month - 1], year),
        *(hour, minute, second),
    )


@lru_cache(maxsize=1024)
def parse_http_date(value: bytes, this_year: int = 2026) -> int | None:
    """Return the Unix seconds of a date in any of the three formats, None for others.

    Letters' case does not matter; the day's name is not checked.

    Args:
        this_year: for years of two digits, which are taken to be at most 50 ahead; the
            default is good for the files that still have such dates.
    """
    for pattern in _DATES:
        match = pattern.fullmatch(value)
        if match is not None:
            break
    else:
        return None
    year = int(match["year"])
    if len(match["year"]) == 2:
        year += this_year // 100 * 100
        if year > this_year + 50:
            year -= 100
    second = int(match["second"])
    try:
        date = datetime(
            year,
            _MONTH_NUMBERS[match["month"].lower()],
            int(match["day"]),
            int(match["hour"]),
            int(match["minute"]),
            # A leap second is the same as the one before it.
            59 if second == 60 else second,
            tzinfo=UTC,
        )
    except (KeyError, ValueError):
        return None
    return int(date.timestamp())


# --- entity tags, RFC 9110 §8.8.3 ---

_ONE_ETAG = rb'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"'
_ETAG = re.compile(_ONE_ETAG)
_LISTED_ETAG = re.compile(rb"(?:\A|,)[ \t]*" + _ONE_ETAG + rb"[ \t]*(?=,|\Z)")


@frozen
class ETag:
    """An entity tag; `opaque` is what stands between the quotes."""

    opaque: bytes
    weak: bool = False

    def __bytes__(self) -> bytes:
        return b'%b"%b"' % (b"W/" if self.weak else b"", self.opaque)

    def matches_strongly(self, other: ETag) -> bool:
        """Tell whether both are strong and the same."""
        return not self.weak and not other.weak and self.opaque == other.opaque

    def matches_weakly(self, other: ETag) -> bool:
        """Tell whether both are the same but for their strength."""
        return self.opaque == other.opaque


def parse_etag(value: bytes) -> ETag | None:
    """Return the entity tag, None when it is not exactly one."""
    match = _ETAG.fullmatch(value)
    return None if match is None else ETag(match[2], match[1] is not None)


def parse_etags(value: bytes) -> list[ETag]:
    """Return the entity tags of a list, without the parts that are none."""
    # Commas are legal inside a tag, so a plain split would not do.
    return [
        ETag(match[2], match[1] is not None) for match in _LISTED_ETAG.finditer(value)
    ]


# --- lists, quoted strings and parameters, RFC 9110 §5.6 ---


_MEMBER = {
    # An unfinished quote takes all that follows.
    separator: re.compile(rb'(?:[^"%b]|' % separator + _QUOTED + rb'|"[\x00-\xff]*)+')
    for separator in (b",", b";")
}


def split_list(value: bytes, separator: bytes = b",") -> list[bytes]:
    """Split at each comma (or semicolon) outside quotes; empty parts are dropped."""
    if b'"' not in value:
        parts = value.split(separator)
    else:
        parts = _MEMBER[separator].findall(value)
    return [part for part in (part.strip(b" \t") for part in parts) if part]


def unquote(value: bytes) -> bytes:
    """Return what a quoted string says; anything else as it is."""
    if _QUOTED_STRING.fullmatch(value) is None:
        return value
    return re.sub(rb"\\(.)", rb"\1", value[1:-1], flags=re.DOTALL)


def quote(value: bytes) -> bytes:
    """Return `value` as a quoted string.  Raises ValueError for control bytes."""
    quoted = b'"%b"' % re.sub(rb'(["\\])', rb"\\\1", value)
    if _QUOTED_STRING.fullmatch(quoted) is None:
        raise ValueError(f"{value!r} cannot be quoted")
    return quoted


def is_token(value: bytes) -> bool:
    """Tell whether `value` is a token (a field name, method, coding, ...)."""
    return _TOKEN.fullmatch(value) is not None


def is_value(value: bytes) -> bool:
    """Tell whether `value` can be the value of a field."""
    return _VALUE.fullmatch(value) is not None


def parse_parameters(value: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """Return what comes before the first semicolon, and the parameters after it.

    Parameters' names are lower-cased, their values unquoted; the first of a name wins,
    what is not a parameter is left out.
    """
    first, *rest = split_list(value, b";") or [b""]
    parameters: dict[bytes, bytes] = {}
    for part in rest:
        name, equals, argument = part.partition(b"=")
        if equals and is_token(name):
            parameters.setdefault(name.lower(), unquote(argument))
    return first, parameters


def parse_media_type(value: bytes) -> tuple[bytes, dict[bytes, bytes]] | None:
    """Return the lower-case "type/subtype" and its parameters, None when it is none."""
    first, parameters = parse_parameters(value)
    kind, _, subtype = first.partition(b"/")
    if not is_token(kind) or not is_token(subtype) or value.lstrip()[:1] == b";":
        return None
    return first.lower(), parameters


# --- Cache-Control, RFC 9111 §5.2 ---

_LONGEST_AGE = 1 << 31
"""Ages and lifetimes above this mean the same as this (RFC 9111 §1.2.2)."""


def parse_cache_control(value: bytes) -> dict[bytes, bytes | None]:
    """Return directive → argument; names lower-case, arguments unquoted.

    The first of a repeated directive wins.  What is no directive is left out.
    """
    directives: dict[bytes, bytes | None] = {}
    for part in split_list(value):
        name, equals, argument = part.partition(b"=")
        if is_token(name):
            directives.setdefault(name.lower(), unquote(argument) if equals else None)
    return directives


def directive_seconds(
    directives: Mapping[bytes, bytes | None], name: bytes
) -> int | None:
    """Return the seconds a directive such as max-age says, None without it.

    An argument that is not a number is 0: with doubt about freshness there is none.
    """
    if name not in directives:
        return None
    return parse_delta_seconds(directives[name] or b"") or 0


def parse_delta_seconds(value: bytes) -> int | None:
    """Return a non-negative number of seconds (at most 2^31), None when it is none."""
    if not value.isdigit():
        return None
    # int() of very many digits is slow, and refused beyond 4300 of them.
    return min(int(value), _LONGEST_AGE) if len(value) <= 10 else _LONGEST_AGE


# --- preferences, RFC 9110 §12 ---

_QUALITY = re.compile(rb"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")
_MOST_PREFERENCES = 64


@frozen
class Preference:
    """One member of Accept or Accept-Encoding: a lower-case name and its weight."""

    name: bytes
    quality: float


def parse_accept(value: bytes) -> list[Preference]:
    """Return the members of Accept, Accept-Encoding and the like, in order.

    Parameters other than q are left out; a weight that cannot be read is 0.  No more
    than 64 members are read.
    """
    preferences = []
    for part in split_list(value)[:_MOST_PREFERENCES]:
        name, parameters = parse_parameters(part)
        weight = parameters.get(b"q", b"1")
        readable = _QUALITY.fullmatch(weight) is not None
        preferences.append(Preference(name.lower(), float(weight) if readable else 0.0))
    return preferences


def coding_quality(accept_encoding: bytes | None, coding: bytes) -> float:
    """Return how much a content coding (e.g. b"gzip", b"identity") is wanted, 0 to 1.

    Without the field everything is; with it only what it names, and identity unless it
    is excluded (RFC 9110 §12.5.3).
    """
    if accept_encoding is None:
        return 1.0
    aliases = (coding, b"x-" + coding)
    others = None
    for preference in parse_accept(accept_encoding):
        if preference.name in aliases:
            return preference.quality
        if preference.name == b"*" and others is None:
            others = preference.quality
    if others is not None:
        return others
    return 1.0 if coding == b"identity" else 0.0


def media_quality(accept: bytes | None, media_type: bytes) -> float:
    """Return how much a media type (e.g. b"image/webp") is wanted, 0 to 1.

    The most specific range that covers it decides (RFC 9110 §12.5.1).
    """
    if accept is None:
        return 1.0
    ranges: dict[bytes, float] = {}
    for preference in parse_accept(accept):
        ranges.setdefault(preference.name, preference.quality)
    kind = media_type.partition(b"/")[0]
    for name in (media_type, kind + b"/*", b"*/*"):
        if name in ranges:
            return ranges[name]
    return 0.0


# --- fields that belong to one connection, RFC 9110 §7.6.1 ---

HOP_BY_HOP = frozenset(
    (
        *(b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer"),
        *(b"transfer-encoding", b"upgrade"),
        *(b"proxy-authenticate", b"proxy-authorization", b"proxy-authentication-info"),
    )
)
"""Lower-case names of fields that are never passed on."""

_ALWAYS_END_TO_END = frozenset((b"host", b"content-length", b"cache-control"))
"""Naming these in Connection is an attack, not a wish."""


@lru_cache(maxsize=256)
def named_in_connection(values: tuple[bytes, ...]) -> frozenset[bytes]:
    """Return the fields (lower-case names) that a Connection field keeps to one hop."""
    named = {option.lower() for value in values for option in split_list(value)}
    return frozenset(named) - _ALWAYS_END_TO_END


def end_to_end(fields: Fields, index: Index) -> Fields:
    """Return the fields to pass on: without the hop-by-hop and Connection's own."""
    dropped = HOP_BY_HOP
    options = index.get(b"connection")
    if options is not None:
        dropped = HOP_BY_HOP | named_in_connection(options)
    if dropped.isdisjoint(index):
        return fields
    return tuple(pair for pair in fields if pair[0].lower() not in dropped)


def meant_for_all(fields: Fields, index: Index) -> Fields:
    """Return the fields without those that Connection names besides the usual ones.

    Who passes a message on must not heed them either: an answer chosen by such a field
    would not be the one that the next server chose without it.
    """
    options = index.get(b"connection")
    if options is None:
        return fields
    dropped = named_in_connection(options) - HOP_BY_HOP
    if dropped.isdisjoint(index):
        return fields
    return tuple(pair for pair in fields if pair[0].lower() not in dropped)
