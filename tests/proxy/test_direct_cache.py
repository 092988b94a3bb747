"""The cache as clients and origins see it: a whole proxy, in memory."""

from __future__ import annotations

from functools import partial

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from clinfra.config import Bytes, CacheConfig
from tests.proxy.fleet import Fleet
from tests.proxy.stage import Asked, Stage, response

FRESH = "Cache-Control: max-age=60"


def _same(answer: bytes, asked: Asked) -> bytes:
    """A script that always says the same."""
    return answer


class HitTests(SynchronousTestCase):
    """What is fresh is answered without the origin."""

    def test_miss_then_hit(self) -> None:
        """The second request is a hit and says so, with its age."""
        stage = Stage(self, lambda asked: response(b"page", FRESH, "X: y"))

        first = stage.get("/a")
        stage.pass_time(7)
        second = stage.get("/a")

        self.assertEqual(1, len(stage.asked))
        self.assertEqual((200, b"page"), (first.status, first.body))
        self.assertEqual(
            "clinfra; fwd=uri-miss; fwd-status=200; stored",
            first.fields["Cache-Status"],
        )
        self.assertEqual(
            (200, b"page", "y"), (second.status, second.body, second.fields["X"])
        )
        self.assertEqual("clinfra; hit; ttl=53", second.fields["Cache-Status"])
        self.assertEqual("7", second.fields["Age"])

    def test_lane(self) -> None:
        """An equal head is answered by the lane, the same but for the age."""
        stage = Stage(self, lambda asked: response(b"page", FRESH))
        client = stage.client()
        for _ in range(4):
            client.send(b"GET /a HTTP/1.1\r\nHost: example.com\r\n\r\n")
            stage.turn()
            stage.pass_time(1)

        answers = client.answers()

        self.assertEqual(2, stage.proxy.pipeline.hits)
        self.assertEqual([b"page"] * 4, [answer.body for answer in answers])
        self.assertEqual(
            [None, "1", "2", "3"], [answer.fields["Age"] for answer in answers]
        )

    def test_slow_readers_share_a_large_page(self) -> None:
        """A client that does not read its large page costs no copy of it."""
        page = bytes(900_000)
        stage = Stage(self, lambda asked: response(page, FRESH))
        for _ in range(2):
            self.assertEqual(page, stage.get("/a").body)
        (entry,) = stage.proxy.pipeline.hot.values()
        client = stage.client()
        client.reading = False
        client.send(b"GET /a HTTP/1.1\r\nHost: example.com\r\n\r\n")
        (channel,) = (each for each in stage.site.channels if each._tail is not None)
        assert channel._tail is not None

        self.assertIs(entry.body, channel._tail.obj)
        client.take()
        stage.turn()
        self.assertEqual(page, client.answers()[0].body)
        self.assertGreaterEqual(stage.proxy.pipeline.hits, 1)

    def test_lane_sees_purges(self) -> None:
        """What the lane remembers ends with the entry it is of."""
        stage = Stage(self, lambda asked: response(b"page", FRESH))
        for _ in range(3):
            stage.get("/a")
        self.assertEqual(1, len(stage.asked))

        purged = self.successResultOf(
            Deferred.fromCoroutine(stage.proxy.purge(["example.com/a"]))
        )
        stage.get("/a")

        self.assertEqual(1, purged)
        self.assertEqual(2, len(stage.asked))

    def test_lane_sees_the_end_of_freshness(self) -> None:
        """What the lane remembers ends when it is no longer fresh."""
        stage = Stage(self, lambda asked: response(b"page", FRESH))
        for _ in range(3):
            stage.get("/a")
        stage.pass_time(61)
        stage.get("/a")

        self.assertEqual(2, len(stage.asked))

    def test_head_of_a_cached_page(self) -> None:
        """HEAD is answered from what GET kept, without a body."""
        stage = Stage(self, lambda asked: response(b"page", FRESH))
        stage.get("/a")

        answer = stage.get("/a", method="HEAD")

        self.assertEqual((200, b""), (answer.status, answer.body))
        self.assertEqual("4", answer.fields["Content-Length"])
        self.assertIn("hit", answer.fields["Cache-Status"])

    def test_head_is_not_kept(self) -> None:
        """An answer to HEAD is no page."""
        stage = Stage(self, lambda asked: response(b"", FRESH, length=4))
        stage.get("/a", method="HEAD")
        stage.script = lambda asked: response(b"page", FRESH)

        self.assertEqual(b"page", stage.get("/a").body)

    def test_post_is_never_answered_from_the_cache(self) -> None:
        """Only GET and HEAD are."""
        stage = Stage(self, lambda asked: response(asked.head.method, FRESH))
        stage.get("/a")

        self.assertEqual(b"POST", stage.get("/a", method="POST", body=b"x").body)

    def test_conditional_request(self) -> None:
        """A client that has it gets 304 from the cache."""
        stage = Stage(self, lambda asked: response(b"page", FRESH, 'ETag: "1"'))
        stage.get("/a")

        answer = stage.get("/a", 'If-None-Match: "1"')

        self.assertEqual((304, b""), (answer.status, answer.body))
        self.assertEqual('"1"', answer.fields["ETag"])
        self.assertEqual(1, len(stage.asked))

    def test_changed_since_it_was_sent(self) -> None:
        """RFC 9111 §4.3.2: without Last-Modified, Date is compared."""
        stage = Stage(self, lambda asked: response(b"page", FRESH, stage.date()))
        stage.get("/a")
        for field, status in (
            ("If-Modified-Since: " + stage.date().removeprefix("Date: "), 304),
            ("If-Modified-Since: Mon, 01 Jan 2001 00:00:00 GMT", 200),
            ("If-Unmodified-Since: Mon, 01 Jan 2001 00:00:00 GMT", 200),
        ):
            self.assertEqual(status, stage.get("/a", field).status, field)
        self.assertEqual(1, len(stage.asked))

    def test_range(self) -> None:
        """Parts are cut from what is kept whole."""
        stage = Stage(self, lambda asked: response(b"0123456789", FRESH, 'ETag: "1"'))
        stage.get("/a")

        one = stage.get("/a", "Range: bytes=2-4")
        many = stage.get("/a", "Range: bytes=0-0,-1")
        none = stage.get("/a", "Range: bytes=10-")

        self.assertEqual(
            (206, b"234", "bytes 2-4/10"),
            (one.status, one.body, one.fields["Content-Range"]),
        )
        self.assertEqual(206, many.status)
        self.assertIn("multipart/byteranges", many.fields["Content-Type"])
        self.assertEqual(
            (416, "bytes */10"), (none.status, none.fields["Content-Range"])
        )
        self.assertEqual(1, len(stage.asked))

    def test_range_of_what_is_not_kept(self) -> None:
        """The origin is asked for the part, which is not kept as the page."""
        stage = Stage(
            self,
            lambda asked: response(
                b"23",
                FRESH,
                "Content-Range: bytes 2-3/10",
                status="206 Partial Content",
            ),
        )
        answer = stage.get("/a", "Range: bytes=2-3")
        stage.script = lambda asked: response(b"0123456789", FRESH)

        self.assertEqual((206, b"23"), (answer.status, answer.body))
        self.assertEqual("bytes=2-3", stage.asked[0].field("range"))
        self.assertEqual(b"0123456789", stage.get("/a").body)


class StoreTests(SynchronousTestCase):
    """What is kept, and what never is."""

    def assert_kept(
        self, kept: bool, *fields: str, asked: tuple[str, ...] = ()
    ) -> None:
        """Assert whether an answer with these fields is kept."""
        stage = Stage(self, lambda each: response(b"page", *fields))
        stage.get("/a", *asked)
        stage.pass_time(11)
        stage.get("/a")
        self.assertEqual(1 if kept else 2, len(stage.asked), fields)

    def test_table(self) -> None:
        """RFC 9111 as a shared cache reads it."""
        for kept, *fields in (
            (True, "Cache-Control: max-age=60"),
            (True, "Cache-Control: s-maxage=60, max-age=0"),
            (True, "Expires: Wed, 01 Jan 2025 00:00:00 GMT"),
            (True, "X-MCP-Cache-Control: max-age=60"),
            (False, "Cache-Control: public"),
            (False, "Cache-Control: public, max-age=0"),
            (False, "Cache-Control: No-Store, max-age=60"),
            (False, "Cache-Control: private", "Cache-Control: max-age=60"),
            (False, "Cache-Control: max-age=60", "Set-Cookie: a=b"),
            (False, "Cache-Control: public, max-age=60", "Set-Cookie: a=b"),
            (False, "Cache-Control: max-age=60", "Vary: *"),
            (False, "Cache-Control: max-age=60, s-maxage=0"),
            (False, "Cache-Control: max-age=60", "Age: 60"),
            (False, "Expires: 0"),
            (False,),
        ):
            self.assert_kept(kept, *fields)

    def test_authorization(self) -> None:
        """Answers to authorised requests are kept only when the origin says so."""
        asked = ("Authorization: Basic eDp5",)
        self.assert_kept(False, "Cache-Control: max-age=60", asked=asked)
        self.assert_kept(True, "Cache-Control: max-age=60, public", asked=asked)

    def test_request_no_store(self) -> None:
        """A request may ask that its answer is not kept."""
        self.assert_kept(False, FRESH, asked=("Cache-Control: no-store",))

    def test_404(self) -> None:
        """A 404 without a lifetime is kept where the operator says so."""
        gone = response(b"gone", status="404 Not Found")
        stage = Stage(
            self,
            lambda asked: gone,
            modules={"DirectCache": {"cache_404_match": [r"/kept"]}},
        )
        for target in ("/kept", "/kept", "/other", "/other"):
            stage.get(target)

        targets = [asked.target for asked in stage.asked]
        self.assertEqual([b"/kept", b"/other", b"/other"], targets)

    def test_cut_body(self) -> None:
        """An answer that is cut short is cut for the client too, and not kept."""
        stage = Stage(self, lambda asked: response(b"half", FRESH, length=8))
        client = stage.ask("/a")
        stage.asked[0].line.hang_up()
        stage.turn()
        stage.script = lambda asked: response(b"complete", FRESH)

        self.assertTrue(client.closed)
        self.assertTrue(client.received.endswith(b"half"))
        self.assertEqual(b"complete", stage.get("/a").body)

    def test_too_large(self) -> None:
        """What is over object_bytes is passed on and not kept, announced or not."""
        chunked = (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
            b"Cache-Control: max-age=60\r\n\r\nb\r\n12345678901\r\n0\r\n\r\n"
        )
        answers = [response(b"12345678901", FRESH), chunked]
        small = CacheConfig(object_bytes=Bytes(10))
        for answer in answers:
            stage = Stage(self, cache=small)
            stage.script = partial(_same, answer)
            for _ in range(2):
                self.assertEqual(b"12345678901", stage.get("/a").body)
            self.assertEqual(2, len(stage.asked))

    def test_long_urls(self) -> None:
        """Two long URLs that differ at their end are two pages."""
        stage = Stage(self, lambda asked: response(asked.target, FRESH))
        long = "/" + "x" * 3000

        self.assertEqual((long + "a").encode(), stage.get(long + "a").body)
        self.assertEqual((long + "b").encode(), stage.get(long + "b").body)

    def test_hop_by_hop_fields(self) -> None:
        """Fields of the origin's connection are neither passed on nor kept."""
        stage = Stage(
            self,
            lambda asked: response(
                b"page", FRESH, "Connection: X-Hop", "X-Hop: 1", "Keep-Alive: 5"
            ),
        )
        for _ in range(2):
            answer = stage.get("/a")
            self.assertNotIn("X-Hop", answer.fields)
            self.assertNotIn("Keep-Alive", answer.fields)


class VaryTests(SynchronousTestCase):
    """Answers that vary are given only to whom they are for."""

    def test_cookie(self) -> None:
        """A page that varies on Cookie never crosses users."""
        stage = Stage(
            self,
            lambda asked: response(
                (asked.field("cookie") or "nobody").encode(), FRESH, "Vary: Cookie"
            ),
        )
        for _ in range(2):
            self.assertEqual(b"u=alice", stage.get("/a", "Cookie: u=alice").body)
            self.assertEqual(b"u=bob", stage.get("/a", "Cookie: u=bob").body)
            self.assertEqual(b"nobody", stage.get("/a").body)

        self.assertEqual(3, len(stage.asked))

    def test_concurrent_cookies(self) -> None:
        """Nor when they ask at the same time, before it is known that it varies."""
        held: list[Asked] = []

        def script(asked: Asked) -> None:
            held.append(asked)

        stage = Stage(self, script)
        clients = {
            name: stage.ask("/a", f"Cookie: u={name}") for name in ("alice", "bob")
        }
        while held:
            asked = held.pop(0)
            cookie = (asked.field("cookie") or "").encode()
            asked.line.send(response(cookie, FRESH, "Vary: Cookie"))
            stage.turn()

        for name, client in clients.items():
            self.assertEqual(f"u={name}".encode(), client.answers()[0].body)

    def test_accept_encoding(self) -> None:
        """Clients that accept the same codings share; others never get theirs."""

        def script(asked: Asked) -> bytes:
            accepted = asked.field("accept-encoding") or ""
            coding = "br" if "br" in accepted else "none"
            return response(coding.encode(), FRESH, "Vary: Accept-Encoding")

        stage = Stage(self, script)
        for accept, expected in (
            ("gzip, br", b"br"),
            ("br,gzip;q=0.5", b"br"),
            ("gzip", b"none"),
            ("gzip;q=0", b"none"),
            ("GZIP ; q=1.0", b"none"),
        ):
            answer = stage.get("/a", f"Accept-Encoding: {accept}")
            self.assertEqual(expected, answer.body, accept)

        self.assertEqual(3, len(stage.asked))

    def test_purge_forgets_every_variant(self) -> None:
        """Purging a page forgets all of them."""
        stage = Stage(
            self, lambda asked: response(b"page", FRESH, "Vary: Accept-Language")
        )
        for language in ("en", "de", "fr", "en", "de", "fr"):
            stage.get("/a", f"Accept-Language: {language}")
        self.assertEqual(3, len(stage.asked))

        purge = stage.proxy.purge(["http://Example.com:8080/a", "example.com/none"])
        self.assertEqual(1, self.successResultOf(Deferred.fromCoroutine(purge)))
        for language in ("en", "de", "fr"):
            stage.get("/a", f"Accept-Language: {language}")

        self.assertEqual(6, len(stage.asked))


class ValidationTests(SynchronousTestCase):
    """Stale entries are validated, not fetched again."""

    def test_304_refreshes(self) -> None:
        """The origin's 304 makes the entry fresh again, with its new fields."""

        def script(asked: Asked) -> bytes:
            if asked.field("if-none-match") == '"1"':
                return response(
                    b"",
                    "Cache-Control: max-age=9",
                    "X: new",
                    'ETag: "1"',
                    status="304 Not Modified",
                    length=0,
                )
            return response(b"page", FRESH, 'ETag: "1"', "X: old")

        stage = Stage(self, script)
        stage.get("/a")
        stage.pass_time(61)
        validated = stage.get("/a")
        hit = stage.get("/a")

        self.assertEqual(
            (200, b"page", "new"),
            (validated.status, validated.body, validated.fields["X"]),
        )
        self.assertEqual(
            "clinfra; fwd=stale; fwd-status=304; stored",
            validated.fields["Cache-Status"],
        )
        self.assertIn("hit; ttl=9", hit.fields["Cache-Status"])
        self.assertEqual(2, len(stage.asked))

    def test_200_replaces(self) -> None:
        """A new page replaces the stale one."""
        bodies = iter((b"old", b"new"))
        stage = Stage(self, lambda asked: response(next(bodies), FRESH, 'ETag: "x"'))
        stage.get("/a")
        stage.pass_time(61)

        self.assertEqual(b"new", stage.get("/a").body)
        self.assertEqual(b"new", stage.get("/a").body)

    def test_304_about_something_else(self) -> None:
        """A 304 with another tag is not believed; the page is fetched whole."""

        def script(asked: Asked) -> bytes:
            if asked.field("if-none-match"):
                return response(b"", 'ETag: "2"', status="304 Not Modified", length=0)
            return response(b"page%d" % len(stage.asked), FRESH, 'ETag: "1"')

        stage = Stage(self, script)
        stage.get("/a")
        stage.pass_time(61)

        self.assertEqual(
            (200, b"page3"), (lambda a: (a.status, a.body))(stage.get("/a"))
        )

    def test_no_cache_is_always_validated(self) -> None:
        """An answer with no-cache is kept, and asked about every time."""

        def script(asked: Asked) -> bytes:
            if asked.field("if-none-match"):
                return response(b"", status="304 Not Modified", length=0)
            return response(b"page", "Cache-Control: no-cache", 'ETag: "1"')

        stage = Stage(self, script)
        for _ in range(3):
            self.assertEqual(b"page", stage.get("/a").body)

        conditions = [asked.field("if-none-match") for asked in stage.asked]
        self.assertEqual([None, '"1"', '"1"'], conditions)

    def test_request_no_cache(self) -> None:
        """A request may ask for validation."""
        stage = Stage(self, lambda asked: response(b"page", FRESH))
        stage.get("/a")
        answer = stage.get("/a", "Cache-Control: no-cache")

        self.assertEqual(2, len(stage.asked))
        self.assertIn("fwd=request", answer.fields["Cache-Status"])

    def test_only_if_cached(self) -> None:
        """A request that wants nothing else gets 504 when it is not there."""
        stage = Stage(self)

        self.assertEqual(504, stage.get("/a", "Cache-Control: only-if-cached").status)
        self.assertEqual([], stage.asked)

    def test_conditions_of_a_miss(self) -> None:
        """The page is fetched whole; who has it already gets 304, others the page."""
        stage = Stage(self, lambda asked: response(b"page", FRESH, 'ETag: "1"'))

        answer = stage.get("/a", 'If-None-Match: "1"')

        self.assertIsNone(stage.asked[0].field("if-none-match"))
        self.assertEqual((304, b""), (answer.status, answer.body))
        self.assertEqual(b"page", stage.get("/a").body)
        self.assertEqual(1, len(stage.asked))

    def test_blind_304(self) -> None:
        """Where configured, If-Modified-Since alone is answered 304."""
        stage = Stage(self, modules={"DirectCache": {"blind_304_match": [r"\.gif$"]}})
        since = "If-Modified-Since: Wed, 01 Jan 2020 00:00:00 GMT"

        self.assertEqual(304, stage.get("/a.gif", since).status)
        self.assertEqual(200, stage.get("/a.gif").status)


class InvalidationTests(SynchronousTestCase):
    """Unsafe methods make what is kept out of date."""

    def test_post(self) -> None:
        """A successful POST, PUT or DELETE forgets the page."""
        for method in ("POST", "PUT", "DELETE"):
            stage = Stage(self, lambda asked: response(b"page", FRESH))
            stage.get("/a")
            stage.get("/a", method=method, body=b"x")
            stage.get("/a")
            self.assertEqual(3, len(stage.asked), method)

    def test_failed_post(self) -> None:
        """A refused one does not."""
        stage = Stage(
            self,
            lambda asked: response(
                b"", FRESH, status="200 OK" if asked.head.method == b"GET" else "403 No"
            ),
        )
        stage.get("/a")
        stage.get("/a", method="POST", body=b"x")
        stage.get("/a")

        self.assertEqual(2, len(stage.asked))

    def test_pages_that_are_named(self) -> None:
        """RFC 9111 §4.4: Location and Content-Location too, if of the same origin."""
        for field, reference, asked in (
            ("Location", "/b", 4),
            ("Content-Location", "b", 4),
            ("Location", "http://example.com/b?", 4),
            ("Location", "http://EXAMPLE.com/b", 4),
            ("Location", "https://example.com/b", 3),
            ("Location", "http://other.com/b", 3),
            ("Location", "http://example.com:81/b", 3),
            ("Location", "http://[/b", 3),
            ("Link", "/b", 3),
        ):
            stage = Stage(
                self, partial(_same, response(b"", FRESH, f"{field}: {reference}"))
            )
            stage.get("/b")
            stage.get("/b")
            stage.get("/a", method="POST", body=b"x")
            stage.get("/a")
            stage.get("/b")
            self.assertEqual(asked, len(stage.asked), reference)

    def test_answer_to_a_post(self) -> None:
        """RFC 9110 §9.3.3: kept for GET when it says it is that page, and how long."""
        for control, location, asked in (
            (FRESH, "/a", 1),
            (FRESH, "http://example.com/a", 1),
            (FRESH, "/b", 2),
            (FRESH, "http://other.com/a", 2),
            ("Cache-Control: public", "/a", 2),
            ("Cache-Control: max-age=60, private", "/a", 2),
        ):
            stage = Stage(
                self,
                partial(
                    _same, response(b"posted", control, "Content-Location: " + location)
                ),
            )
            stage.get("/a", method="POST", body=b"x")
            answer = stage.get("/a")
            self.assertEqual(b"posted", answer.body)
            self.assertEqual(asked, len(stage.asked), (control, location))

    def test_post_is_still_passed(self) -> None:
        """What is kept of a POST answers no POST."""
        fields = (FRESH, "Content-Location: /a")
        stage = Stage(self, lambda asked: response(b"posted", *fields))
        for _ in range(2):
            stage.get("/a", method="POST", body=b"x")

        self.assertEqual(2, len(stage.asked))

    def test_fetch_begun_before(self) -> None:
        """What was being fetched when the page changed is not kept."""
        held: list[Asked] = []
        stage = Stage(self, lambda asked: held.append(asked))
        client = stage.ask("/a")
        self.successResultOf(
            Deferred.fromCoroutine(stage.proxy.purge(["example.com/a"]))
        )
        held[0].line.send(response(b"old", FRESH))
        stage.turn()
        stage.script = lambda asked: response(b"new", FRESH)

        self.assertEqual(b"old", client.answers()[0].body)
        self.assertEqual(b"new", stage.get("/a").body)

    def test_fetch_begun_before_at_another_proxy(self) -> None:
        """The same when another process has the purge."""
        fleet = Fleet(self, count=2)
        client = fleet.stages[1].ask("/a", turns=0)
        fleet.turn(1)
        fleet.purge("example.com/a")
        fleet.turn(4)  # the other one would have renewed its lease
        fleet.answer(0, FRESH, body=b"old")
        self.assertEqual(b"old", client.answers()[0].body)
        fleet.script = lambda asked: response(b"new", FRESH)
        other = fleet.stages[0].ask("/a", turns=0)
        fleet.turn(1)

        self.assertEqual(b"new", other.answers()[0].body)

    def test_purge_method(self) -> None:
        """PURGE is for the admin listener only."""
        stage = Stage(self)

        self.assertEqual(403, stage.get("/a", method="PURGE").status)


class CoalescingTests(SynchronousTestCase):
    """One fetch per page, however many ask."""

    def setUp(self) -> None:
        self.held: list[Asked] = []
        self.stage = Stage(self, lambda asked: self.held.append(asked))

    def test_stampede(self) -> None:
        """A hundred requests for a cold page are one fetch."""
        clients = [self.stage.ask("/a", turns=2) for _ in range(100)]
        self.held[0].line.send(response(b"page", FRESH))
        self.stage.turn()

        self.assertEqual(1, len(self.stage.asked))
        for client in clients:
            self.assertEqual(b"page", client.answers()[0].body)
        self.assertEqual(
            "clinfra; hit; detail=coalesced",
            clients[5].answers()[0].fields["Cache-Status"],
        )

    def test_first_client_leaves(self) -> None:
        """The fetch goes on for those who wait when the first client goes away."""
        first = self.stage.ask("/a")
        second = self.stage.ask("/a")
        first.hang_up()
        self.stage.turn()
        self.held[0].line.send(response(b"page", FRESH))
        self.stage.turn()

        self.assertEqual(b"page", second.answers()[0].body)
        self.assertEqual(1, len(self.stage.asked))

    def test_only_client_leaves(self) -> None:
        """Nobody else waits: the fetch is given up, and the next one starts anew."""
        first = self.stage.ask("/a")
        first.hang_up()
        self.stage.turn()

        self.assertTrue(self.held[0].line.lost)
        self.stage.ask("/a")
        self.assertEqual(2, len(self.stage.asked))

    def test_waiting_client_leaves(self) -> None:
        """A client that waits may leave; the others get their page."""
        first, second, third = (self.stage.ask("/a") for _ in range(3))
        second.hang_up()
        self.stage.turn()
        self.held[0].line.send(response(b"page", FRESH))
        self.stage.turn()

        self.assertEqual(b"page", first.answers()[0].body)
        self.assertEqual(b"page", third.answers()[0].body)

    def test_uncacheable(self) -> None:
        """What cannot be shared is fetched by each; the page is passed for a while."""
        first, second = self.stage.ask("/a"), self.stage.ask("/a")
        self.assertEqual(1, len(self.held))
        self.held[0].line.send(response(b"one"))
        self.stage.turn()
        self.assertEqual(2, len(self.held))
        third = self.stage.ask("/a")
        self.assertEqual(3, len(self.held))
        for asked, body in zip(self.held[1:], (b"two", b"three"), strict=True):
            asked.line.send(response(body))
        self.stage.turn()

        bodies = [client.answers()[0].body for client in (first, second, third)]
        self.assertEqual([b"one", b"two", b"three"], bodies)
        status = third.answers()[0].fields["Cache-Status"]
        self.assertEqual("clinfra; fwd=bypass; fwd-status=200", status)

    def test_origin_fails(self) -> None:
        """Everybody who waits hears of the same trouble."""
        clients = [self.stage.ask("/a") for _ in range(3)]
        self.stage.dead.add("o1:80")
        self.held[0].line.hang_up()
        self.stage.turn(30)

        self.assertEqual([503] * 3, [client.answers()[0].status for client in clients])

    def test_cut_body(self) -> None:
        """Those who wait for a body that is cut short fetch it themselves."""
        first, second = self.stage.ask("/a"), self.stage.ask("/a")
        self.held[0].line.send(response(b"ha", FRESH, length=4))
        self.held[0].line.hang_up()
        self.stage.turn()
        self.held[1].line.send(response(b"whole", FRESH))
        self.stage.turn()

        self.assertTrue(first.closed)
        self.assertEqual(b"whole", second.answers()[0].body)

    def test_patience(self) -> None:
        """Nobody waits for ever for another's slow fetch."""
        self.stage.ask("/a")
        second = self.stage.ask("/a")
        self.stage.pass_time(11)
        self.assertEqual(2, len(self.held))
        self.held[1].line.send(response(b"page", FRESH))
        self.stage.turn()

        self.assertEqual(b"page", second.answers()[0].body)
