"""What a stranger says that is not in the cache key must not reach others' pages."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from clinfra.config import ModuleConfig
from clinfra.proxy.message import Request
from clinfra.proxy.rules import RuleModule
from tests.proxy.stage import Asked, Stage, response

FRESH = "Cache-Control: max-age=60"


def reflect(asked: Asked) -> bytes:
    """Answer with what the origin was told of host and way, as careless ones do."""
    names = ("host", "x-forwarded-host", "x-forwarded-proto")
    told = [f"{name}={asked.field(name)}" for name in names]
    return response(" ".join(told).encode(), FRESH)


class HostTests(SynchronousTestCase):
    """The Host field, in all its spellings."""

    def test_spellings_of_a_host(self) -> None:
        """What is fetched under an odd spelling is for that spelling only."""
        odd = ("example.com:1337", "EXAMPLE.com", "example.com.", "example.com:8080")
        for spelling in odd:
            with self.subTest(spelling):
                stage = Stage(self, reflect)
                self.assertIn(spelling.encode(), stage.get("/a", host=spelling).body)
                for _ in range(2):
                    body = stage.get("/a").body
                    self.assertEqual(
                        b"host=example.com x-forwarded-host=example.com"
                        b" x-forwarded-proto=http",
                        body,
                    )
                stage.get("/a", host=spelling)
                self.assertEqual(2, len(stage.asked))

    def test_fetched_at_the_same_time(self) -> None:
        """Nor does it reach those who waited for the fetch."""
        held: list[Asked] = []
        stage = Stage(self, lambda asked: held.append(asked))
        stage.ask("/a", host="example.com:1337")
        usual = stage.ask("/a")
        held[0].line.send(reflect(held[0]))
        stage.turn()
        held[1].line.send(reflect(held[1]))
        stage.turn()

        self.assertNotIn(b"1337", usual.answers()[0].body)

    def test_rewritten_host(self) -> None:
        """Pages that rules give one name differ by what the origin hears they were."""
        rewrites = {"rewrites": (("/", r"^[^/]*", "one.example"),)}
        stage = Stage(self, reflect, modules={"Redirector": rewrites})
        stage.get("/a", host="evil.example")
        self.assertIn(
            b"x-forwarded-host=good.example", stage.get("/a", host="good.example").body
        )

    def test_purge_reaches_every_spelling(self) -> None:
        """A purge of the page forgets them all."""
        stage = Stage(self, reflect)
        for host in ("example.com:1337", "example.com"):
            stage.get("/a", host=host)
        purged: list[int] = []
        Deferred.fromCoroutine(stage.proxy.purge(["example.com/a"])).addCallback(
            purged.append
        )
        self.assertEqual([1], purged)
        for host in ("example.com:1337", "example.com"):
            stage.get("/a", host=host)
        self.assertEqual(4, len(stage.asked))


class ForwardedTests(SynchronousTestCase):
    """X-Forwarded-* and their like."""

    def test_strangers_claims(self) -> None:
        """No field by which proxies speak to origins is passed on from a stranger."""
        stage = Stage(self)
        stage.get(
            "/a",
            "X-Forwarded-Host: evil.example",
            "X-Forwarded-Proto: https",
            "X-Forwarded-Port: 1337",
            "X-Forwarded-Scheme: nothttps",
            "X-Forwarded-Server: evil.example",
            "X-Forwarded-Prefix: /evil",
            "Forwarded: host=evil.example",
            "X-Real-IP: 6.6.6.6",
            "Client-IP: 6.6.6.6",
            "True-Client-IP: 6.6.6.6",
            "X-Original-URL: /evil",
            "X-Rewrite-URL: /evil",
            "Proxy: http://evil.example",
            "X_Forwarded_Host: evil.example",
            "X_FORWARDED_FOR: 6.6.6.6",
            "X_Real_IP: 6.6.6.6",
            "Transfer_Encoding: chunked",
            "Content_Length: 5",
        )
        said = b"".join(b"%b: %b\n" % pair for pair in stage.asked[0].head.fields)
        for claim in (b"evil", b"1337", b"nothttps", b"6.6.6.6", b"_"):
            self.assertNotIn(claim, said)
        self.assertIn(b"X-Forwarded-Proto: http\n", said)

    def test_what_rules_set(self) -> None:
        """A rule may set them; that a stranger sets the same does not matter."""
        stamp = {"match": "", "set": {"X-Real-IP": "10.1.1.1"}}
        module = ModuleConfig(
            use="HeaderStamper",
            options={"modify_request_headers": [stamp]},
        )
        stage = Stage(self, first=(module,))
        stage.get("/a", "X-Real-IP: 10.1.1.1")
        self.assertEqual("10.1.1.1", stage.asked[0].field("x-real-ip"))

    def test_forwarded_host_of_a_trusted_proxy(self) -> None:
        """What a trusted proxy passes on of it makes a page of its own."""
        stage = Stage(
            self, reflect, trusted_proxies=("192.0.2.0/24", "10.0.0.0/8", "127.0.0.0/8")
        )
        evil = stage.get("/a", "X-Forwarded-Host: evil.example").body
        self.assertIn(b"x-forwarded-host=evil.example", evil)
        self.assertNotIn(b"evil", stage.get("/a").body)

    def test_forwarded_of_a_trusted_proxy(self) -> None:
        """Forwarded is believed like X-Forwarded-*, and goes on with our hop added."""
        stage = Stage(
            self,
            lambda asked: response((asked.field("forwarded") or "").encode(), FRESH),
            trusted_proxies=("192.0.2.0/24",),
        )
        evil = stage.get("/a", "Forwarded: for=1.2.3.4;host=evil.example;proto=https")
        self.assertIn(b"evil", evil.body)
        theirs = 'for="[2001:db8::1]";proto=https;host=example.com'
        ours = b', for=192.0.2.7;proto=https;host="example.com"'
        told = stage.get("/a", f"Forwarded: {theirs}").body
        self.assertEqual(theirs.encode() + ours, told)
        self.assertEqual("https", stage.asked[1].field("x-forwarded-proto"))

    def test_equal_heads_from_others(self) -> None:
        """A stranger's head leads nowhere that a trusted proxy's equal head goes."""
        stage = Stage(self, reflect, trusted_proxies=("203.0.113.7",))
        field = "X-Forwarded-Proto: https"
        for _ in range(3):
            self.assertIn(b"proto=http", stage.get("/a", field).body)

        def trusted() -> bytes:
            client = stage.client()
            client.transport.getPeer = lambda: IPv4Address("TCP", "203.0.113.7", 40000)  # type: ignore[method-assign] # another client
            client.send(
                b"GET /a HTTP/1.1\r\nHost: example.com\r\n"
                + field.encode()
                + b"\r\n\r\n"
            )
            stage.turn()
            return client.answers()[0].body

        self.assertIn(b"proto=https", trusted())


class StampsHits(RuleModule):
    """Decides by the head alone, and stamps whatever is delivered."""

    head_only = True
    stamped = 0

    def deliver(self, request: Request) -> None:
        assert request.reply is not None
        request.reply.set(b"X-Stamped", b"yes")


class LaneTests(SynchronousTestCase):
    """The short way leaves nothing out."""

    def test_deliver_hooks_of_modules(self) -> None:
        """A module that delivers sees every hit, though it is head_only."""
        module: Any = ModuleConfig(use=f"{__name__}.StampsHits")
        stage = Stage(self, lambda asked: response(b"page", FRESH), first=(module,))
        for _ in range(3):
            self.assertEqual("yes", stage.get("/a").fields["X-Stamped"])


class ConnectionTests(SynchronousTestCase):
    """Fields that a client keeps from the origin, by naming them in Connection."""

    def test_vary(self) -> None:
        """An answer chosen without a field is not kept for those who send it."""

        def by_language(asked: Asked) -> bytes:
            language = asked.field("accept-language") or "none"
            return response(language.encode(), FRESH, "Vary: Accept-Language")

        stage = Stage(self, by_language)
        fields = "Accept-Language: fr", "Connection: keep-alive, accept-language"
        for _ in range(2):
            self.assertEqual(b"none", stage.get("/a", *fields).body)
        for _ in range(2):
            self.assertEqual(b"fr", stage.get("/a", "Accept-Language: fr").body)
        self.assertEqual(2, len(stage.asked))

    def test_what_is_never_kept_back(self) -> None:
        """Naming what every hop needs changes nothing."""
        stage = Stage(self)
        stage.get(
            "/a",
            "Cache-Control: no-cache",
            "Connection: Host, Cache-Control, Content-Length, X-Forwarded-For, Via",
            method="POST",
            body=b"hi",
        )
        (asked,) = stage.asked
        self.assertEqual(b"hi", asked.body)
        self.assertEqual(
            ["example.com", "no-cache", "192.0.2.7", "1.1 clinfra"],
            [
                asked.field(name)
                for name in ("host", "cache-control", "x-forwarded-for", "via")
            ],
        )
