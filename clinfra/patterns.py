"""Regular expressions of operators, matched in bounded time.  Pure.

What is matched comes from strangers, and a pattern that is fast on every page of a site
may take hours on an address that somebody made up for it.  So patterns are matched by
RE2, in time proportional to the text; those that repeat nothing by Python's own `re`,
which is as safe for them and costs a tenth.  What RE2 does not know (look-around,
back-references, possessive quantifiers, recursion) is matched by backtracking, which
is given up after `MOST_SECONDS`: `PatternTooSlow`.  Not more than the first
`MOST_CHARACTERS` of a text are looked at.

The language is Perl's as far as that goes: `\\d` and `\\w` are ASCII, `$` is the end.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Protocol

import re2
from attrs import frozen

from clinfra.errors import InvalidRequest

MOST_SECONDS = 0.005
MOST_CHARACTERS = 8192

_SET_BYTES = 64 << 20
"""Most memory of the automaton that matches many patterns at once."""

_WITHOUT_REPETITION = re.compile(
    r"(?:\(\?i\))?(?:\\[dswb]|\\[^\w\s]|\(\?:|\[\^?(?!\[)[^\]\[\\]+\]|[^\\\[*+?{])+"
)
"""What `re` means as the others do, but for "?", of which there may be a few."""

_MOST_OPTIONAL = 4
_GROUP = re.compile(r"\\(?:(\d)|g<(\w+)>|(\\))")


class PatternTooSlow(InvalidRequest):
    """A pattern was given up on a text; whoever sent that text may be told so."""

    def __init__(self, pattern: str) -> None:
        super().__init__("What was asked for takes too long to match.")
        self.pattern = pattern


class Found(Protocol):
    """A match."""

    def start(self) -> int:
        """Where it begins."""

    def end(self) -> int:
        """Where it ends."""

    def group(self, group: Any = 0, /) -> str | None:
        """Return a group's text, None when it took no part."""


@frozen
class Compiled:
    """One pattern.

    Attributes:
        text: as it was written.
        linear: matched in linear time.
        groups: how many there are.
        names: of groups.
    """

    text: str
    linear: bool
    groups: int
    names: frozenset[str]
    _search: Callable[[str], Any]
    _sub: Callable[[Callable[[Any], str], str], Any]

    def replaced(self, text: str, template: str) -> str:
        """Return a text with every match replaced (see `expand`).

        Raises PatternTooSlow.
        """
        text, rest = text[:MOST_CHARACTERS], text[MOST_CHARACTERS:]
        made: str = self._sub(lambda found: expand(template, found), text)
        return made + rest

    def search(self, text: str) -> Found | None:
        """Return the first match.  Raises PatternTooSlow."""
        found: Found | None = self._search(text[:MOST_CHARACTERS])
        return found


@lru_cache(maxsize=4096)
def compile_pattern(text: str) -> Compiled:
    """Compile a pattern.  Raises ValueError with a plain sentence."""
    simple = _simple(text)
    if simple is not None:
        return Compiled(
            text, True, simple.groups, frozenset(), simple.search, simple.sub
        )
    try:
        linear = re2.compile(text, _options())
        return Compiled(
            text,
            True,
            linear.groups,
            frozenset(linear.groupindex),
            linear.search,
            linear.sub,
        )
    except re2.error:
        pass  # the other says better what is wrong, if anything is
    import regex  # here: it takes long to import, and few patterns need it

    try:
        bounded = regex.compile(text, regex.ASCII)
    except (regex.error, OverflowError, RecursionError) as error:
        reason = _in_other_words(text) or str(error)
        raise ValueError(f"{text!r} is not a regular expression: {reason}") from error

    def search(subject: str) -> Any:
        try:
            return bounded.search(subject, timeout=MOST_SECONDS)
        except TimeoutError:
            raise PatternTooSlow(text) from None

    def sub(replace: Callable[[Any], str], subject: str) -> Any:
        try:
            return bounded.sub(replace, subject, timeout=MOST_SECONDS)
        except TimeoutError:
            raise PatternTooSlow(text) from None

    names = frozenset(bounded.groupindex)
    return Compiled(text, False, bounded.groups, names, search, sub)


def _simple(text: str) -> re.Pattern[str] | None:
    """Compile a pattern that repeats nothing; None for others, and for bad ones."""
    optional = re.findall(r"(?<![(\\?*+}])\?", text)
    plain = re.sub(r"(?<![(\\?*+}])\?", "", text)
    if len(optional) > _MOST_OPTIONAL or not _WITHOUT_REPETITION.fullmatch(plain):
        return None
    try:
        return re.compile(text, re.ASCII)
    except re.error:
        return None


def _in_other_words(text: str) -> str:
    """Return what Python's own `re` has against a pattern: it says so best."""
    try:
        with warnings.catch_warnings(action="ignore"):
            re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        return str(error)
    return ""


def _options(max_bytes: int = 8 << 20) -> Any:
    options = re2.Options()
    options.max_mem = max_bytes
    options.log_errors = False
    return options


class PatternSet:
    """Many patterns, searched for at once: a thousand cost about what one does."""

    def __init__(self, patterns: Sequence[str]) -> None:
        compiled = [compile_pattern(text) for text in patterns]
        numbered = list(enumerate(compiled))
        self._linear = [(n, each) for n, each in numbered if each.linear]
        self._slow = [(n, each) for n, each in numbered if not each.linear]
        self._match: Callable[[str], Sequence[int] | None] | None = None
        if len(self._linear) > 1:
            try:
                self._match = _automaton([each.text for _, each in self._linear])
            except re2.error:
                pass  # too large together

    def matching(self, text: str) -> list[int]:
        """Return the numbers of the patterns that are found.  Raises PatternTooSlow."""
        text = text[:MOST_CHARACTERS]
        numbers: list[int] = []
        singly = self._slow
        found = self._match(text) if self._match is not None else None
        if found is None:  # no automaton, or one that ran out of memory
            singly = [*self._linear, *self._slow]
        elif len(found) > 1:
            always = len(self._linear)
            numbers = [self._linear[n][0] for n in found if n != always]
        for number, pattern in singly:
            if pattern.search(text) is not None:
                numbers.append(number)
        numbers.sort()
        return numbers

    def any(self, text: str) -> bool:
        """Whether any of the patterns is found.  Raises PatternTooSlow."""
        return bool(self.matching(text))


def _automaton(patterns: Sequence[str]) -> Callable[[str], Sequence[int] | None]:
    """Return what finds the numbers of all that match, and one more.

    The one more always matches: without it, nothing was looked at.
    """
    automaton = re2.Set.SearchSet(_options(_SET_BYTES))
    for text in patterns:
        automaton.Add(text)
    automaton.Add("")
    automaton.Compile()
    match: Callable[[str], Sequence[int] | None] = automaton.Match
    return match


def any_of(patterns: Sequence[str]) -> Callable[[str], object] | None:
    """Return a search that is true when any pattern is found; None without patterns.

    Raises ValueError for what is no pattern.
    """
    if not patterns:
        return None
    if len(patterns) == 1:
        return compile_pattern(patterns[0]).search
    return PatternSet(patterns).any


def expand(template: str, found: Found | None) -> str:
    """Return a template with `\\1` and `\\g<name>` replaced by what groups found."""
    if "\\" not in template:
        return template

    def put(place: re.Match[str]) -> str:
        number, name, backslash = place.groups()
        if backslash or found is None:
            return "\\" if backslash else ""
        if number is None and not name.isdigit():
            return found.group(name) or ""
        return found.group(int(number or name)) or ""

    return _GROUP.sub(put, template)


def check_template(template: str, pattern: Compiled | None) -> None:
    """Refuse groups that the pattern does not have.  Raises ValueError."""
    for number, name, _ in _GROUP.findall(template):
        group = number or name
        groups = pattern.groups if pattern is not None else 0
        known = pattern.names if pattern is not None else frozenset()
        if group and not (int(group) <= groups if group.isdigit() else group in known):
            raise ValueError(f"there is no group {group} to put into {template!r}")
