"""The request as rules see it, and who sent it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.proxy.clients import (
    TrustedProxies,
    forwarded_element,
    hops_of,
    hosts_of,
    proto_of,
)
from clinfra.proxy.message import Request, parse_cookies, split_authority
from clinfra.web.heads import parse_request_head


def request(target: str = "/a?b", host: str = "example.com", port: int = 0) -> Request:
    """Return a request."""
    raw = f"GET {target} HTTP/1.1\r\nHost: {host}\r\nA: 1\r\nA: 2\r\n\r\n".encode()
    head = parse_request_head(raw)
    name, _ = split_authority(host)
    return Request(
        None, head, b"GET", name, port, target, "http", head.host, head.fields, "::1"
    )


class HostPathTests(SynchronousTestCase):
    """What rules match."""

    def test_join(self) -> None:
        """Host, port unless it is the default one, target."""
        self.assertEqual("example.com/a?b", request().host_path)
        self.assertEqual("example.com:81/a?b", request(port=81).host_path)

    def test_authority(self) -> None:
        """Hosts are lower-case, without port and trailing dot."""
        for text, expected in (
            ("Example.COM", ("example.com", 0)),
            ("example.com.", ("example.com", 0)),
            ("example.com:80", ("example.com", 80)),
            ("example.com.:80", ("example.com", 80)),
            ("[::1]", ("[::1]", 0)),
            ("[::1]:80", ("[::1]", 80)),
            ("a:", ("a", 0)),
        ):
            self.assertEqual(expected, split_authority(text))

    def test_rewrite_of_the_path(self) -> None:
        """The origin still sees the Host the client sent."""
        it = request(host="Example.com:8080", port=8080)
        it.rewrite("example.com:8080/x?y")

        self.assertEqual("/x?y", it.target)
        self.assertEqual(b"Example.com:8080", it.authority)
        self.assertEqual("example.com:8080/x?y", it.host_path)

    def test_rewrite_of_the_host(self) -> None:
        """A new host goes on to the origin."""
        it = request()
        it.rewrite("other.example:81/x")

        self.assertEqual(("other.example", 81, "/x"), (it.host, it.port, it.target))
        self.assertEqual(b"other.example:81", it.authority)

    def test_fields(self) -> None:
        """Fields are read joined, set and dropped; the head as received stays."""
        it = request()
        self.assertEqual(b"1, 2", it.get(b"a"))
        it.set(b"A", b"3")
        self.assertEqual(b"3", it.get(b"a"))
        it.set(b"a", None)
        self.assertIsNone(it.get(b"a"))
        self.assertEqual(b"1, 2", it.head.get(b"a"))


class CookieTests(SynchronousTestCase):
    """Cookies."""

    def test_equals_signs(self) -> None:
        """Only the first "=" separates; later cookies are not shifted."""
        self.assertEqual(
            {"a": "b=c=", "d": "e", "q": "x y"},
            parse_cookies(b'a=b=c=; d=e; junk; =x; q="x y"; d=second'),
        )

    @settings(deadline=None)
    @given(st.binary(max_size=100))
    def test_anything(self, raw: bytes) -> None:
        """Nothing a client sends breaks it."""
        parse_cookies(raw)


class ClientTests(SynchronousTestCase):
    """Who the client is."""

    def test_table(self) -> None:
        """From the right, the first address that is not a trusted proxy."""
        trusted = TrustedProxies.parse(["10.0.0.0/8", "::1"])
        for peer, hops, client in (
            ("192.0.2.1", b"1.2.3.4", "192.0.2.1"),
            ("10.0.0.1", b"1.2.3.4", "1.2.3.4"),
            ("10.0.0.1", b"6.6.6.6, 1.2.3.4, 10.0.0.2", "1.2.3.4"),
            ("::ffff:10.0.0.1", b"1.2.3.4", "1.2.3.4"),
            ("::1", b"1.2.3.4, nonsense", "::1"),
            ("10.0.0.1", b"10.0.0.3, 10.0.0.2", "10.0.0.3"),
            ("", b"1.2.3.4", ""),
            ("10.0.0.1", b"1.2.3.4:5678", "1.2.3.4"),
            ("10.0.0.1", b"[2001:db8::1]:80, [::ffff:10.0.0.2]", "2001:db8::1"),
            ("10.0.0.1", b"2001:DB8::1", "2001:db8::1"),
            ("10.0.0.1", b"1.2.3.4, unknown", "10.0.0.1"),
        ):
            self.assertEqual(client, trusted.client(peer, (hops,)), (peer, hops))

    def test_forwarded(self) -> None:
        """RFC 7239 says who, by what scheme, and may hide it."""
        for value, hops, proto in (
            (b"for=1.2.3.4", (b"1.2.3.4",), b""),
            (b'For="[2001:db8::1]:80";Proto=HTTPS', (b"[2001:db8::1]:80",), b"https"),
            (
                b"for=1.2.3.4;proto=http, for=_x;proto=https",
                (b"1.2.3.4", b"_x"),
                b"https",
            ),
            (b"proto=https, by=1.2.3.4", (b"", b""), b""),
            (b'for="a,b;c"', (b"a,b;c",), b""),
            (b";;,=,for", (b"", b"", b""), b""),
            (b"", (), b""),
        ):
            with self.subTest(value):
                self.assertEqual(hops, hops_of((value,)))
                self.assertEqual(proto, proto_of((value,)))
        trusted = TrustedProxies.parse(["10.0.0.0/8"])
        two = hops_of((b'for="[2001:db8::1]:80"', b"for=10.0.0.2"))
        self.assertEqual("2001:db8::1", trusted.client("10.0.0.1", two))
        hidden = hops_of((b"for=1.2.3.4, for=_hidden",))
        self.assertEqual("10.0.0.1", trusted.client("10.0.0.1", hidden))

    def test_forwarded_element(self) -> None:
        """What we add can be read again."""
        for peer, node in (
            ("192.0.2.7", b"192.0.2.7"),
            ("::1", b"[::1]"),
            ("", b"unknown"),
        ):
            ours = forwarded_element(peer, "https", b"example.com:81")
            self.assertEqual((node,), hops_of((ours,)))
            self.assertEqual(b"https", proto_of((ours,)))
            self.assertEqual({b"example.com:81"}, hosts_of((ours,)))
