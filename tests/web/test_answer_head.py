"""Heads of answers."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.web.answer_head import field_block, status_line
from clinfra.web.heads import parse_response_head

DATE = b"\r\nDate: today"
STAMP = b"\r\nServer: us" + DATE


class StatusLineTests(SynchronousTestCase):
    """The first line."""

    def test_known_and_unknown(self) -> None:
        """Known statuses have their phrase, others one that says nothing."""
        self.assertEqual(b"HTTP/1.1 404 Not Found", status_line(404))
        self.assertEqual(b"HTTP/1.1 599 Status", status_line(599))


class FieldBlockTests(SynchronousTestCase):
    """The fields."""

    def test_stamp(self) -> None:
        """Server and Date are added unless given, in whatever case."""
        for given_fields, added in (
            ((), STAMP),
            (((b"X", b"y"),), STAMP),
            (((b"dAtE", b"d"),), b"\r\nServer: us"),
            (((b"SERVER", b"s"),), DATE),
            (((b"Server", b"s"), (b"Date", b"d")), b""),
            (((b"X-Date", b"d"),), STAMP),
        ):
            block = field_block(given_fields, STAMP, DATE)
            own = b"".join(b"\r\n%b: %b" % field for field in given_fields)
            self.assertEqual(own + added, block)

    def test_refused(self) -> None:
        """What would split the answer, or frame it, is refused."""
        for field in (
            (b"X", b"a\rb"),
            (b"X", b"a\nb"),
            (b"X", b"a\r\nY: b"),
            (b"X\r\nY", b"b"),
            (b"X", b"\0"),
            (b"CONTENT-length", b"1"),
            (b"transfer-encoding", b"chunked"),
            (b"Connection", b"close"),
        ):
            with self.assertRaises(ValueError):
                field_block((field,), STAMP, DATE)

    @settings(deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.from_regex(rb"\AX-[a-zA-Z0-9]{1,8}\Z"),
                st.from_regex(rb"\A[!-~]([ -~]{0,20}[!-~])?\Z"),
            ),
            max_size=8,
        )
    )
    def test_reads_back(self, fields: list[tuple[bytes, bytes]]) -> None:
        """A client reads the very fields that were given."""
        block = field_block(tuple(fields), b"", b"")
        raw = status_line(200) + block + b"\r\nContent-Length: 0\r\n\r\n"

        self.assertEqual(tuple(fields), parse_response_head(raw).fields[:-1])
