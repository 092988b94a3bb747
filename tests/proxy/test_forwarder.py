"""Forwarding as clients and origins see it: a whole proxy, in memory."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from clinfra.config import PoolConfig, RouteConfig
from clinfra.proxy.message import Request
from clinfra.proxy.rules import RuleModule
from tests.proxy.stage import Asked, Stage, response

TWO = {"origin": PoolConfig(members=("o1:80", "o2:80"))}


class HygieneTests(SynchronousTestCase):
    """What crosses the proxy, and what does not."""

    def test_fields_of_our_own(self) -> None:
        """The origin learns who asks, for what host and by which way."""
        stage = Stage(self)
        stage.get("/a?b=c", "X-Other: 1", host="Example.com")

        (asked,) = stage.asked
        self.assertEqual(b"/a?b=c", asked.target)
        for name, value in (
            ("host", "Example.com"),
            ("x-other", "1"),
            ("x-forwarded-for", "192.0.2.7"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "Example.com"),
            ("via", "1.1 clinfra"),
        ):
            self.assertEqual(value, asked.field(name), name)

    def test_hop_by_hop(self) -> None:
        """Fields of the client's connection, and those it names, stay there."""
        stage = Stage(self)
        stage.get(
            "/",
            "Connection: X-Mine, keep-alive",
            "X-Mine: 1",
            "Keep-Alive: timeout=5",
            "TE: trailers",
            "Proxy-Authorization: Basic eA==",
            "Upgrade: h2c",
        )

        (asked,) = stage.asked
        for name in ("x-mine", "keep-alive", "te", "proxy-authorization", "upgrade"):
            self.assertIsNone(asked.field(name), name)

    def test_connection_cannot_name_away_the_host(self) -> None:
        """Naming Host or Content-Length in Connection removes nothing."""
        stage = Stage(self)
        stage.get("/", "Connection: host, content-length", method="PUT", body=b"abc")

        (asked,) = stage.asked
        self.assertEqual(("example.com", b"abc"), (asked.field("host"), asked.body))

    def test_strangers_claims(self) -> None:
        """X-Forwarded-For of a stranger is set aside, not believed."""
        stage = Stage(self)
        stage.get("/", "X-Forwarded-For: 10.0.0.1", "Forwarded: for=10.0.0.1")

        (asked,) = stage.asked
        self.assertEqual("192.0.2.7", asked.field("x-forwarded-for"))
        self.assertEqual("10.0.0.1", asked.field("x-forwarded-for-from-client"))
        self.assertIsNone(asked.field("forwarded"))

    def test_trusted_proxies(self) -> None:
        """What a trusted proxy says is believed and continued."""
        stage = Stage(self, trusted_proxies=("192.0.2.0/24",))
        stage.get("/", "X-Forwarded-For: 10.0.0.1", "X-Forwarded-Proto: https")

        (asked,) = stage.asked
        self.assertEqual("10.0.0.1, 192.0.2.7", asked.field("x-forwarded-for"))
        self.assertEqual("https", asked.field("x-forwarded-proto"))

    def test_circle(self) -> None:
        """A request that came through here very often is refused."""
        stage = Stage(self)
        via = "Via: " + ", ".join(["1.1 clinfra"] * 20)

        self.assertEqual(400, stage.get("/", via).status)
        self.assertEqual([], stage.asked)

    def test_trace_and_options(self) -> None:
        """TRACE is refused; OPTIONS meant for us is answered here."""
        stage = Stage(self)

        self.assertEqual(403, stage.get("/", method="TRACE").status)
        self.assertEqual(
            204, stage.get("/", "Max-Forwards: 0", method="OPTIONS").status
        )
        stage.get("/", "Max-Forwards: 5", method="OPTIONS")
        (asked,) = stage.asked
        self.assertEqual("4", asked.field("max-forwards"))

    def test_heads_made_once(self) -> None:
        """What is remembered of one head to origins is right for another, whoever asks.

        A rule that makes the client's own claim for some pages makes it for these only.
        """
        claim = "X-Real-IP: 198.51.100.9"

        class Claims(RuleModule):
            head_only = True

            def received(self, request: Request) -> None:
                if request.path != "/own":
                    request.set(b"X-Rule", b"1")
                    # The client's own goes last, where a rule's goes: both look alike.
                    fields = request.fields
                    mine = [each for each in fields if each[0] == b"X-Real-IP"]
                    others = [each for each in fields if each[0] != b"X-Real-IP"]
                    request.fields = (*others, *mine)
                if request.path == "/claimed":
                    request.set(b"X-Real-IP", b"198.51.100.9")

        stage = Stage(self)
        pipeline = stage.proxy.pipeline
        pipeline.use((Claims(), *pipeline.modules))
        for page in ("/claimed", "/b", "/own", "/claimed?2", "/b?2", "/own?2"):
            for fields in ((claim,), ()):
                stage.get(page, *fields)
                asked = stage.asked[-1]
                self.assertEqual(page.encode(), asked.target)
                wanted = claim.split(": ")[1] if page.startswith("/claimed") else None
                self.assertEqual(wanted, asked.field("x-real-ip"), (page, fields))
                rule = None if page.startswith("/own") else "1"
                self.assertEqual(rule, asked.field("x-rule"))
            stage.get(page, host="other.example.com")
            self.assertEqual("other.example.com", stage.asked[-1].field("host"))


class BodyTests(SynchronousTestCase):
    """Bodies stream both ways."""

    def test_upload(self) -> None:
        """A body reaches the origin as it was sent."""
        stage = Stage(self, lambda asked: response(asked.body[::-1]))

        self.assertEqual(b"cba", stage.get("/", method="POST", body=b"abc").body)

    def test_chunked_upload(self) -> None:
        """So does one whose length was not announced; the origin is told."""
        stage = Stage(self, lambda asked: response(b"ok"))
        client = stage.client()
        client.send(
            b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3\r\nabc\r\n0\r\n\r\n"
        )
        stage.turn()

        self.assertEqual(b"ok", client.answers()[0].body)
        self.assertEqual(b"abc", stage.asked[0].body)
        self.assertEqual("3", stage.asked[0].field("content-length"))

    def test_body_begun_is_never_sent_again(self) -> None:
        """A POST whose origin hangs up is 502, not a second POST."""
        stage = Stage(self, lambda asked: asked.line.hang_up(), pools=TWO)

        answer = stage.get("/", method="POST", body=b"money")

        self.assertEqual(502, answer.status)
        self.assertEqual(1, len(stage.asked))

    def test_chunked_answer_to_http10(self) -> None:
        """A client of HTTP/1.0 gets no chunks."""
        stage = Stage(
            self,
            lambda asked: (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"3\r\nabc\r\n0\r\n\r\n"
            ),
        )
        client = stage.client()
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        stage.turn()

        self.assertTrue(client.received.endswith(b"\r\n\r\nabc"))
        self.assertTrue(client.closed)

    def test_slow_client(self) -> None:
        """The origin of a pool without spool waits while the client takes nothing."""
        held: list[Asked] = []
        pool = PoolConfig(members=("o1:80",), spool_answers=False)
        stage = Stage(self, lambda asked: held.append(asked), pools={"origin": pool})
        client = stage.ask("/a")
        client.reading = False
        (asked,) = held
        asked.line.send(response(b"x" * 100_000, length=400_000))
        stage.turn()

        self.assertEqual("paused", asked.line.producerState)
        client.take()
        self.assertEqual("producing", asked.line.producerState)
        asked.line.send(b"x" * 300_000)
        stage.turn()
        self.assertEqual(400_000, len(client.answers()[0].body))


class RetryTests(SynchronousTestCase):
    """A dead origin is nobody's trouble as long as another lives."""

    def test_dead_member(self) -> None:
        """Requests go to the living member; the dead one is soon asked no more."""
        stage = Stage(self, pools=TWO)
        stage.dead.add("o1:80")

        statuses = {stage.get(f"/{number}").status for number in range(60)}

        self.assertEqual({200}, statuses)
        dead = [origin for origin in stage.dials if str(origin) == "o1:80"]
        self.assertLess(len(dead), 20)

    def test_all_dead(self) -> None:
        """With all members dead the answer is 503, after each was tried."""
        stage = Stage(self, pools=TWO)
        stage.dead.update(("o1:80", "o2:80"))

        answer = stage.get("/", turns=20)

        self.assertEqual(503, answer.status)
        self.assertEqual(b"Unable to process request, please try again.\n", answer.body)
        self.assertEqual({"o1:80", "o2:80"}, {str(each) for each in stage.dials})

    def test_trouble_is_logged(self) -> None:
        """The access log tells whose fault an error was, and what was wrong."""
        stage = Stage(self, lambda asked: b"HTTP/1.1 200 OK\nX: y\n\n")
        notes: list[dict[str, str]] = []
        stage.site.access_log = lambda exchange, _: notes.append(exchange.notes)

        self.assertEqual(502, stage.get("/").status)
        self.assertRegex(
            notes[0]["trouble"], r"\Ao1:80: .* is not an HTTP/1\.1 response"
        )

    def test_empty_pool(self) -> None:
        """A pool without members answers 503 at once."""
        stage = Stage(self, pools={"origin": PoolConfig()})

        self.assertEqual(503, stage.get("/").status)

    def test_no_route(self) -> None:
        """What no route matches is 404."""
        stage = Stage(
            self, routes=(RouteConfig(pool="origin", prefix="/in/", strip_prefix=True),)
        )

        self.assertEqual(404, stage.get("/out").status)
        stage.get("/in/a?b")
        self.assertEqual(b"/a?b", stage.asked[0].target)

    def test_pages_behind_stripped_prefixes_differ(self) -> None:
        """Two routes that lead to equal targets are two pages."""
        pools = {
            "a": PoolConfig(members=("a:80",)),
            "b": PoolConfig(members=("b:80",)),
        }
        routes = tuple(
            RouteConfig(pool=name, prefix=f"/{name}/", strip_prefix=True)
            for name in pools
        )
        stage = Stage(
            self,
            lambda asked: response(asked.origin.encode(), "Cache-Control: max-age=9"),
            pools=pools,
            routes=routes,
        )

        for _ in range(2):
            self.assertEqual(b"a:80", stage.get("/a/x").body)
            self.assertEqual(b"b:80", stage.get("/b/x").body)

    def test_silent_origin(self) -> None:
        """An origin that says nothing is 504 in the end."""
        pools = {"origin": PoolConfig(members=("o1:80",), attempts=1)}
        stage = Stage(self, lambda asked: None, pools=pools)
        client = stage.ask("/")
        stage.pass_time(70)

        self.assertEqual(504, client.answers()[0].status)

    def test_nonsense(self) -> None:
        """An origin that does not speak HTTP is 502."""
        pools = {"origin": PoolConfig(members=("o1:80",), attempts=1)}
        stage = Stage(self, lambda asked: b"hello there\r\n\r\n", pools=pools)

        self.assertEqual(502, stage.get("/", method="POST", body=b"x").status)


class BlobForwarderTests(SynchronousTestCase):
    """The placement in a blob's name decides who is asked."""

    def stage(self, script: object) -> Stage:
        """Return a stage that knows where blobs are."""

        def locate(name: str) -> tuple[str, ...]:
            if not name.startswith("000_"):
                raise ValueError(name)
            return ("r1:80", "r2:80")

        return Stage(
            self,
            script,  # type: ignore[arg-type] # whatever a test wants
            modules={"BlobForwarder": {"match": [r"/blob/"]}},
            locate=locate,
        )

    def test_replicas(self) -> None:
        """The replicas are asked, a second one when the first has a bad answer."""
        stage = self.stage(
            lambda asked: (
                response(b"blob")
                if asked.origin == "r2:80"
                else response(b"", status="404 Not Found")
            )
        )

        for number in range(10):
            self.assertEqual(b"blob", stage.get(f"/blob/000_{number}").body)
        self.assertLessEqual(
            {asked.origin for asked in stage.asked}, {"r1:80", "r2:80"}
        )

    def test_everywhere_bad(self) -> None:
        """When all replicas say 404, so do we."""
        stage = self.stage(lambda asked: response(b"no", status="404 Not Found"))

        self.assertEqual(404, stage.get("/blob/000_x", turns=20).status)
        self.assertEqual(2, len(stage.asked))

    def test_bad_name(self) -> None:
        """A name that is none is 404, and nobody is asked."""
        stage = self.stage(lambda asked: response())

        self.assertEqual(404, stage.get("/blob/nonsense").status)
        self.assertEqual([], stage.asked)
