"""What operators name is brought to what the cache knows."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.admin.pages import MOST_PAGES, Namer, split_list
from clinfra.errors import InvalidRequest, TooLarge


class NamerTests(SynchronousTestCase):
    """From URLs and host/paths to host_paths."""

    def setUp(self) -> None:
        self.namer = Namer(proxy_ports=[8080], default_port=80, admin_port=8090)

    def test_names(self) -> None:
        """A page is named by URL, by host_path, or by PURGE on the admin listener."""
        for page, expected in {
            "http://example.com:8080/a?b": "example.com:8080/a?b",
            "https://Example.COM./a#c": "example.com:8080/a",
            "example.com:8080/a": "example.com:8080/a",
            "example.com:80/a": "example.com/a",
            "example.com/a": "example.com:8080/a",
            "localhost:8090/a": "localhost:8080/a",
            "example.com": "example.com:8080/",
            "example.com?q": "example.com:8080/?q",
            "[::1]:8090/a": "[::1]:8080/a",
        }.items():
            self.assertEqual([expected], self.namer.host_paths(page), page)

    def test_default_port(self) -> None:
        """A proxy on the default port has it left out."""
        namer = Namer(proxy_ports=[80], default_port=80, admin_port=8090)

        self.assertEqual(["example.com/a"], namer.host_paths("http://example.com/a"))

    def test_several_listeners(self) -> None:
        """A page named without a port is meant on every listener."""
        namer = Namer(proxy_ports=[80, 8080], default_port=80, admin_port=8090)

        self.assertEqual(["h/a", "h:8080/a"], namer.host_paths("h/a"))

    def test_nonsense(self) -> None:
        """What is no page is refused."""
        for page in ("", "/a", "a b", "http://", "http://h:x/", "ftp://h/a", "h:1:2/"):
            with self.assertRaises(InvalidRequest):
                self.namer.host_paths(page)

    @given(st.text(max_size=60))
    @settings(deadline=None)
    def test_anything(self, page: str) -> None:
        """Anything is a page or refused, never anything else."""
        try:
            names = self.namer.host_paths(page)
        except InvalidRequest:
            return
        for name in names:
            self.assertIn("/", name)


class ListTests(SynchronousTestCase):
    """Lists of pages."""

    def test_lines(self) -> None:
        """One page a line; blank lines and repeats do not count."""
        self.assertEqual(["a/", "b/"], split_list(b"a/\r\n\n b/ \na/\n"))

    def test_bounds(self) -> None:
        """Lists have an end, and are text."""
        with self.assertRaises(TooLarge):
            split_list(b"".join(b"%d\n" % n for n in range(MOST_PAGES + 1)))
        with self.assertRaises(InvalidRequest):
            split_list(b"\xff")
