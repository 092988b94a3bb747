"""Preconditions: the table of RFC 9110 §13."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from clinfra.web.conditional import evaluate
from clinfra.web.headers import ETag
from clinfra.web.heads import parse_request_head

_BEFORE = b"Sun, 06 Nov 1994 08:49:36 GMT"
_THEN = b"Sun, 06 Nov 1994 08:49:37 GMT"
_AFTER = b"Sun, 06 Nov 1994 08:49:38 GMT"
_MODIFIED = 784111777


class EvaluateTests(SynchronousTestCase):
    """What a representation with the tag "a", modified at _THEN, is answered with."""

    def outcome(
        self,
        *fields: bytes,
        method: bytes = b"GET",
        etag: ETag | None = ETag(b"a"),  # noqa: B008 # a value, never changed
        last_modified: int | None = _MODIFIED,
        exists: bool = True,
    ) -> int | None:
        """Evaluate a request with these field lines."""
        head = parse_request_head(
            method + b" / HTTP/1.1\r\nHost: h\r\n" + b"\r\n".join((*fields, b"", b""))
        )
        return evaluate(head, etag, last_modified, exists)

    def test_none(self) -> None:
        """Without preconditions there is nothing to say."""
        self.assertIsNone(self.outcome())

    def test_if_match(self) -> None:
        """If-Match goes on for the same strong tag or *, else 412."""
        for value, status in (
            (b'"a"', None),
            (b'"b", "a"', None),
            (b"*", None),
            (b'"b"', 412),
            (b'W/"a"', 412),
            (b"a", 412),
            (b"", 412),
        ):
            for method in (b"GET", b"HEAD", b"PUT", b"DELETE"):
                got = self.outcome(b"If-Match: " + value, method=method)

                self.assertEqual(status, got, (value, method))

    def test_if_match_weak(self) -> None:
        """A weak representation matches no If-Match but *."""
        weak = ETag(b"a", weak=True)

        self.assertEqual(412, self.outcome(b'If-Match: W/"a"', etag=weak))
        self.assertIsNone(self.outcome(b"If-Match: *", etag=weak))

    def test_nothing_there(self) -> None:
        """Where there is nothing, If-Match: * fails and If-None-Match: * holds."""
        for field, status in ((b"If-Match: *", 412), (b"If-None-Match: *", None)):
            got = self.outcome(field, method=b"PUT", etag=None, exists=False)

            self.assertEqual(status, got)

    def test_if_unmodified_since(self) -> None:
        """If-Unmodified-Since is 412 when it was modified after."""
        for date, status in ((_BEFORE, 412), (_THEN, None), (_AFTER, None)):
            got = self.outcome(b"If-Unmodified-Since: " + date, method=b"DELETE")

            self.assertEqual(status, got)

    def test_if_none_match(self) -> None:
        """If-None-Match is 304 to readers and 412 to writers when a tag is the same."""
        for value, matches in (
            (b'"a"', True),
            (b'W/"a"', True),
            (b'"b", W/"a"', True),
            (b"*", True),
            (b'"b"', False),
            (b"a", False),
            (b'"a,b"', False),
        ):
            for method, status in ((b"GET", 304), (b"HEAD", 304), (b"PUT", 412)):
                got = self.outcome(b"If-None-Match: " + value, method=method)

                self.assertEqual(status if matches else None, got, (value, method))

    def test_if_modified_since(self) -> None:
        """If-Modified-Since is 304 to readers when it was not, and not for writers."""
        for date, status in ((_BEFORE, None), (_THEN, 304), (_AFTER, 304)):
            field = b"If-Modified-Since: " + date

            self.assertEqual(status, self.outcome(field))
            self.assertEqual(status, self.outcome(field, method=b"HEAD"))
            self.assertIsNone(self.outcome(field, method=b"PUT"))

    def test_malformed_dates(self) -> None:
        """A date that is none, or more than one, is no condition."""
        for name in (b"If-Modified-Since: ", b"If-Unmodified-Since: "):
            for date in (b"", b"0", b"yesterday", _AFTER + b", " + _AFTER):
                self.assertIsNone(self.outcome(name + date))
        twice = (b"If-Modified-Since: " + _AFTER,) * 2
        self.assertIsNone(self.outcome(*twice))

    def test_without_validators(self) -> None:
        """A representation without validators meets no tag and no date."""
        for field, status in (
            (b'If-Match: "a"', 412),
            (b'If-None-Match: "a"', None),
            (b"If-None-Match: *", 304),
            (b"If-Modified-Since: " + _AFTER, None),
            (b"If-Unmodified-Since: " + _BEFORE, None),
        ):
            got = self.outcome(field, etag=None, last_modified=None)

            self.assertEqual(status, got, field)

    def test_precedence(self) -> None:
        """Tags win over dates, and If-Match over If-None-Match (§13.2.2)."""
        for fields, status in (
            ((b'If-Match: "a"', b"If-Unmodified-Since: " + _BEFORE), None),
            ((b'If-Match: "b"', b"If-Unmodified-Since: " + _AFTER), 412),
            ((b'If-None-Match: "b"', b"If-Modified-Since: " + _AFTER), None),
            ((b'If-None-Match: "a"', b"If-Modified-Since: " + _BEFORE), 304),
            ((b'If-Match: "b"', b'If-None-Match: "a"'), 412),
            ((b'If-Match: "a"', b'If-None-Match: "a"'), 304),
            ((b"If-Unmodified-Since: " + _BEFORE, b'If-None-Match: "a"'), 412),
            ((b"If-Unmodified-Since: " + _AFTER, b'If-None-Match: "a"'), 304),
        ):
            self.assertEqual(status, self.outcome(*fields), fields)

    def test_lists_over_lines(self) -> None:
        """A list may be spread over several lines."""
        self.assertEqual(
            304, self.outcome(b'If-None-Match: "x"', b'If-None-Match: "a"')
        )
