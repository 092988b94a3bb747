"""What rules match, and finding those that hold among many."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.config import Pattern
from clinfra.proxy.conditions import Condition, Text, When
from clinfra.proxy.message import Request
from clinfra.proxy.networks import Networks, network_of
from clinfra.proxy.rule_index import RuleIndex
from clinfra.web.heads import parse_request_head


def request(
    target: str = "/",
    *fields: str,
    host: str = "example.com",
    method: str = "GET",
    client: str = "192.0.2.7",
) -> Request:
    """Return a request as rules see it."""
    lines = (f"{method} {target} HTTP/1.1", f"Host: {host}", *fields, "", "")
    head = parse_request_head("\r\n".join(lines).encode("latin-1"))
    return Request(
        None,
        head,
        head.method,
        host,
        0,
        head.target.decode("latin-1"),
        "http",
        head.host,
        head.fields,
        client,
    )


def holds(it: Request, **when: Any) -> bool:
    """Whether a condition holds."""
    return Condition(When(**when)).holds(it)


class TextTests(SynchronousTestCase):
    """Literals, prefixes, globs and patterns."""

    def test_kinds(self) -> None:
        """Each way to write a text."""
        for text, good, bad in (
            ("/a", "/a", "/ab"),
            ("/img/*", "/img/a/b.png", "/image"),
            ("*.example.com", "a.b.example.com", "example.com"),
            ("/a*b*c", "/a-b-b-c", "/a-c-b"),
            ("a*a", "aa", "a"),
            ("*", "", None),
            (r"/\*", "/*", "/x"),
            (r"~^/item/\d+$", "/item/42", "/item/x"),
            ("/a.b", "/a.b", "/aXb"),
        ):
            parsed = Text.parse(text)
            self.assertTrue(parsed.matches(good), text)
            self.assertTrue(bad is None or not parsed.matches(bad), text)

    def test_negation(self) -> None:
        """After "!" comes what must not be."""
        absent, other = (Text.parse(t, negatable=True) for t in ("!*", "!curl*"))

        self.assertEqual((True, False), (absent.holds(None), absent.holds("x")))
        self.assertEqual(
            (True, True, False),
            (other.holds(None), other.holds("Firefox"), other.holds("curl/8")),
        )

    @settings(max_examples=100, deadline=None)
    @given(st.text("ab*", max_size=6), st.text("ab", max_size=8))
    def test_glob_is_its_pattern(self, text: str, value: str) -> None:
        """The index and the rule itself read a glob alike."""
        parsed = Text.parse(text)
        again = Text.parse("~" + parsed.pattern)

        self.assertEqual(bool(again.matches(value)), bool(parsed.matches(value)))


class ConditionTests(SynchronousTestCase):
    """Every key of `When`."""

    def test_keys(self) -> None:
        """Each of them, holding and not."""
        it = request(
            "/a/b?x=1&y=%C3%A9+z&x=2",
            "User-Agent: curl/8",
            "Cookie: lang=de; beta=1",
            host="www.example.com",
        )
        for good, bad in (
            ({"match": r"^www\.example\.com/a"}, {"match": "^/a"}),
            ({"hosts": ("x", "*.EXAMPLE.com")}, {"hosts": ("example.com",)}),
            ({"paths": ("/a/*",)}, {"paths": ("/a", "/a/b?x=1")}),
            ({"methods": ("get",)}, {"methods": ("POST",)}),
            ({"headers": {"user-AGENT": "curl*"}}, {"headers": {"Referer": "*"}}),
            ({"headers": {"Referer": "!*"}}, {"headers": {"User-Agent": "!~curl"}}),
            ({"cookies": {"lang": "de", "beta": "*"}}, {"cookies": {"lang": "en"}}),
            ({"query": {"x": "1", "y": "é z"}}, {"query": {"x": "2"}}),
            ({"networks": ("10.0.0.0/8", "192.0.2.0/24")}, {"networks": ("::/0",)}),
        ):
            self.assertTrue(holds(it, **good), good)
            self.assertFalse(holds(it, **bad), bad)
            self.assertFalse(holds(it, **{**good, **bad}), "all must hold")
        self.assertTrue(Condition(When()).empty)

    def test_paths_in_disguise(self) -> None:
        """A path cannot be hidden from a rule by writing it otherwise."""
        for target in (
            "/admin/x",
            "/%61dmin/x",
            "//admin/x",
            "/./admin/x",
            "/b/../admin/x",
            "/b/%2e%2E/admin/x",
            "/admin%2fx",
        ):
            self.assertTrue(holds(request(target), paths=("/admin/*",)), target)
            index = RuleIndex([Condition(When(paths=("/admin/*",)))])
            self.assertEqual([0], list(index.matching(request(target))), target)

    def test_mistakes(self) -> None:
        """What cannot be matched is refused when it is read."""
        for bad in (
            {"match": "("},
            {"paths": ("~(",)},
            {"headers": {"a": "~["}},
            {"networks": ("10.0.0.0/33",)},
        ):
            with self.assertRaises(ValueError):
                Condition(When(**bad))


class NetworksTests(SynchronousTestCase):
    """Addresses in networks."""

    def test_find(self) -> None:
        """IPv4, IPv6, IPv4 in IPv6, and what is no address."""
        networks = Networks(["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"])
        for address, found in (
            ("10.1.2.3", "10.0.0.0/8"),
            ("::ffff:10.1.2.3", "10.0.0.0/8"),
            ("192.0.2.7", "192.0.2.7"),
            ("192.0.2.8", None),
            ("2001:db8:1::1", "2001:db8::/32"),
            ("", None),
            ("unknown", None),
        ):
            self.assertEqual(found, networks.find(address), address)

    def test_network_of(self) -> None:
        """Neighbours are one client where one customer has a whole network."""
        self.assertEqual("192.0.2.0/24", network_of("192.0.2.7", 24, 64))
        self.assertEqual("2001:db8::/64", network_of("2001:db8::1", 32, 64))
        self.assertEqual("", network_of("", 32, 64))


TEXTS = st.sampled_from(["/a", "/a*", "*b", "~a", "~^/[ab]$", "*", "/b"])
WHENS = st.builds(
    When,
    match=st.sampled_from(["", "/a", "^example", r"(.)\1", "b$"]),
    hosts=st.lists(st.sampled_from(["example.com", "*.com", "x"]), max_size=2).map(
        tuple
    ),
    paths=st.lists(TEXTS, max_size=2).map(tuple),
    methods=st.lists(st.sampled_from(["GET", "PUT"]), max_size=1).map(tuple),
    headers=st.dictionaries(st.just("X-A"), st.sampled_from(["1", "!1", "*", "!*"])),
    cookies=st.dictionaries(st.just("c"), st.sampled_from(["1", "~2"])),
    query=st.dictionaries(st.just("q"), st.sampled_from(["1", "!2", "*"])),
    networks=st.lists(st.sampled_from(["192.0.2.0/24", "::1"]), max_size=1).map(tuple),
)
REQUESTS = st.builds(
    request,
    st.sampled_from(["/a", "/b", "/aa?q=1", "/b?q=2", "/%61"]),
    st.sampled_from(["X-A: 1", "X-A: 2", "X-B: 1"]),
    st.sampled_from(["Cookie: c=1", "Cookie: c=22", "Cookie: d=1"]),
    method=st.sampled_from(["GET", "PUT"]),
    client=st.sampled_from(["192.0.2.7", "::1", "10.0.0.1"]),
)


class RuleIndexTests(SynchronousTestCase):
    """Many rules."""

    @settings(max_examples=200, deadline=None)
    @given(st.lists(WHENS, max_size=12), REQUESTS, st.integers(0, 5))
    def test_as_one_by_one(self, whens: list[When], it: Request, first: int) -> None:
        """The index finds what asking each rule in turn finds."""
        conditions = [Condition(when) for when in whens]
        expected = [
            number
            for number, condition in enumerate(conditions)
            if number >= first and condition.holds(it)
        ]
        self.assertEqual(expected, list(RuleIndex(conditions).matching(it, first)))

    def test_a_thousand(self) -> None:
        """Of a thousand rules only those are asked that may hold."""
        whens = [
            (
                When(match=Pattern(rf"^shop{n}\.example/")),
                When(paths=(f"/old/{n}/*", f"/exactly/{n}")),
                When(headers={"User-Agent": f"*Robot{n}*"}),
                When(hosts=(f"h{n}.example",), cookies={"a": "b"}),
                When(networks=(f"10.{n >> 8}.{n & 255}.0/24",)),
            )[n % 5]
            for n in range(1000)
        ]
        asked: list[int] = []

        class Watched(Condition):
            def __init__(self, number: int) -> None:
                super().__init__(whens[number])
                self._number = number

            def holds(self, request: Request) -> bool:
                asked.append(self._number)
                return super().holds(request)

        index = RuleIndex([Watched(number) for number in range(1000)])
        self.assertEqual([], list(index.matching(request("/new", "User-Agent: x"))))
        self.assertEqual([], asked)

        it = request("/old/1/x", "User-Agent: Robot2", client="10.0.4.1")
        self.assertEqual([1, 2, 4], list(index.matching(it)))
        self.assertEqual([1, 2, 4], asked)
