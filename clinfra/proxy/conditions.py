"""What rules match: the keys that every rule of every module understands.

Pure.  Everything a rule says must hold; of a list, one is enough.  Texts are

* a literal: "/robots.txt";
* with `*`, a glob over the whole: "/img/*", "*.example.com" (`\\*` is a star);
* after `~`, a regular expression searched in it: "~^/item/\\d+$" (see `patterns`);
* for fields, cookies and query parameters also "*", which is there with any value, and
  after `!`, what must not be: "!*" is not there, "!curl*" is there not or otherwise.

Hosts are compared in lower case and without port; paths without the query, both as they
were sent and as origins may read them ("/a/%2e./b" is "/b" as well); of repeated
parameters the first counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from urllib.parse import unquote, unquote_plus

from attrs import field, fields, frozen

from clinfra.config import Pattern, key
from clinfra.patterns import Compiled, compile_pattern
from clinfra.proxy.message import Request
from clinfra.proxy.networks import Networks


@frozen(kw_only=True)
class When:
    """What a rule matches; classes of rules are made on top of this."""

    match: Pattern = key(Pattern(""), "Regular expression searched in host/path?query.")
    hosts: tuple[str, ...] = key((), 'Hosts: "a.example", "*.example" or "~REGEX".')
    paths: tuple[str, ...] = key((), 'Paths: "/a", "/a/*" or "~REGEX".')
    methods: tuple[str, ...] = key((), "Methods.")
    headers: Mapping[str, str] = key(
        (), 'Fields of the request and what is in them: as above, "*", or "!" before.'
    )
    cookies: Mapping[str, str] = key((), "Cookies and what is in them.")
    query: Mapping[str, str] = key((), "Parameters in the query and what they are.")
    networks: tuple[str, ...] = key((), "Networks that the client is in.")

    def described(self) -> str:
        """Return it in a line, for people: "paths: /a /b; methods: GET"."""
        said = []
        for each in fields(When):
            value = getattr(self, each.name)
            if isinstance(value, Mapping):
                value = [f"{name}={text}" for name, text in value.items()]
            if value:
                texts = [value] if isinstance(value, str) else value
                said.append(f"{each.name}: {' '.join(texts)}")
        return "; ".join(said) or "always"


@frozen
class Text:
    """One text of a rule.

    Attributes:
        pattern: as a regular expression, for the index.
        literal: when it is one.
        negated: it must not match.
    """

    pattern: str
    literal: str | None
    negated: bool
    matches: Callable[[str], object] = field(eq=False, repr=False)

    @classmethod
    def parse(cls, text: str, *, negatable: bool = False) -> Text:
        """Make one.  Raises ValueError."""
        negated = negatable and text.startswith("!")
        text = text[1:] if negated else text
        if text.startswith("~"):
            compiled = compile_pattern(text[1:])
            return cls(compiled.text, None, negated, compiled.search)
        literal = None
        pieces = re.split(r"(\\\*|\*)", text)
        if "*" not in pieces:
            literal = text.replace("\\*", "*")
            matches = _same(literal)
        else:
            matches = _glob(pieces)
        pattern = "".join(
            ".*" if piece == "*" else re.escape(piece.replace("\\*", "*"))
            for piece in pieces
        )
        return cls(f"(?s)^{pattern}$", literal, negated, matches)

    def holds(self, value: str | None) -> bool:
        """Whether a value, or none, is what the rule says."""
        return bool(value is not None and self.matches(value)) is not self.negated


def _same(literal: str) -> Callable[[str], object]:
    return lambda text: text == literal


def _glob(pieces: Sequence[str]) -> Callable[[str], object]:
    """Return what matches pieces of text with stars between them, in linear time."""
    parts = "".join(
        "\0" if piece == "*" else piece.replace("\\*", "*") for piece in pieces
    ).split("\0")
    first, *middle, last = parts
    shortest = sum(map(len, parts))

    def matches(text: str) -> bool:
        if len(text) < shortest or not text.startswith(first):
            return False
        if not text.endswith(last):
            return False
        position, end = len(first), len(text) - len(last)
        for part in middle:
            position = text.find(part, position, end)
            if position < 0:
                return False
            position += len(part)
        return True

    return matches


class Condition:
    """A rule's `When`, compiled.

    Attributes:
        match: the pattern, when there is one: replacements take groups from it.
        by_client: it depends on who asks.
    """

    def __init__(self, when: When) -> None:
        """Compile one.  Raises ValueError with a plain sentence."""
        self.match: Compiled | None = (
            compile_pattern(when.match) if when.match else None
        )
        self.hosts = [Text.parse(text.lower()) for text in when.hosts]
        self.paths = [Text.parse(text) for text in when.paths]
        self.methods = frozenset(
            text.upper().encode("latin-1") for text in when.methods
        )
        self.named = [
            *_named("header", {k.lower(): v for k, v in dict(when.headers).items()}),
            *_named("cookie", when.cookies),
            *_named("query", when.query),
        ]
        self.networks = Networks(when.networks)
        self.by_client = bool(when.networks)

    @property
    def empty(self) -> bool:
        """It says nothing, and holds for every request."""
        return not (
            self.match
            or self.hosts
            or self.paths
            or self.methods
            or self.named
            or self.by_client
        )

    def holds(self, request: Request) -> bool:
        """Whether it holds for a request.  Raises patterns.PatternTooSlow."""
        if self.methods and request.method not in self.methods:
            return False
        if self.hosts and not any(text.matches(request.host) for text in self.hosts):
            return False
        if self.paths and not any(
            text.matches(path)
            for path in paths_of(request.target)
            for text in self.paths
        ):
            return False
        for kind, name, text in self.named:
            if not text.holds(value_of(request, kind, name)):
                return False
        if self.match is not None and self.match.search(request.host_path) is None:
            return False
        return not self.by_client or self.networks.find(request.client_ip) is not None


def _named(kind: str, texts: Mapping[str, str]) -> Iterator[tuple[str, str, Text]]:
    for name, text in dict(texts).items():
        yield kind, name, Text.parse(text, negatable=True)


def value_of(request: Request, kind: str, name: str) -> str | None:
    """Return a header field (lower-case name), cookie or query parameter.

    Args:
        kind: "header", "cookie" or "query".
    """
    if kind == "header":
        value = request.get(name.encode("latin-1", "replace"))
        return None if value is None else value.decode("latin-1")
    if kind == "cookie":
        return request.cookies.get(name)
    return parameters(request.target).get(name)


def paths_of(target: str) -> tuple[str, ...]:
    """Return the path of a target as it was sent, and as it may be read."""
    path = target.partition("?")[0]
    if "%" not in path and "//" not in path and "/." not in path:
        return (path,)
    return _readings(path)


@lru_cache(maxsize=256)
def _readings(path: str) -> tuple[str, ...]:
    decoded = unquote(path, "latin-1")
    steps: list[str] = []
    for step in decoded.replace("\\", "/").split("/"):
        if step == "..":
            del steps[-1:]
        elif step not in ("", "."):
            steps.append(step)
    slash = "/" if steps and decoded.endswith(("/", "/.", "/..")) else ""
    plain = "/" + "/".join(steps) + slash
    return tuple(dict.fromkeys((path, decoded, plain)))


@lru_cache(maxsize=256)
def parameters(target: str) -> Mapping[str, str]:
    """Return the parameters of a target's query; the first of equal names counts."""
    found: dict[str, str] = {}
    for pair in target.partition("?")[2].split("&"):
        name, _, value = pair.partition("=")
        if name:
            found.setdefault(unquote_plus(name), unquote_plus(value))
    return found
