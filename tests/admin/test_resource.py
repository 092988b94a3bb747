"""The admin pages, through a real site."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from twisted.application.service import Service
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from clinfra.admin.resource import MOST_BODY_BYTES
from clinfra.admin.service import make_admin_service
from clinfra.errors import NotFound
from clinfra.interfaces import IMaintenance, IProduct, IPurge
from tests.web.clients import Answer, Client, make_site


@implementer(IProduct, IPurge, IMaintenance)
class Cache(Service):
    """A product whose cache knows the pages it is told."""

    name = "proxy"
    resource = None
    lane = None

    def __init__(self) -> None:
        self.pages = {"h:8080/a", "h:8080/b", "<script>:8080/"}
        self.asked: list[str] = []
        self.banned: list[tuple[tuple[str, ...], tuple[str, ...], bool]] = []
        self.soft = False
        self.not_ready: list[str] = []
        self.out: list[str] = []

    def open(self) -> None:
        pass

    def report(self) -> Mapping[str, Any]:
        return {"pages": len(self.pages), "not_ready": self.not_ready}

    async def maintain(self, pool: str, member: str, out: bool) -> None:
        if pool == "none":
            raise NotFound('There is no pool "none".')
        (self.out.append if out else self.out.remove)(f"{pool}|{member}")

    async def maintained(self) -> Mapping[str, Any]:
        return {"out": self.out}

    async def look_up(self, urls: Sequence[str]) -> Sequence[Mapping[str, Any]]:
        return [{"page": url, "tier": "memory"} for url in urls if url in self.pages]

    async def purge(
        self,
        urls: Sequence[str],
        *,
        prefixes: Sequence[str] = (),
        tags: Sequence[str] = (),
        soft: bool = False,
    ) -> int:
        if prefixes or tags:
            self.banned.append((tuple(prefixes), tuple(tags), soft))
            return 7
        self.soft = soft
        self.asked += urls
        known = self.pages & set(urls)
        self.pages -= known
        return len(known)


class AdminTests(SynchronousTestCase):
    """Health, status and purge."""

    def setUp(self) -> None:
        self.cache = Cache()
        self.state = "running"
        self.with_purge = True

    def ask(self, request: bytes, body: bytes = b"", *fields: bytes) -> Answer:
        """Return the answer to "METHOD target"."""
        service = make_admin_service(
            products=[self.cache],
            purge=self.cache if self.with_purge else None,
            state=lambda: self.state,
            uptime_seconds=lambda: 12.345,
            version="1.2.3",
            proxy_ports=lambda: [8080],
            default_port=80,
            maintenance=self.cache if self.with_purge else None,
            listeners=lambda: {"proxy": {"requests": 7}},
        )
        site, clock = make_site(resource=service.resource)
        client = Client(site, clock)
        lines = [request + b" HTTP/1.1"]
        if not any(each.startswith(b"Host:") for each in fields):
            # PURGE names its page so; all else is asked of the admin listener itself.
            host = b"h:8080" if request.startswith(b"PURGE") else b"localhost:8090"
            lines.append(b"Host: " + host)
        lines += [*fields, b"Content-Length: %d" % len(body), b"", body]
        client.send(b"\r\n".join(lines))
        (answer,) = client.answers(request.split()[0].decode())
        return answer

    def test_status(self) -> None:
        """Version, state, uptime, what each listener has seen, each product reports."""
        answer = self.ask(b"GET /status")

        self.assertEqual("application/json", answer.fields["Content-Type"])
        self.assertEqual(
            {
                "version": "1.2.3",
                "state": "running",
                "uptime_seconds": 12.3,
                "addresses": {},
                "listeners": {"proxy": {"requests": 7}},
                "totals": {"proxy": {"all": 0, "hits": 0, "misses": 0}},
                "products": {"proxy": {"pages": 3, "not_ready": []}},
            },
            json.loads(answer.body),
        )
        self.assertEqual(1, answer.body.count(b"\n"), "indenting is slow")

    def test_purge_by_prefix_and_tag(self) -> None:
        """Lists of either; what is known of pages is told."""
        answer = self.ask(b"POST /purge/prefixes", b"http://H:8080/blog/\nother.com")
        self.assertEqual(
            b"7 pages in memory purged by prefix; memcached is told\n", answer.body
        )
        self.ask(b"POST /purge/tags", b"red\nblue\n", b"Soft-Purge: 1")

        self.assertEqual(
            [
                (("h:8080/blog/", "other.com:8080/"), (), False),
                ((), ("red", "blue"), True),
            ],
            self.cache.banned,
        )
        self.assertEqual(400, self.ask(b"POST /purge/tags", b"a b").status)
        self.assertEqual(405, self.ask(b"GET /purge/tags").status)

    def test_soft_purge(self) -> None:
        """A field makes a purge a soft one."""
        self.ask(b"PURGE /a", b"", b"Soft-Purge: 1")
        self.assertTrue(self.cache.soft)
        self.ask(b"PURGE /a", b"", b"Soft-Purge: 0")
        self.assertFalse(self.cache.soft)

    def test_live(self) -> None:
        """Alive is whoever answers."""
        self.state = "stopping"

        self.assertEqual(200, self.ask(b"GET /health/live").status)

    def test_ready(self) -> None:
        """Ready is who runs and misses nothing."""
        answer = self.ask(b"GET /health/ready")

        self.assertEqual((200, b"ready\n"), (answer.status, answer.body))

    def test_not_ready(self) -> None:
        """The reasons are told, one a line."""
        self.state = "stopping"
        self.cache.not_ready = ["no origin answers"]

        answer = self.ask(b"GET /health/ready")

        self.assertEqual(503, answer.status)
        self.assertEqual(
            b"clinfra is stopping\nproxy: no origin answers\n", answer.body
        )

    def test_head(self) -> None:
        """HEAD answers like GET, without the body."""
        self.assertEqual(200, self.ask(b"HEAD /status").status)

    def test_unknown(self) -> None:
        """Other pages and methods are refused."""
        self.assertEqual(404, self.ask(b"GET /else").status)
        answer = self.ask(b"POST /status")
        self.assertEqual((405, "GET, HEAD"), (answer.status, answer.fields["Allow"]))
        answer = self.ask(b"GET /purge")
        self.assertEqual((405, "POST"), (answer.status, answer.fields["Allow"]))

    def test_purge_one(self) -> None:
        """PURGE forgets the page it is sent for, however the page is named."""
        answer = self.ask(b"PURGE /a")
        self.assertEqual((200, b"1/1 pages purged\n"), (answer.status, answer.body))
        self.assertEqual(b"0/1 pages purged\n", self.ask(b"PURGE /a").body)
        answer = self.ask(b"PURGE http://h:8080/b")
        self.assertEqual(b"1/1 pages purged\n", answer.body)

    def test_purge_list(self) -> None:
        """A list is forgotten page by page, by PURGE or by POST."""
        body = b"http://h:8080/a\nh:8080/b\nh:8080/c\n"

        self.assertEqual(b"2/3 pages purged\n", self.ask(b"POST /purge", body).body)
        self.assertEqual(b"0/3 pages purged\n", self.ask(b"PURGE /", body).body)

    def test_purge_too_much(self) -> None:
        """An endless list is refused."""
        self.assertEqual(
            413, self.ask(b"POST /purge", b"x" * (MOST_BODY_BYTES + 1)).status
        )

    def test_purge_nonsense(self) -> None:
        """A list with something that is no page purges nothing."""
        self.assertEqual(400, self.ask(b"POST /purge", b"h:8080/a\n/b c\n").status)
        self.assertEqual([], self.cache.asked)

    def test_purge_without_proxy(self) -> None:
        """Without a proxy there is nothing to forget."""
        self.with_purge = False

        self.assertEqual(404, self.ask(b"PURGE /a").status)

    def test_other_origins(self) -> None:
        """A web page elsewhere cannot purge, not even by a trick with DNS."""
        for fields in (
            [b"Origin: http://evil.example"],
            [b"Origin: null"],
            [b"Sec-Fetch-Site: cross-site"],
            [b"Host: evil.example:8090", b"Origin: http://evil.example:8090"],
            [b"Origin: https://localhost:8090"],
        ):
            self.assertEqual(403, self.ask(b"POST /purge", b"h/a", *fields).status)
            self.assertEqual(403, self.ask(b"PURGE /a", b"", *fields).status)
        self.assertEqual([], self.cache.asked)

    def test_maintenance(self) -> None:
        """Members, pools and everything are taken out by PUT, back in by DELETE."""
        for method, path, out in (
            (b"PUT", b"/maintenance", ["|"]),
            (b"PUT", b"/maintenance/web", ["|", "web|"]),
            (b"PUT", b"/maintenance/web/a%3A80", ["|", "web|", "web|a:80"]),
            (b"DELETE", b"/maintenance/web", ["|", "web|a:80"]),
            (b"DELETE", b"/maintenance", ["web|a:80"]),
            (b"PUT", b"/maintenance/web/unix:/x", ["web|a:80", "web|unix:/x"]),
            (b"GET", b"/maintenance", ["web|a:80", "web|unix:/x"]),
        ):
            answer = self.ask(method + b" " + path)
            self.assertEqual(
                (200, {"out": out}), (answer.status, json.loads(answer.body))
            )

    def test_maintenance_refusals(self) -> None:
        """Unknown pools, other methods, web pages of others, and no proxy at all."""
        self.assertEqual(404, self.ask(b"PUT /maintenance/none").status)
        self.assertEqual(405, self.ask(b"POST /maintenance").status)
        foreign = b"Origin: http://evil.example"
        self.assertEqual(403, self.ask(b"PUT /maintenance", b"", foreign).status)
        self.assertEqual([], self.cache.out)
        self.with_purge = False
        self.assertEqual(404, self.ask(b"GET /maintenance").status)
