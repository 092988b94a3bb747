"""Which URLs, hosts and addresses pictures may be fetched from."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.errors import Forbidden, InvalidRequest
from clinfra.image.elsewhere import Hosts, check_public, is_public, parse_url


class AddressTests(SynchronousTestCase):
    def test_private(self) -> None:
        """Nothing that is not public, in whatever clothes."""
        for address in (
            *("127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.0.1"),
            *("192.168.1.1", "169.254.169.254", "100.64.0.1", "192.0.0.1"),
            *("198.18.0.1", "192.0.2.1", "224.0.0.1", "239.1.1.1", "240.0.0.1"),
            *("255.255.255.255", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1"),
            *("fd12::1", "ff02::1", "::ffff:10.0.0.1", "::ffff:8.8.8.8"),
            *("::127.0.0.1", "64:ff9b::a00:1", "64:ff9b:1::a00:1", "2002:a00:1::"),
            *("2002:808:808::", "2001:0:53aa:64c::1", "2001:db8::1", "3fff::1"),
            *("fec0::1", "100::1", "", "localhost", "8.8.8.8.", "0x7f.1", "2130706433"),
        ):
            self.assertFalse(is_public(address), address)

    def test_public(self) -> None:
        """What anybody can connect to."""
        for address in ("8.8.8.8", "93.184.216.34", "2606:4700::1", "2a00:1450::5"):
            self.assertTrue(is_public(address), address)

    def test_every_one(self) -> None:
        """One bad address among good ones is enough, and so is none at all."""
        check_public("x", ["8.8.8.8", "2606:4700::1"])
        for addresses in ([], ["8.8.8.8", "10.0.0.1"], ["::1"]):
            self.assertRaises(Forbidden, check_public, "x", addresses)


class UrlTests(SynchronousTestCase):
    def test_good(self) -> None:
        """What is fetched is what was asked for, without its fragment."""
        url = parse_url("https://Example.COM:8443/a%20b.jpg?x=1&y=2#z")
        self.assertEqual(("example.com", 8443, True), (url.host, url.port, url.secure))
        self.assertTrue(url.text.endswith("/a%20b.jpg?x=1&y=2"))
        self.assertIsNone(url.address)
        self.assertEqual(80, parse_url("http://example.com").port)
        self.assertEqual("::ffff:a00:1", parse_url("http://[::FFFF:10.0.0.1]/").address)

    def test_relative(self) -> None:
        """Redirects may be relative."""
        base = parse_url("https://example.com/a/b?c")
        self.assertEqual("https://example.com/a/d", parse_url("d", base).text)
        self.assertEqual("http://other.net/", parse_url("http://other.net", base).text)

    def test_bad(self) -> None:
        """Strange URLs are refused before anything is done with them."""
        for text in (
            "",
            "x",
            "//example.com/",
            "ftp://example.com/",
            "file:///etc/passwd",
            "gopher://example.com/",
            "http:///x",
            "http://user@example.com/",
            "http://user:password@example.com/",
            "http://example.com\\@evil.net/",
            "http://example.com/a b",
            "http://example.com/\r\nX: y",
            "http://exämple.com/",
            "http://example.com:99999/",
            "http://example.com:x/",
            "http://[::1/",
            "http://-/",
            "http://a" + "b" * 2000,
        ):
            self.assertRaises(InvalidRequest, parse_url, text)

    @settings(deadline=None)
    @given(st.text(max_size=60))
    def test_anything(self, text: str) -> None:
        """Whatever is sent, it is a URL of ours or refused."""
        for candidate in (text, "http://" + text, "https://example.com/" + text):
            try:
                url = parse_url(candidate)
            except InvalidRequest:
                continue
            self.assertTrue(url.text.isascii() and url.host)


class HostsTests(SynchronousTestCase):
    def allowed(self, entries: list[str], text: str) -> bool:
        try:
            Hosts.of(entries).check(parse_url(text))
        except Forbidden:
            return False
        return True

    def test_list(self) -> None:
        """Only what is on the list, and on the ports that are meant."""
        entries = ["Example.com", "*.cdn.net", "local.org:8080", "[2606:4700::1]:81"]
        for text, expected in (
            ("http://example.com/", True),
            ("https://EXAMPLE.com/", True),
            ("http://example.com:8080/", False),
            ("http://www.example.com/", False),
            ("http://a.b.cdn.net/", True),
            ("http://cdn.net/", False),
            ("http://evilcdn.net/", False),
            ("http://local.org:8080/", True),
            ("http://local.org/", False),
            ("http://[2606:4700::1]:81/", True),
            ("http://example.com.evil.net/", False),
            ("http://example.com./", False),
        ):
            try:
                answer = self.allowed(entries, text)
            except InvalidRequest:
                answer = False
            self.assertEqual(expected, answer, text)
        self.assertFalse(self.allowed([], "http://example.com/"))

    def test_bad_entries(self) -> None:
        """Entries that mean nothing are told when the configuration is read."""
        for text in ("", "*", "http://example.com", "a:0", "a:70000", "*.a/b", "a*.b"):
            self.assertRaises(ValueError, Hosts.of, [text])
