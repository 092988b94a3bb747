"""Message heads as values: what a request or response says before its body.

Pure: parsing and formatting of RFC 9112 heads.  Framing that could be read in two
ways is refused here, so that no other module needs to think about it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from attrs import field, frozen

Field = tuple[bytes, bytes]
Fields = tuple[Field, ...]
"""Header fields in order, names as spelled, values without surrounding blanks."""


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
            authority becomes `host`), or b"*".
        http11: False for HTTP/1.0.
        fields: as received, Host included.
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
    index: Mapping[bytes, tuple[bytes, ...]] = field(repr=False)
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
        content_length: None when it is not known from the head.
        chunked: the body is chunked.
        keep_alive: whether the origin will keep the connection open.
    """

    status: int
    reason: bytes
    http11: bool
    fields: Fields
    index: Mapping[bytes, tuple[bytes, ...]] = field(repr=False)
    content_length: int | None
    chunked: bool
    keep_alive: bool

    def get(self, name: bytes) -> bytes | None:
        """Return the value of a field (lower-case name), repeats joined by a comma."""
        values = self.index.get(name)
        if values is None:
            return None
        return values[0] if len(values) == 1 else b", ".join(values)


def parse_request_head(raw: bytes, *, max_fields: int = 100) -> RequestHead:
    """Parse a whole head, blank line included.  Raises BadHead."""
    raise NotImplementedError


def parse_response_head(raw: bytes, *, max_fields: int = 200) -> ResponseHead:
    """Parse a whole head, blank line included.  Raises BadHead."""
    raise NotImplementedError


def format_response_head(status: int, fields: Iterable[Field]) -> bytes:
    """Return status line, fields and blank line; refuses CR, LF and NUL in fields."""
    raise NotImplementedError


def format_request_head(method: bytes, target: bytes, fields: Iterable[Field]) -> bytes:
    """Return request line, fields and blank line; refuses CR, LF and NUL in fields."""
    raise NotImplementedError
