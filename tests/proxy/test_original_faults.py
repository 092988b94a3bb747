"""The faults of the original proxy, each proven absent (numbers of its list of faults).

Here are those that no other test is about.  The others:

* 1, 9: test_forwarder (all_dead, empty_pool)
* 2, 3, 4: test_wire_proxy (memcached_stalls_...)
* 6: test_direct_cache (stampede); 8: test_forwarder (dead_member)
* 10: test_forwarder (slow_client); 11: tests.web.test_channel_framing
* 12: tests.web.test_transport; 14: tests.wire.test_wire_startup (as_a_daemon)
* 13, 15, 16: tests.test_settings, tests.test_daemon
* 19, 27, 28, 29: test_direct_cache (head_of_a_cached_page, post_is_never_...,
  conditional_request, range, cut_body, long_urls)
* 23: test_forwarder (hop_by_hop), test_direct_cache (hop_by_hop_fields)
* 30, 31: test_direct_cache (cookie, concurrent_cookies, accept_encoding)
* 32, 34, 35: test_direct_cache (table, authorization); 37: (304_refreshes)
* 39: test_memcached (as_pymemcache, round_trip); 43: test_status_page (page)
* 44: test_modules (remote_ip); 46: test_message (equals_signs)
* 40 to 42 also: tests.wire (malformed_requests, same_meaning)

45 is twistd's affair: its --uid and --gid change the real ids, groups first.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

import clinfra
from clinfra.config import PoolConfig, RouteConfig
from tests.proxy.stage import Asked, Stage, response
from tests.proxy.test_memcached import World

FRESH = "Cache-Control: max-age=60"


def say(answer: bytes, asked: Asked) -> bytes:
    """Answer always the same."""
    return answer


def raw(stage: Stage, request: bytes) -> bytes:
    """Send bytes on a new connection; return what comes back."""
    client = stage.client()
    client.send(request)
    stage.turn()
    return bytes(client.received)


class AvailabilityTests(SynchronousTestCase):
    """Nothing hangs, nothing exits."""

    def test_5_many_pending_keys(self) -> None:
        """Thousands of keys asked of memcached at once are answered, all of them."""
        world = World()
        line = world.accept()
        found = [world.get(b"k%d" % number) for number in range(5000)]
        world.turn()
        asked = line.take()
        line.send(b"END\r\n" * asked.count(b"\r\n"))

        self.assertEqual([[None]] * 5000, found)
        world.cache.stop()

    def test_7_origin_stops_in_its_body(self) -> None:
        """An origin that falls silent inside its answer is given up in time."""
        stage = Stage(
            self,
            lambda asked: response(b"ha", FRESH, length=4),
            pools={"origin": PoolConfig(members=("o1:80",), read_timeout=5)},  # type: ignore[arg-type] # seconds
        )
        client = stage.ask("/a")
        stage.pass_time(8)

        self.assertTrue(client.closed)
        self.assertTrue(stage.asked[0].line.lost)


class CorrectnessTests(SynchronousTestCase):
    """HTTP as it is written."""

    def test_17_no_fields(self) -> None:
        """A request without any header field is answered at once."""
        stage = Stage(self, default_host="example.com")
        self.assertIn(b"hello", raw(stage, b"GET / HTTP/1.0\r\n\r\n"))
        self.assertEqual("example.com", stage.asked[0].field("host"))

    def test_18_no_page_inside_an_answer(self) -> None:
        """However long an answer takes, no error page is written into it."""
        stage = Stage(
            self,
            lambda asked: response(b"begun", length=11),
            pools={"origin": PoolConfig(members=("o1:80",), read_timeout=900)},  # type: ignore[arg-type] # seconds
        )
        client = stage.ask("/")
        stage.pass_time(400)
        stage.asked[0].line.send(b" ended")
        stage.turn()

        (answer,) = client.answers()
        self.assertEqual((200, b"begun ended"), (answer.status, answer.body))

    def test_20_versions(self) -> None:
        """Bad requests get a status line of ours, whatever version they name."""
        stage = Stage(self)
        for line in (b"GET /", b"GET / HTTP/0.9", b"GET / HTTP/9.9", b"nonsense"):
            with self.subTest(line):
                answer = raw(stage, line + b"\r\nHost: x\r\n\r\n")
                self.assertRegex(answer, rb"\AHTTP/1\.1 (400|505) ")
        self.assertEqual([], stage.asked)

    def test_21_lengths(self) -> None:
        """Redirects and refusals say how long they are."""
        rules = {"redirects": (("/old", "/old", "/new"), ("/gone", "/gone"))}
        stage = Stage(self, modules={"Redirector": rules})
        for path, status in (("/old", 302), ("/gone", 404)):
            answer = stage.get(path)
            self.assertEqual(status, answer.status)
            self.assertEqual(str(len(answer.body)), answer.fields["Content-Length"])

    def test_22_kept_chunks(self) -> None:
        """What came in chunks is kept without them; HTTP/1.0 gets it plain."""
        chunked = (
            f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{FRESH}\r\n\r\n"
            "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
        )
        stage = Stage(self, lambda asked: chunked.encode())
        self.assertEqual(b"hello", stage.get("/a").body)
        self.assertEqual("5", stage.get("/a").fields["Content-Length"])
        old = raw(stage, b"GET /a HTTP/1.0\r\nHost: example.com\r\n\r\n")
        self.assertTrue(old.endswith(b"\r\n\r\nhello"), old)
        self.assertNotIn(b"chunked", old)
        self.assertEqual(1, len(stage.asked))

    def test_24_connections_are_kept(self) -> None:
        """On both sides: many requests take one connection each way."""
        stage = Stage(self)
        client = stage.client()
        for number in range(5):
            client.send(b"GET /%d HTTP/1.1\r\nHost: example.com\r\n\r\n" % number)
            stage.turn()

        self.assertEqual(5, len(client.answers()))
        self.assertFalse(client.closed)
        self.assertEqual(1, len(stage.dials))

    def test_25_absolute_targets(self) -> None:
        """The host of an absolute target is the host, also with https."""
        stage = Stage(self)
        for scheme in (b"http", b"https", b"HTTP"):
            raw(
                stage,
                b"GET %b://real.example/a HTTP/1.1\r\nHost: other\r\n\r\n" % scheme,
            )
        self.assertEqual(
            [("real.example", b"/a")] * 3,
            [(asked.field("host"), asked.target) for asked in stage.asked],
        )

    def test_26_redirects_keep_the_scheme(self) -> None:
        """Who came by https is sent on by https."""
        stage = Stage(
            self,
            modules={"Redirector": {"moves": (("/old", "/old", "/new"),)}},
            trusted_proxies=("192.0.2.0/24",),
        )
        answer = stage.get("/old", "X-Forwarded-Proto: https")
        self.assertEqual("https://example.com/new", answer.fields["Location"])


class CacheTests(SynchronousTestCase):
    """What is kept, and for whom."""

    def test_33_two_cache_controls(self) -> None:
        """All lines of Cache-Control count, in any case, whatever Expires says."""
        for lines in (
            ("Cache-Control: private", "Cache-Control: no-store"),
            ("Cache-Control: max-age=60", "cache-control: NO-STORE"),
            ("Cache-Control: public", "Cache-Control: Private"),
        ):
            with self.subTest(lines):
                answer = response(
                    b"a", "Expires: Thu, 01 Jan 2037 00:00:00 GMT", *lines
                )
                stage = Stage(self, partial(say, answer))
                stage.get("/a")
                stage.get("/a")
                self.assertEqual(2, len(stage.asked))

    def test_38_fields_of_hits(self) -> None:
        """What is added to a hit goes to its fields; its body stays as it is."""
        stamp = {"match": "", "set": {"X-Stamped": "yes"}}
        body = b"first\r\n\r\nsecond\r\n\r\n"
        stage = Stage(
            self,
            lambda asked: response(body, FRESH, "X-Own: 1"),
            modules={"HeaderStamper": {"modify_response_headers": [stamp]}},
        )
        for _ in range(3):
            answer = stage.get("/a")
            self.assertEqual(body, answer.body)
            self.assertEqual(
                ["yes", "1"], [answer.fields[name] for name in ("X-Stamped", "X-Own")]
            )
        self.assertEqual(1, len(stage.asked))
        self.assertEqual(1, len(answer.fields.get_all("Age") or ()))

    def test_36_purge_says_what_it_did(self) -> None:
        """Gone from the hot tier, too, when the purge is answered, and counted."""
        stage = Stage(self, lambda asked: response(b"a", FRESH))
        for _ in range(3):
            stage.get("/a")
        known: list[int] = []
        raw(stage, b"GET /\xc3\xa9 HTTP/1.1\r\nHost: example.com\r\n\r\n")
        purging = stage.proxy.purge(
            ["http://example.com:8080/a", "example.com/b", "example.com/\xe9"]
        )
        Deferred.fromCoroutine(purging).addCallback(known.append)
        self.assertEqual([2], known)
        stage.get("/a")
        self.assertEqual(3, len(stage.asked))


class SecurityTests(SynchronousTestCase):
    """What reaches an origin is what was understood here."""

    def test_40_odd_names(self) -> None:
        """A field without a name is refused; one named 0 is a field."""
        stage = Stage(self)
        head = b"POST / HTTP/1.1\r\nHost: x\r\n%b: x\r\nContent-Length: 2\r\n\r\nhi"
        self.assertTrue(raw(stage, head % b"").startswith(b"HTTP/1.1 400 "))
        self.assertEqual([], stage.asked)
        self.assertTrue(raw(stage, head % b"0").startswith(b"HTTP/1.1 200 "))
        self.assertEqual(b"hi", stage.asked[0].body)

    def test_41_ambiguous_framing(self) -> None:
        """Two lengths, two framings or a blank before the colon reach no origin."""
        stage = Stage(self)
        for fields in (
            b"Content-Length: 2\r\nContent-Length: 2",
            b"Content-Length: 2\r\nContent-Length: 3",
            b"Content-Length: 2\r\nTransfer-Encoding: chunked",
            b"Content-Length : 2",
            b"Transfer-Encoding : chunked",
            b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        ):
            with self.subTest(fields):
                head = b"POST / HTTP/1.1\r\nHost: x\r\n" + fields + b"\r\n\r\nhi"
                answer = raw(stage, head)
                self.assertTrue(answer.startswith(b"HTTP/1.1 400 "), answer)
                self.assertIn(b"\r\nConnection: close\r\n", answer)
        self.assertEqual([], stage.asked)

    def test_42_bytes_after_a_request(self) -> None:
        """They are the next request, with a head of its own at the origin."""
        stage = Stage(self, lambda asked: response(asked.target))
        two = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\nHost: x\r\n\r\n"
        answers = raw(stage, two)

        self.assertEqual([b"/a", b"/b"], [asked.target for asked in stage.asked])
        self.assertEqual(2, answers.count(b"HTTP/1.1 200 OK\r\n"))
        for asked in stage.asked:
            self.assertIsNotNone(asked.field("via"))
            self.assertEqual(b"", asked.body)

    def test_47_no_file_of_a_known_name(self) -> None:
        """Nothing is written where everybody can write."""
        for path in Path(clinfra.__file__).parent.rglob("*.py"):
            self.assertNotIn("/tmp", path.read_text(encoding="utf-8"), path)

    def test_one_pool_is_not_another(self) -> None:
        """A target that looks like another route's goes where its bytes say."""
        stage = Stage(
            self,
            pools={
                "open": PoolConfig(members=("open:80",)),
                "closed": PoolConfig(members=("closed:80",)),
            },
            routes=(
                RouteConfig(pool="closed", prefix="/closed/"),
                RouteConfig(pool="open", prefix="/"),
            ),
        )
        targets = (
            "/closed/a",
            "//closed/a",
            "/CLOSED/a",
            "/%63losed/a",
            "/x/../closed/a",
        )
        for target in targets:
            stage.get(target)
        self.assertEqual(
            ["closed:80", *["open:80"] * 4], [asked.origin for asked in stage.asked]
        )
        self.assertEqual(
            [target.encode() for target in targets],
            [asked.target for asked in stage.asked],
        )
