"""Regular expressions: one language, many at once, never for long."""

from __future__ import annotations

import re
import time

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.patterns import (
    MOST_SECONDS,
    PatternSet,
    PatternTooSlow,
    any_of,
    check_template,
    compile_pattern,
    expand,
)

CATASTROPHIC = (
    (r"^(a+)+$", "a" * 5000 + "!"),
    (r"^(a|a)*$", "a" * 5000 + "!"),
    (r"^(\w+\s?)*$", "word " * 1500 + "!"),
    (r"(x+x+)+y", "x" * 8000),
    (r"^(([a-z])+.)+[A-Z]([a-z])+$", "a" * 8000),
    (r"(.*)*,(.*)*,(.*)*!", "," * 5000),
    (r"(a|aa)+$(?!x)", "a" * 100 + "b"),
    (r"^(?:(a+)+)\1$(?<!c)", "a" * 100 + "b"),
    (r"a?" * 60 + "a" * 60, "a" * 59),
)
"""Patterns and the texts that ruin backtracking; the last but two are not for RE2."""


class PatternTests(SynchronousTestCase):
    """One pattern."""

    def test_catastrophic_patterns(self) -> None:
        """None of the classic disasters holds up the process."""
        for pattern, text in CATASTROPHIC:
            compiled = compile_pattern(pattern)
            began = time.process_time()
            try:
                compiled.search(text)
            except PatternTooSlow as trouble:
                self.assertFalse(compiled.linear)
                self.assertEqual(pattern, trouble.pattern)
            self.assertLess(time.process_time() - began, 0.5, pattern)

    def test_given_up(self) -> None:
        """A pattern that must backtrack is given up in a few milliseconds."""
        compiled = compile_pattern(r"(a|aa)+$(?!x)")
        began = time.process_time()
        with self.assertRaises(PatternTooSlow):
            compiled.search("a" * 200 + "b")
        self.assertLess(time.process_time() - began, 50 * MOST_SECONDS)

    def test_language(self) -> None:
        """What Perl's expressions can say is understood, by one engine or another."""
        for pattern, text, found in (
            (r"/item/(\d+)$", "/item/42", "/item/42"),
            (r"(?i)\.JPE?G$", "a.jpg", ".jpg"),
            (r"(?<year>\d{4})", "in 2026", "2026"),
            (r"[[:digit:]]+", "a12", "12"),
            (r"foo(?=bar)", "foobar", "foo"),
            (r"(?<!x)y", "zy", "y"),
            (r"(a)\1", "aa", "aa"),
            (r"a++b", "aab", "aab"),
            (r"\d", "٣", None),  # an Arabic digit
            ("", "x", ""),
        ):
            match = compile_pattern(pattern).search(text)
            self.assertEqual(found, None if match is None else match.group(), pattern)

    def test_long_texts(self) -> None:
        """Not more is looked at than anybody needs."""
        self.assertIsNone(compile_pattern("needle").search("x" * 9000 + "needle"))

    def test_mistakes(self) -> None:
        """What is no pattern is refused with a sentence."""
        for pattern in ("(", "a{2,1}", "[z-a]", "*a", r"(?<n>a)(?<n>b)("):
            with self.assertRaises(ValueError) as caught:
                compile_pattern(pattern)
            self.assertIn("is not a regular expression", str(caught.exception))

    def test_replaced(self) -> None:
        """Every match is replaced, whichever engine finds them."""
        for pattern, template, text, expected in (
            (":80/", "/", "a:80/b:80/", "a/b/"),
            (r"^(\w+)\.", r"\1-", "a.b.c", "a-b.c"),
            (r"(?<=/)(?P<n>\d+)", r"<\g<n>>", "/1/2", "/<1>/<2>"),
            ("x+", "-", "x" * 9000 + "yx", "-" + "x" * 808 + "yx"),
        ):
            found = compile_pattern(pattern).replaced(text, template)
            self.assertEqual(expected, found, pattern)
        with self.assertRaises(PatternTooSlow):
            compile_pattern("(a|aa)+$(?!x)").replaced("a" * 200 + "b", "")

    def test_templates(self) -> None:
        """Groups by number and by name; a backslash; nothing else is special."""
        pattern = compile_pattern(r"/(\d+)/(?P<name>\w+)(x)?")
        found = pattern.search("/12/ab")
        for template, expected in (
            (r"/\2-\1", "/ab-12"),
            (r"\g<name>.\g<1>\3", "ab.12"),
            (r"$1\\1", r"$1\1"),
        ):
            check_template(template, pattern)
            self.assertEqual(expected, expand(template, found))
        for template in (r"\4", r"\g<other>"):
            with self.assertRaises(ValueError):
                check_template(template, pattern)
        with self.assertRaises(ValueError):
            check_template(r"\1", None)


class PatternSetTests(SynchronousTestCase):
    """Many patterns."""

    def test_which(self) -> None:
        """All that are found, whichever engine they are for."""
        patterns = PatternSet(["^a", "b$", "(?i)C", r"(x)\1", "^ab+$"])

        self.assertEqual([0, 1, 4], patterns.matching("abb"))
        self.assertEqual([2, 3], patterns.matching("cxx"))
        self.assertEqual([], patterns.matching("d"))
        self.assertEqual([], PatternSet([]).matching("d"))

    @settings(max_examples=50, deadline=None)
    @given(
        st.lists(st.from_regex(r"\A\^?[ab]{1,3}[+*]?(c|d)?\$?\Z"), max_size=12),
        st.text("abcd", max_size=8),
    )
    def test_as_one_by_one(self, patterns: list[str], text: str) -> None:
        """The same are found as by asking each."""
        expected = [n for n, each in enumerate(patterns) if re.search(each, text)]

        self.assertEqual(expected, PatternSet(patterns).matching(text))

    def test_too_large_together(self) -> None:
        """Patterns too large for one automaton are asked one by one."""
        patterns = [f"[a-q][^u-z]{{900}}x{n}.{{0,900}}y" for n in range(200)]
        found = PatternSet([*patterns, "^b"]).matching("b")

        self.assertEqual([200], found)

    def test_any(self) -> None:
        """Any of them."""
        search = any_of(["(a)", "(?i)b"])
        assert search is not None

        self.assertTrue(search("xB") and search("a"))
        self.assertFalse(search("A"))
        self.assertIsNone(any_of([]))
