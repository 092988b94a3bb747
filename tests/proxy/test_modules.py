"""Redirector, HeaderStamper, Exceptions, Welcome and Logger, one promise at a time."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from typing import Any

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.config import PoolConfig
from clinfra.errors import ConfigProblems
from clinfra.proxy.modules.logger import (
    MAX_UDP_BYTES,
    Line,
    udp_datagram,
    unix_datagram,
)
from tests.proxy.stage import Stage, response
from tests.web.clients import Client


class RedirectorTests(SynchronousTestCase):
    """Redirects, moves, rewrites and removals."""

    def stage(self, **options: Any) -> Stage:
        """Return a stage with these rules."""
        return Stage(self, modules={"Redirector": options})

    def assert_redirect(
        self, stage: Stage, target: str, *fields: str, to: str | None, status: int = 302
    ) -> None:
        """Assert where a request is sent; None: nowhere."""
        answer = stage.get(target, *fields)
        if to is None:
            self.assertEqual(200, answer.status)
            return
        self.assertEqual((status, to), (answer.status, answer.fields["Location"]))
        self.assertIn("Content-Length", answer.fields)

    def test_moves_and_redirects(self) -> None:
        """301 and 302; literal text, groups, and nothing that changes nothing."""
        stage = self.stage(
            moves=[["^example.com/old", "/old", "/new"]],
            redirects=[
                ["/gone$", "/gone"],
                ["/item/", r"/item/(\d+)", r"/thing?id=\1"],
                ["/dollar", "/dollar", "/$1"],
                ["/same", "/same", "/same"],
                ["/https", "^.*$", "https://other.example/x"],
            ],
        )
        for target, to, status in (
            ("/old/a", "http://example.com/new/a", 301),
            ("/item/42", "http://example.com/thing?id=42", 302),
            ("/dollar", "http://example.com/$1", 302),
            ("/https", "https://other.example/x", 302),
            ("/same", None, 200),
            ("/other", None, 200),
        ):
            self.assert_redirect(stage, target, to=to, status=status)
        self.assertEqual(404, stage.get("/gone").status)

    def test_by_client(self) -> None:
        """Rules for some clients do not keep hits of each from the fast lane."""
        stage = Stage(
            self,
            lambda asked: response(b"x", "Cache-Control: max-age=60"),
            modules={
                "Redirector": {
                    "rules": [{"networks": ["10.0.0.0/8"], "redirect": "/inside"}]
                }
            },
        )
        inside = Client(stage.site, stage.clock, address="10.0.0.1")
        outside = stage.client()
        for _ in range(3):
            for client in (outside, inside):
                client.send(b"GET /a HTTP/1.1\r\nHost: example.com\r\n\r\n")
                stage.turn()
        statuses = [[a.status for a in each.answers()] for each in (outside, inside)]

        self.assertEqual([[200] * 3, [302] * 3], statuses)
        self.assertGreater(stage.proxy.pipeline.hits, 0)

    def test_scheme(self) -> None:
        """A client that came by https stays there."""
        stage = Stage(
            self,
            modules={"Redirector": {"moves": [["/a", "/a", "/b"]]}},
            trusted_proxies=("192.0.2.7",),
        )
        self.assert_redirect(
            stage,
            "/a",
            "X-Forwarded-Proto: https",
            to="https://example.com/b",
            status=301,
        )

    def test_cookies(self) -> None:
        """A cookie's value in a redirect, and in a rewrite."""
        stage = self.stage(
            cookie_redirects={"lang": [["/home$", "home"]]},
            cookie_rewrites={"city": [["/near", "near", "city/COOKIE"]]},
        )
        self.assert_redirect(
            stage, "/home", "Cookie: x=1=2; lang=de", to="http://example.com/de"
        )
        self.assert_redirect(stage, "/home", to=None)
        stage.get("/near", "Cookie: city=a b")
        self.assertEqual(b"/city/a%20b", stage.asked[-1].target)

    def test_referer_and_agent(self) -> None:
        """By where a request comes from, and by what sends it."""
        stage = self.stage(
            referer_redirects=[["thief", "^.*$", "example.com/no"], ["spam", "."]],
            referer_referer_redirects=[["/back", "shop.example", "shop.example/b"]],
            agent_redirects=[["Robot", "/page", "/robots"]],
        )
        for target, field, to in (
            ("/x", "Referer: http://thief/", "http://example.com/no"),
            ("/page", "User-Agent: A Robot", "http://example.com/robots"),
            ("/x", "User-Agent: A Robot", None),
            ("/back", "Referer: http://shop.example/a", "http://shop.example/b/a"),
            ("/back", "Referer: HTTPS://shop.example/", "HTTPS://shop.example/b/"),
            ("/page", "User-Agent: Someone", None),
        ):
            self.assert_redirect(stage, target, field, to=to)
        self.assertEqual(404, stage.get("/x", "Referer: spam").status)

    def test_rewrites(self) -> None:
        """Every matching rule applies in turn; the origin gets the result."""
        stage = self.stage(
            rewrites=[
                ["^example.com/a", "/a", "/b"],
                ["/b$", "^example.com", "new.com"],
            ]
        )
        stage.get("/a")

        self.assertEqual(b"/b", stage.asked[0].target)
        self.assertEqual("new.com", stage.asked[0].field("host"))

    def test_rewritten_pages_are_kept_under_their_new_name(self) -> None:
        """Two names that are rewritten to one share its page."""
        stage = Stage(
            self,
            lambda asked: response(b"x", "Cache-Control: max-age=9"),
            modules={"Redirector": {"rewrites": [["/a", "/a", "/b"]]}},
        )
        stage.get("/a")
        stage.get("/b")

        self.assertEqual(1, len(stage.asked))

    def test_line_breaks(self) -> None:
        """Nothing a client sends splits the answer."""
        stage = self.stage(cookie_redirects={"to": [["/", "^.*$"]]})
        answer = stage.get("/", "Cookie: to=evil\texample\xff")

        self.assertEqual("http://evil%09example%FF", answer.fields["Location"])

    def test_bad_rules(self) -> None:
        """Rules that cannot work are refused, each with its place."""
        with self.assertRaises(ConfigProblems) as caught:
            self.stage(moves=[["a", "b"]], redirects=[["(", "b"], ["a", "b", r"\1"]])
        problems = caught.exception.problems
        for problem, place in zip(
            problems, ("moves[0]", "redirects[0]", "redirects[1]"), strict=True
        ):
            self.assertIn(f".{place}: ", problem)


class HeaderStamperTests(SynchronousTestCase):
    """Fields set and dropped."""

    def test_on_the_way_out(self) -> None:
        """What depends on the client is stamped after the cache, on every answer."""
        stage = Stage(
            self,
            lambda asked: response(b"x", "Cache-Control: max-age=60"),
            modules={
                "HeaderStamper": {
                    "modify_delivered_headers": [
                        {"networks": ["10.0.0.0/8"], "set": {"X-Inside": "1"}},
                        {"set": {"X-Inside": "0"}},
                    ],
                }
            },
            trusted_proxies=("192.0.2.7",),
        )
        inside, outside = (f"X-Forwarded-For: {n}" for n in ("10.0.0.1", "198.51.1.1"))
        answers = [stage.get("/a", f) for f in (inside, outside, inside, outside)]

        self.assertEqual(1, len(stage.asked))
        self.assertEqual(
            ["1", "0", "1", "0"], [answer.fields["X-Inside"] for answer in answers]
        )
        refused = stage.get("/a", outside, method="PURGE")
        self.assertEqual((403, "0"), (refused.status, refused.fields["X-Inside"]))

    def test_what_is_kept_for_all(self) -> None:
        """Answers are not kept with what only some clients should get."""
        for when in ({"networks": ["10.0.0.0/8"]}, {"cookies": {"a": "*"}}):
            with self.assertRaises(ConfigProblems):
                Stage(
                    self,
                    modules={"HeaderStamper": {"modify_response_headers": [when]}},
                )

    def test_both_ways(self) -> None:
        """The first matching rule of each list is applied."""
        stage = Stage(
            self,
            lambda asked: response(b"x", "Server: origin", 'ETag: "1"'),
            modules={
                "HeaderStamper": {
                    "modify_request_headers": [
                        {"match": "/a", "set": {"X-A": "1"}, "drop": ["Cookie"]},
                        {"set": {"X-A": "2"}},
                    ],
                    "modify_response_headers": [
                        {"match": "/a", "set": {"X-B": "3"}, "drop": ["Server"]}
                    ],
                }
            },
        )
        answer = stage.get("/a", "Cookie: a=b")
        stage.get("/b", "Cookie: a=b")

        a, b = stage.asked
        self.assertEqual(("1", None), (a.field("x-a"), a.field("cookie")))
        self.assertEqual(("2", "a=b"), (b.field("x-a"), b.field("cookie")))
        self.assertEqual(("3", '"1"'), (answer.fields["X-B"], answer.fields["ETag"]))
        self.assertNotEqual("origin", answer.fields["Server"])

    def test_governs_the_cache(self) -> None:
        """A Cache-Control stamped on an answer decides about keeping it."""
        stamp = {"set": {"Cache-Control": "max-age=60"}}
        stage = Stage(
            self, modules={"HeaderStamper": {"modify_response_headers": [stamp]}}
        )
        stage.get("/a")
        stage.get("/a")

        self.assertEqual(1, len(stage.asked))

    def test_refusals(self) -> None:
        """Names that are none, line breaks, and the framing are refused."""
        for stamp in (
            {"set": {"a b": "c"}},
            {"set": {"a": "b\r\nc: d"}},
            {"set": {"Content-Length": "1"}},
            {"drop": ["Transfer-Encoding"]},
        ):
            options = {"HeaderStamper": {"modify_request_headers": [stamp]}}
            with self.assertRaises(ConfigProblems):
                Stage(self, modules=options)

    def test_remote_ip(self) -> None:
        """The address in a field is believed from trusted proxies only."""
        for trusted, expected in (((), "192.0.2.7"), (("192.0.2.7",), "1.2.3.4")):
            lines: list[Any] = []
            stage = Stage(
                self,
                trusted_proxies=trusted,
                modules={
                    "HeaderStamper": {"remote_ip_header": "X-Real-IP"},
                    "Logger": {"domain_sock": "/nonexistent"},
                },
            )
            logger: Any = stage.proxy.pipeline.modules[0]
            logger._targets = [Target(lines)]
            stage.get("/", "X-Real-IP: 1.2.3.4")
            self.assertEqual([expected], [line.client_ip for line in lines])


class Target:
    """Where a Logger's lines go in a test."""

    def __init__(self, lines: list[Line]) -> None:
        self.send = lines.append

    def close(self) -> None:
        pass


class ExceptionsTests(SynchronousTestCase):
    """Pages for trouble."""

    def test_own_page(self) -> None:
        """The operator's page, status and fields are shown for its event."""
        stage = Stage(
            self,
            pools={"origin": PoolConfig()},
            modules={
                "Exceptions": {
                    "origin_connect_max_retries": {
                        "status": 500,
                        "content": "<h1>Later</h1>",
                        "content_type": "text/html",
                        "headers": {"X-Page": "1"},
                    }
                }
            },
        )
        answer = stage.get("/")

        self.assertEqual((500, b"<h1>Later</h1>"), (answer.status, answer.body))
        self.assertEqual("text/html", answer.fields["Content-Type"])
        self.assertEqual("1", answer.fields["X-Page"])

    def test_default(self) -> None:
        """Without one the original's text is shown."""
        stage = Stage(self, pools={"origin": PoolConfig()})

        self.assertEqual(
            b"Unable to process request, please try again.\n", stage.get("/").body
        )


class WelcomeTests(SynchronousTestCase):
    """The page on "/"."""

    def test_shown(self) -> None:
        """It is shown where nothing else is routed, and runs no script."""
        stage = Stage(self, routes=())
        answer = stage.get("/", host="example.com:8080")

        self.assertEqual(200, answer.status)
        self.assertIn(b"http://example.com:8080/image/", answer.body)
        self.assertIn("default-src 'none'", answer.fields["Content-Security-Policy"])
        self.assertEqual(404, stage.get("/other").status)

    def test_escaped(self) -> None:
        """Nothing of the request is taken as HTML."""
        stage = Stage(self, routes=())
        answer = stage.get("/?<script>", host="a&b'c")

        self.assertNotIn(b"<script>", answer.body)
        self.assertNotIn(b"a&b'c", answer.body)

    def test_not_in_the_way(self) -> None:
        """A route to everything includes "/"."""
        self.assertEqual(b"hello", Stage(self).get("/").body)


LINE = Line(
    timestamp=1795322509.5,
    node="127.0.0.1",
    port=8490,
    client_ip="10.1.2.3",
    method="GET",
    host="b.example",
    protocol="HTTP/1.1",
    status=200,
    bytes_out=1024,
    served_by="Forwarder",
    origin_host="127.0.0.1",
    origin_port="8400",
    request_seconds=0.012,
    forward_seconds=0.005,
    wants_gzip=False,
    x_forwarded_for="127.0.0.1",
    throttled="",
    session_cookie="",
    format_cookie="",
    uri="/pass/1k.html",
    user_agent="ua/1",
    referer="http://r/",
)


class LoggerTests(SynchronousTestCase):
    """Datagrams."""

    def test_udp(self) -> None:
        """30 values after the version, in the original's order."""
        values = udp_datagram(LINE).decode().split("\n")

        self.assertEqual(31, len(values))
        self.assertEqual(
            "4 1795322509 127.0.0.1 10.1.2.3 GET b.example 8490 HTTP/1.1 200 1024"
            " Forwarder 127.0.0.1 8400 - - 0.012000 0.007000 0 0 0.005000 0 0 0"
            " 127.0.0.1 - - - - /pass/1k.html ua/1 http://r/",
            " ".join(values),
        )

    def test_udp_cut(self) -> None:
        """A long one is cut, and says so."""
        raw = udp_datagram(evolve(LINE, uri="/" + "x" * 5000))

        self.assertEqual(MAX_UDP_BYTES, len(raw))
        self.assertTrue(raw.endswith(b"%BORK%"))

    def test_unix(self) -> None:
        """Tab-separated, in order of importance, without what is empty."""
        self.assertEqual(
            b"\tx:0\tt:1795322510\tn:127.0.0.1:8490\ti:10.1.2.3"
            b"\to:Forwarder:127.0.0.1:8400\ts:200\tb:1024\tm:GET\th:b.example"
            b"\tp:/pass/1k.html\tu:ua/1\tr:http://r/\t\n",
            unix_datagram(LINE, 10_000),
        )

    @settings(deadline=None)
    @given(st.integers(20, 400), st.text(max_size=300))
    def test_unix_cut(self, size: int, agent: str) -> None:
        """It never exceeds its size, and no value breaks the line."""
        raw = unix_datagram(evolve(LINE, user_agent=agent), size)

        self.assertLessEqual(len(raw), size)
        self.assertTrue(raw.endswith(b"\t\n"))
        self.assertEqual(1, raw.count(b"\n"))

    def test_over_sockets(self) -> None:
        """Each request is one datagram to each target; a missing one hurts nobody."""
        directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, directory)
        path = os.path.join(directory, "log")
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        unix = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(udp.close)
        self.addCleanup(unix.close)
        udp.bind(("127.0.0.1", 0))
        udp.settimeout(5)
        unix.settimeout(5)
        stage = Stage(
            self,
            modules={
                "Logger": {
                    "log_host_ip": "127.0.0.1",
                    "log_host_port": udp.getsockname()[1],
                    "domain_sock": path,
                    "session_cookie": "sid",
                }
            },
        )
        stage.get("/nobody-listens")
        udp.recv(2000)
        unix.bind(path)
        stage.pass_time(3)
        stage.get("/a?b", "Cookie: sid=s1", "User-Agent: me")

        values = udp.recv(2000).decode().split("\n")
        line = unix.recv(2000)
        self.assertEqual(("/a?b", "me", "s1"), (values[28], values[29], values[26]))
        self.assertIn(b"\to:Forwarder:o1:80\ts:200\tb:5\tc:s1\t", line)
        stopped = stage.proxy.stopService()
        stage.turn()
        self.successResultOf(stopped)
