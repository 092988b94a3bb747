"""Stale answers, and when they are used: RFC 5861, RFC 9111 §4.2.4, a whole proxy."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from clinfra.proxy.unattended import Unattended
from clinfra.web.exchange import IBody, IExchange
from clinfra.web.heads import parse_request_head
from tests.proxy.stage import Asked, Stage, response

REFRESHED = "Cache-Control: max-age=10, stale-while-revalidate=20"


def numbered(*fields: str) -> object:
    """Return a script that numbers its answers from 1."""
    count = 0

    def script(asked: Asked) -> bytes:
        nonlocal count
        count += 1
        return response(b"%d" % count, *fields)

    return script


class RefreshTests(SynchronousTestCase):
    """stale-while-revalidate, RFC 5861 §3."""

    def stage(self, *fields: str, **options: object) -> Stage:
        """Return a proxy over an origin that numbers its answers."""
        script = numbered(*fields)
        return Stage(self, script, modules={"DirectCache": options})  # type: ignore[arg-type] # a closure

    def test_in_the_window(self) -> None:
        """The client gets what is stale at once; the next gets what is new."""
        stage = self.stage(REFRESHED)
        stage.get()
        stage.pass_time(15)

        stale = stage.get()
        fresh = stage.get()

        self.assertEqual((b"1", b"2"), (stale.body, fresh.body))
        self.assertEqual(
            "clinfra; hit; ttl=-5; detail=stale-while-revalidate",
            stale.fields["Cache-Status"],
        )
        self.assertEqual("15", stale.fields["Age"])
        self.assertEqual("clinfra; hit; ttl=10", fresh.fields["Cache-Status"])
        self.assertEqual(2, len(stage.asked))

    def test_many_in_the_window(self) -> None:
        """However many come meanwhile, the origin is asked once."""
        stage = self.stage(REFRESHED)
        stage.get()
        stage.pass_time(15)
        stage.script = lambda asked: None

        bodies = [stage.get().body for _ in range(5)]

        self.assertEqual([b"1"] * 5, bodies)
        self.assertEqual(2, len(stage.asked))

    def test_after_the_window(self) -> None:
        """Then the origin is asked before anybody gets anything."""
        stage = self.stage(REFRESHED)
        stage.get()
        stage.pass_time(31)

        self.assertEqual(b"2", stage.get().body)

    def test_validated(self) -> None:
        """The origin may answer 304."""
        stage = self.stage(REFRESHED, 'ETag: "x"')
        stage.get()
        stage.pass_time(15)
        stage.script = lambda asked: b"HTTP/1.1 304 Not Modified\r\n\r\n"

        bodies = [stage.get().body for _ in range(3)]

        self.assertEqual([b"1"] * 3, bodies)
        self.assertEqual('"x"', stage.asked[1].field("If-None-Match"))
        self.assertEqual(2, len(stage.asked))

    def test_for_a_range(self) -> None:
        """A part is cut from what is stale; the whole is fetched anew."""
        stage = self.stage(REFRESHED)
        stage.get()
        stage.pass_time(15)

        self.assertEqual(206, stage.get("/", "Range: bytes=0-0").status)
        self.assertIsNone(stage.asked[1].field("Range"))
        self.assertEqual(b"2", stage.get().body)

    def test_for_head(self) -> None:
        """HEAD starts it as well, by GET."""
        stage = self.stage(REFRESHED)
        stage.get()
        stage.pass_time(15)

        self.assertEqual(200, stage.get(method="HEAD").status)
        self.assertEqual(b"GET", stage.asked[1].head.method)

    def test_by_the_operator(self) -> None:
        """A window of one's own is for answers that name none."""
        stage = self.stage("Cache-Control: max-age=10", stale_while_revalidate=20)
        stage.get()
        stage.pass_time(15)

        self.assertEqual(b"1", stage.get().body)

    def test_client_that_wants_it_fresh(self) -> None:
        """RFC 9111 §5.2.1.1: max-age of a request is obeyed."""
        stage = self.stage(REFRESHED)
        stage.get()
        stage.pass_time(15)

        self.assertEqual(b"2", stage.get("/", "Cache-Control: max-age=12").body)

    def test_refresh_fails(self) -> None:
        """A refresh that fails is tried again; what is stale goes on being used."""
        stage = self.stage(REFRESHED)
        stage.get()
        stage.pass_time(15)
        stage.dead.add("o1:80")
        for _ in range(3):
            self.assertEqual(b"1", stage.get().body)
            stage.pass_time(1)
        stage.dead.clear()
        stage.get()

        self.assertEqual(b"2", stage.get().body)

    def test_variants(self) -> None:
        """Each variant is refreshed by itself."""
        stage = self.stage(REFRESHED, "Vary: X")
        for name in ("a", "b"):
            stage.get("/", "X: " + name)
        stage.pass_time(15)
        stale = [stage.get("/", "X: " + name).body for name in ("a", "b")]
        fresh = [stage.get("/", "X: " + name).body for name in ("a", "b")]

        self.assertEqual([b"1", b"2", b"3", b"4"], stale + fresh)

    def test_report(self) -> None:
        """Operators see how often that happens."""
        stage = self.stage(REFRESHED)
        stage.get()
        stage.pass_time(15)
        stage.get()

        report = stage.proxy.report()["modules"]["DirectCache"]
        self.assertEqual(1, report["stale_while_revalidate"])


class UnattendedTests(SynchronousTestCase):
    """The exchange of a request that no client waits for."""

    def test_is_an_exchange(self) -> None:
        """It can be used like any other; only nobody reads what is written."""
        head = parse_request_head(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        exchange = Unattended(head, "1.2.3.4", 80, False, 0.0)
        heard: list[bool] = []
        exchange.on_done(heard.append)
        exchange.start(200, (), None)
        exchange.write(b"x")
        exchange.finish()
        exchange.abort()

        self.assertTrue(verifyObject(IExchange, exchange))
        self.assertTrue(verifyObject(IBody, exchange.body))
        self.assertEqual([True], heard)
        self.assertEqual(200, exchange.status)


class ErrorTests(SynchronousTestCase):
    """stale-if-error, RFC 5861 §4."""

    def stale(self, control: str, **options: object) -> Stage:
        """Return a proxy with a page that has been stale for 5 seconds."""
        stage = Stage(
            self,
            lambda asked: response(b"page", "Cache-Control: " + control, 'ETag: "x"'),
            modules={"DirectCache": options},
        )
        stage.get()
        stage.pass_time(15)
        return stage

    def test_origin_is_away(self) -> None:
        """RFC 9111 §4.2.4: what is stale is better than nothing."""
        for control in ("max-age=10", "max-age=10, stale-if-error=6"):
            stage = self.stale(control)
            stage.dead.add("o1:80")

            answer = stage.get("/", turns=50)

            self.assertEqual((200, b"page"), (answer.status, answer.body))
            self.assertEqual(
                "clinfra; hit; ttl=-5; detail=stale-if-error",
                answer.fields["Cache-Status"],
            )

    def test_origins_are_down(self) -> None:
        """When checks say so nobody waits for origins that may hang; others do."""
        stage = self.stale("max-age=10")
        stage.script = lambda asked: None
        pool = stage.proxy._surroundings.origins.pool("origin")
        assert pool is not None
        for _ in range(3):
            pool.members[0].checked(False)

        for _ in range(2):
            stale = stage.get()
            self.assertEqual(b"page", stale.body)
            self.assertIn("detail=stale-if-error", stale.fields["Cache-Status"])
        self.assertEqual(1, len(stage.asked))
        stage.ask("/other")
        self.assertEqual(2, len(stage.asked))

        for _ in range(2):
            pool.members[0].checked(True)
        stage.ask()
        self.assertEqual(3, len(stage.asked))

    def test_origin_says_so(self) -> None:
        """RFC 5861 §4: 500, 502, 503 and 504 are errors; others are answers."""
        for status, got in (
            *((500, 200), (502, 200), (503, 200), (504, 200)),
            *((404, 404), (501, 501), (403, 403)),
        ):
            stage = self.stale("max-age=10")
            stage.script = lambda asked, status=status: response(  # type: ignore[misc] # bound now
                b"no", status=f"{status} X"
            )
            self.assertEqual(got, stage.get().status)

    def test_forbidden(self) -> None:
        """RFC 9111 §4.2.4: not where the answer has to be validated."""
        for control in (
            *("max-age=10, must-revalidate", "max-age=10, proxy-revalidate"),
            *("s-maxage=10", "no-cache", "max-age=10, stale-if-error=0"),
        ):
            stage = self.stale(control)
            stage.dead.add("o1:80")
            self.assertEqual(503, stage.get("/", turns=50).status, control)

    def test_after_the_window(self) -> None:
        """What is too old is not used."""
        stage = self.stale("max-age=10, stale-if-error=6")
        stage.pass_time(2)
        stage.dead.add("o1:80")

        self.assertEqual(503, stage.get("/", turns=50).status)

    def test_switched_off(self) -> None:
        """An operator may not want it; origins may all the same."""
        stage = self.stale("max-age=10", stale_if_error=0)
        stage.dead.add("o1:80")
        self.assertEqual(503, stage.get("/", turns=50).status)

        stage = self.stale("max-age=10, stale-if-error=60", stale_if_error=0)
        stage.dead.add("o1:80")
        self.assertEqual(200, stage.get("/", turns=50).status)

    def test_waiting_clients(self) -> None:
        """Who waits for a fetch that fails gets what is stale as well."""
        stage = self.stale("max-age=10")
        stage.script = lambda asked: None
        clients = [stage.ask("/") for _ in range(3)]
        self.assertEqual(2, len(stage.asked))
        stage.asked[1].line.send(response(b"", status="503 Away"))
        stage.turn()

        for client in clients:
            (answer,) = client.answers()
            self.assertEqual((200, b"page"), (answer.status, answer.body))

    def test_parts_and_heads(self) -> None:
        """Also who is passed gets it."""
        stage = self.stale("max-age=10")
        stage.dead.add("o1:80")

        part = stage.get("/", "Range: bytes=0-1", turns=50)
        head = stage.get("/", method="HEAD", turns=50)

        self.assertEqual((206, b"pa"), (part.status, part.body))
        self.assertEqual((200, b""), (head.status, head.body))

    def test_error_is_not_kept_instead(self) -> None:
        """The page comes back when its origin does."""
        stage = self.stale("max-age=10")
        good = stage.script
        stage.script = lambda asked: response(
            b"no", "Cache-Control: max-age=99", status="503 X"
        )
        stage.get()
        stage.script = good
        stage.get()

        self.assertEqual(b"page", stage.get().body)

    def test_max_stale(self) -> None:
        """RFC 9111 §5.2.1.2: a client may prefer what is stale."""
        stage = self.stale("max-age=10")
        asked = len(stage.asked)

        answer = stage.get("/", "Cache-Control: max-stale=6")

        self.assertEqual(
            "clinfra; hit; ttl=-5; detail=max-stale", answer.fields["Cache-Status"]
        )
        self.assertEqual(asked, len(stage.asked))
        stage.get("/", "Cache-Control: max-stale=4")
        self.assertEqual(asked + 1, len(stage.asked))

    def test_max_stale_forbidden(self) -> None:
        """RFC 9111 §5.2.2.2: must-revalidate is stronger."""
        stage = self.stale("max-age=10, must-revalidate")
        stage.get("/", "Cache-Control: max-stale")
        self.assertEqual(2, len(stage.asked))
