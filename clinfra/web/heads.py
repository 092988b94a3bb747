"""Message heads as values: what a request or response says before its body.

Pure: parsing and formatting of RFC 9112 heads.  Framing that could be read in two
ways is refused here, so that no other module needs to think about it.

The first line is read by one regular expression and the fields by llhttp (through
httptools), which is always fed the same harmless request line before them: so it knows
every extension method, and one tokeniser serves requests, responses and trailers alike.
What llhttp lets pass is checked here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from http import HTTPStatus
from ipaddress import IPv6Address

import httptools
from attrs import field, frozen

Field = tuple[bytes, bytes]
Fields = tuple[Field, ...]
"""Header fields in order, names as spelled, values without surrounding blanks."""
Index = Mapping[bytes, tuple[bytes, ...]]
"""Lower-case field name → its values, in order."""


class BadHead(Exception):
    """A head that must be refused: `status` and one plain sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence


@frozen(eq=False)
class RequestHead:
    """A request's line and fields, checked.

    Attributes:
        method: as sent, e.g. b"GET".
        target: origin-form, e.g. b"/a/b?x=1" (absolute-form is reduced to it, its
            authority becomes `host`), or b"*".  Always ASCII: old clients send names
            as raw UTF-8, and bytes above 0x7f are percent-encoded here, once for all.
        http11: False for HTTP/1.0.
        fields: as received, Host included (after an absolute-form target, Host is
            the target's authority, so that nobody believes the other one).
        index: lower-case name → values in order.
        host: the authority, as sent, b"" only in HTTP/1.0.
        content_length: of the body; 0 when there is none, None when chunked.
        keep_alive: whether the connection may be used again after the answer.
        expect_continue: the client waits for 100 Continue before its body.
        raw: the bytes it was parsed from.
    """

    method: bytes
    target: bytes
    http11: bool
    fields: Fields
    index: Index = field(repr=False)
    host: bytes
    content_length: int | None
    keep_alive: bool
    expect_continue: bool
    raw: bytes = field(repr=False)

    def get(self, name: bytes) -> bytes | None:
        """Return the value of a field (lower-case name), repeats joined by a comma."""
        values = self.index.get(name)
        if values is None:
            return None
        return values[0] if len(values) == 1 else b", ".join(values)

    @property
    def path(self) -> bytes:
        """The target up to the question mark, not decoded."""
        return self.target.partition(b"?")[0]

    @property
    def query(self) -> bytes:
        """The target after the question mark, not decoded."""
        return self.target.partition(b"?")[2]


@frozen(eq=False)
class ResponseHead:
    """A response's status line and fields, checked.

    Attributes:
        content_length: of the body; 0 for 1xx, 204 and 304, None when the head does
            not say.  What a HEAD request or a 304 would have had is in `fields`.
        chunked: the body is chunked.
        keep_alive: whether the origin will keep the connection open, as far as its
            fields go (a body that ends with the connection is for the reader to see).
    """

    status: int
    reason: bytes
    http11: bool
    fields: Fields
    index: Index = field(repr=False)
    content_length: int | None
    chunked: bool
    keep_alive: bool

    def get(self, name: bytes) -> bytes | None:
        """Return the value of a field (lower-case name), repeats joined by a comma."""
        values = self.index.get(name)
        if values is None:
            return None
        return values[0] if len(values) == 1 else b", ".join(values)


_REQUEST_LINE = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([\x21-\x7e\x80-\xff]+) HTTP/1\.([01])\r\n"
)
_LINE_OF_OTHER_VERSION = re.compile(
    rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+ [\x21-\x7e\x80-\xff]+ HTTP/[0-9]\.[0-9]\r\n"
)
_RAW_BYTE = re.compile(rb"[\x80-\xff]")
_STATUS_LINE = re.compile(
    rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*))?\r\n"
)
_ABSOLUTE_FORM = re.compile(rb"https?://([^/?]*)(.*)", re.IGNORECASE)
_AUTHORITY = re.compile(
    rb"(?:(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[2-9A-Fa-f][0-9A-Fa-f])+"
    rb"|\[([0-9A-Fa-f:.]+)\])(?::([0-9]{0,5}))?"
)
"""Host and port; a host may be percent-encoded, but never hide control bytes so."""

_FIELD_LINES = re.compile(
    rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]++: [\t\x20-\x7e\x80-\xff]*+\r\n)*+"
)
_SPOILT = re.compile(
    rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n|\r(?=[^\n])", re.DOTALL
)
_LONGEST_METHOD = 32
_LONGEST_LENGTH = 19
"""Digits of 2^63 - 1, the largest length anything here can count."""

_FIELDS_FOLLOW = b"PUT / HTTP/1.1\r\n"
"""Fed to llhttp in place of the first line, which has been read already."""


class _FieldCollector:
    """Where httptools puts the fields it finds."""

    __slots__ = ("fields",)

    def __init__(self) -> None:
        self.fields: list[Field] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value.rstrip(b" \t")))


def parse_fields(block: bytes, *, max_fields: int) -> tuple[Fields, Index]:
    """Parse field lines and their blank line; return them, and their index.

    Raises BadHead for anything RFC 9110 §5 and RFC 9112 §5 do not allow.
    """
    lines = block.count(b"\r\n")
    if lines > max_fields + 1:
        raise BadHead(431, "There are too many header fields.")
    if not lines == block.count(b"\n") == block.count(b"\r"):
        raise BadHead(400, "The head has a bare CR or LF.")
    collector = _FieldCollector()
    problem = None
    try:
        httptools.HttpRequestParser(collector).feed_data(_FIELDS_FOLLOW + block)
    except httptools.HttpParserUpgrade:
        pass  # Every field was seen; whether to switch protocols is not asked here.
    except httptools.HttpParserError as error:
        problem = error
    index: dict[bytes, tuple[bytes, ...]] = {}
    for name, value in collector.fields:
        name = name.lower()
        index[name] = (*index[name], value) if name in index else (value,)
    if problem is not None:
        _body_length(index, http11=True)  # It may have a better word for it.
        raise BadHead(400, f"The head is malformed ({problem}).")
    return tuple(collector.fields), index


def parse_request_head(raw: bytes, *, max_fields: int = 100) -> RequestHead:
    """Parse a whole head, blank line included.  Raises BadHead."""
    line = _REQUEST_LINE.match(raw)
    if line is None:
        if _LINE_OF_OTHER_VERSION.match(raw):
            raise BadHead(505, "Only HTTP/1.0 and HTTP/1.1 are spoken here.")
        raise BadHead(400, "The request line is malformed.")
    method, target, minor = line.groups()
    http11 = minor == b"1"
    block = _field_block(raw, line.end())
    read = _read_often if len(block) <= _OFTEN_BYTES else _read_request_fields
    said = read(block, http11, max_fields)
    if len(method) > _LONGEST_METHOD or method == b"CONNECT":
        raise BadHead(501, "The method is not known here.")
    if b"#" in target:
        raise BadHead(400, "The request target has a fragment.")
    host, fields, index = said.host, said.fields, said.index
    if target[:1] != b"/":
        if target != b"*":
            host, target = _reduce_absolute_form(target, method)
            fields, index = _with_host(host, fields, index)
        elif method != b"OPTIONS":
            raise BadHead(400, "Only OPTIONS can ask for *.")
    if not target.isascii():
        target = _RAW_BYTE.sub(lambda raw: b"%%%02X" % ord(raw[0]), target)
    return RequestHead(
        method,
        target,
        http11,
        fields,
        index,
        host,
        said.content_length,
        said.keep_alive,
        said.expect_continue,
        raw,
    )


@frozen(eq=False)
class _RequestFields:
    """What the fields of a request say, whatever its first line asks for."""

    fields: Fields
    index: Index
    host: bytes
    content_length: int | None
    keep_alive: bool
    expect_continue: bool


def _read_request_fields(block: bytes, http11: bool, max_fields: int) -> _RequestFields:
    """Read and check the field lines of a request.  Raises BadHead."""
    fields, index = parse_fields(block, max_fields=max_fields)
    content_length = _body_length(index, http11)
    hosts = index.get(b"host", ())
    if len(hosts) > 1:
        raise BadHead(400, "There is more than one Host field.")
    if hosts and not is_authority(hosts[0]):
        raise BadHead(400, "The Host field is not a host.")
    if http11 and not hosts:
        raise BadHead(400, "There is no Host field.")
    expectations = index.get(b"expect", ()) if http11 else ()
    for expectation in expectations:
        if expectation.lower() != b"100-continue":
            raise BadHead(417, "Only 100-continue can be expected.")
    return _RequestFields(
        fields,
        index,
        hosts[0] if hosts else b"",
        content_length,
        _keep_alive(index, http11),
        bool(expectations) and content_length != 0,
    )


_OFTEN_BYTES = 2048
_read_often = lru_cache(maxsize=1024)(_read_request_fields)
"""A client asks for many targets with the same fields: they are read once."""


def is_spoilt(part: bytes, looked: int = 0) -> bool:
    """Tell whether this beginning of a head can never become one, however it goes on.

    Args:
        looked: bytes of it that have been looked at before.
    """
    return _SPOILT.search(part, max(looked - 1, 0)) is not None


def parse_response_head(raw: bytes, *, max_fields: int = 200) -> ResponseHead:
    """Parse a whole head, blank line included.  Raises BadHead.

    The `status` of the BadHead is 502 whatever is wrong: it is the origin's fault.
    """
    line = _STATUS_LINE.match(raw)
    if line is None:
        raise BadHead(502, "The status line is malformed.")
    minor, digits, reason = line.groups()
    http11 = minor == b"1"
    status = int(digits)
    try:
        fields, index = parse_fields(
            _field_block(raw, line.end()), max_fields=max_fields
        )
        length = _body_length(index, http11)
    except BadHead as bad:
        raise BadHead(502, bad.sentence) from bad
    chunked = length is None
    keep_alive = _keep_alive(index, http11)
    if status < 200 or status in (204, 304):
        # Who announces a body where there is none may well send it.
        keep_alive = keep_alive and not (chunked or (length and status != 304))
        length, chunked = 0, False
    elif not chunked and b"content-length" not in index:
        length = None
    return ResponseHead(
        status,
        reason or b"",
        http11,
        fields,
        index,
        length,
        chunked,
        keep_alive,
    )


def format_response_head(status: int, fields: Sequence[Field]) -> bytes:
    """Return status line, fields and blank line.  Raises ValueError; see `_lines`."""
    line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
    return line + _lines(fields)


def format_request_head(method: bytes, target: bytes, fields: Sequence[Field]) -> bytes:
    """Return request line, fields and blank line.

    Raises ValueError for what would not be read as just these.
    """
    return format_request_line(method, target) + _lines(fields)


def format_request_line(method: bytes, target: bytes) -> bytes:
    """Return a request line.  Raises ValueError for what would not be read as one."""
    line = b"%b %b HTTP/1.1\r\n" % (method, target)
    if _REQUEST_LINE.fullmatch(line) is None:
        raise ValueError(f"{method!r} {target!r} cannot make a request line")
    return line


_STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode())
    for status in HTTPStatus
}


def _lines(fields: Sequence[Field]) -> bytes:
    """Return fields and the blank line after them.

    Raises ValueError for names that are none, and for control bytes in values.
    """
    block = b"".join([b"%b: %b\r\n" % field for field in fields])
    if not _FIELD_LINES.fullmatch(block) or block.count(b"\n") != len(fields):
        raise ValueError("a field with a byte that cannot be sent")
    return block + b"\r\n"


def _field_block(raw: bytes, start: int) -> bytes:
    """Return what follows the first line, when it is the rest of one head exactly."""
    if raw.find(b"\r\n\r\n", start - 2) != len(raw) - 4:
        raise BadHead(400, "The head does not end where its blank line is.")
    return raw[start:]


def _body_length(index: Index, http11: bool) -> int | None:
    """Return the length of the body, 0 without one, None when it is chunked."""
    codings = index.get(b"transfer-encoding")
    lengths = index.get(b"content-length")
    if codings is not None:
        if lengths is not None:
            raise BadHead(400, "There are both Content-Length and Transfer-Encoding.")
        if not http11:
            raise BadHead(400, "HTTP/1.0 has no Transfer-Encoding.")
        if len(codings) == 1 and codings[0].lower() == b"chunked":
            return None
        names = [name.strip() for name in b",".join(codings).lower().split(b",")]
        if b"chunked" in names[:-1] or names == [b""]:
            raise BadHead(400, "The Transfer-Encoding does not end with one chunked.")
        raise BadHead(501, "The only transfer coding known here is chunked.")
    if lengths is None:
        return 0
    digits = lengths[0]
    if len(lengths) > 1:
        raise BadHead(400, "There is more than one Content-Length field.")
    if not digits.isdigit() or len(digits) > _LONGEST_LENGTH:
        raise BadHead(400, "The Content-Length is not a length.")
    length = int(digits)
    if length >= 1 << 63:
        raise BadHead(400, "The Content-Length is not a length.")
    return length


def is_authority(value: bytes) -> bool:
    """Tell whether `value` is a host, perhaps with a port."""
    match = _AUTHORITY.fullmatch(value)
    if match is None or int(match[2] or 0) > 0xFFFF:
        return False
    if match[1] is not None:
        try:
            IPv6Address(match[1].decode("ascii"))
        except ValueError:
            return False
    return True


def _reduce_absolute_form(target: bytes, method: bytes) -> tuple[bytes, bytes]:
    """Return the authority and the origin-form of an absolute-form target."""
    match = _ABSOLUTE_FORM.fullmatch(target)
    if match is None or not is_authority(match[1]):
        raise BadHead(400, "The request target is neither a path nor an http URL.")
    authority, rest = match.groups()
    if not rest and method == b"OPTIONS":
        return authority, b"*"  # RFC 9112 §3.2.4
    return authority, rest if rest[:1] == b"/" else b"/" + rest


def _with_host(host: bytes, fields: Fields, index: Index) -> tuple[Fields, Index]:
    """Return the fields with `host` as their Host, first."""
    others = tuple(pair for pair in fields if pair[0].lower() != b"host")
    return ((b"Host", host), *others), {**index, b"host": (host,)}


def _keep_alive(index: Index, http11: bool) -> bool:
    values = index.get(b"connection")
    if values is None:
        return http11
    options = [option.strip() for option in b",".join(values).lower().split(b",")]
    return b"close" not in options and (http11 or b"keep-alive" in options)
