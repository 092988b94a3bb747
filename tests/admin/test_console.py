"""What the console asks for, through a real site."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from clinfra.admin.access import Access
from clinfra.admin.console import MOST_QUESTION_BYTES
from clinfra.admin.service import make_admin_service
from clinfra.config import AdminConfig
from clinfra.console.page import FILES, ConsolePage
from clinfra.errors import Overloaded
from clinfra.interfaces import IClusterAdmin
from clinfra.web.exchange import IExchange, Response
from tests.admin.test_resource import Cache
from tests.web.clients import Answer, Client, make_site


@implementer(IClusterAdmin)
class Cluster:
    """A blob store that tells what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def changes(self, command: str) -> bool:
        return command == "_sync"

    async def administer(self, exchange: IExchange, path: str) -> Response:
        self.asked.append(path)
        return Response(200, ((b"Content-Type", b"application/json"),), b"{}")


class ConsoleTests(SynchronousTestCase):
    """The page and its data."""

    def setUp(self) -> None:
        self.cache, self.cluster = Cache(), Cluster()
        self.off = self.busy = False
        self.with_products = True
        self.questions: list[Mapping[str, Any]] = []

    async def explain(self, told: Mapping[str, Any]) -> Sequence[str]:
        if self.busy:
            raise Overloaded("Another request is being explained.")
        self.questions.append(told)
        return ["GET x"] * 3000

    def ask(self, request: bytes, body: bytes = b"") -> Answer:
        """Return the answer to "METHOD target"."""
        there = self.with_products
        service = make_admin_service(
            products=[],
            purge=self.cache if there else None,
            state=lambda: "running",
            uptime_seconds=lambda: 1.0,
            version="1",
            proxy_ports=lambda: [8080],
            default_port=80,
            access=Access(AdminConfig(actions=not self.off)),
            cluster=self.cluster if there else None,
            explain=self.explain if there else None,
        )
        site, clock = make_site(resource=service.resource)
        client = Client(site, clock)
        head = [request + b" HTTP/1.1", b"Host: localhost"]
        client.send(b"\r\n".join([*head, b"Content-Length: %d" % len(body), b"", body]))
        (answer,) = client.answers(request.split()[0].decode())
        return answer

    def test_page(self) -> None:
        """The page runs its own scripts only, and nothing of anybody else's."""
        answer = self.ask(b"GET /")
        policy = answer.fields["Content-Security-Policy"]

        self.assertEqual(200, answer.status)
        self.assertIn("default-src 'none'; script-src 'self';", policy)
        self.assertNotIn("unsafe", policy)
        self.assertIn("require-trusted-types-for 'script'", policy)
        self.assertEqual("nosniff", answer.fields["X-Content-Type-Options"])
        text = answer.body.decode()
        self.assertIn('href="/status"', text)
        self.assertNotRegex(text, r"<script(?![^>]*src=)|<style| style=| on\w+=")
        for address in re.findall(r'(?:src|href)="([^"]*)"', text):
            self.assertRegex(address, r"^(/|#|data:,$)")
        found = re.search(r'name="console" content="([^"]*)"', text)
        assert found is not None
        told = json.loads(html.unescape(found[1]))
        self.assertEqual((True, "/cluster/"), (told["admin"], told["cluster"]))

    def test_files(self) -> None:
        """Its files are there, with their types, and name no other place."""
        for name in FILES:
            answer = self.ask(b"GET /console/" + name.encode())
            kind = "text/css" if name.endswith("css") else "text/javascript"
            self.assertEqual(200, answer.status)
            self.assertTrue(answer.fields["Content-Type"].startswith(kind))
            text = answer.body.decode()
            self.assertNotIn("innerHTML", text)
            self.assertNotIn("eval(", text)
            self.assertEqual(
                [], re.findall(r"https?://(?!www\.w3\.org|www\.example\.com)", text)
            )
        self.assertEqual(404, self.ask(b"GET /console/page.py").status)
        self.assertEqual(404, self.ask(b"GET /console/../console.js").status)
        self.assertEqual(405, self.ask(b"POST /console/console.js").status)

    def test_settings_are_escaped(self) -> None:
        """What the page is told cannot become markup."""
        page = ConsolePage("/", "/x/", {"cluster": '"><script>alert(1)</script>'})
        answer = page.respond(b"GET", b"/")

        assert answer is not None
        self.assertNotIn(b"<script>alert", answer.body)

    def test_cluster(self) -> None:
        """Admin requests go to the blob store; those that change something by POST."""
        self.assertEqual(200, self.ask(b"GET /cluster/_status/001").status)
        self.assertEqual(405, self.ask(b"GET /cluster/_sync/001").status)
        self.assertEqual(405, self.ask(b"POST /cluster/_status/001").status)
        self.assertEqual(200, self.ask(b"POST /cluster/_sync/a%20b").status)
        self.assertEqual("_status/001", self.cluster.asked[0])
        self.off = True
        self.assertEqual(403, self.ask(b"POST /cluster/_sync/001").status)
        self.assertEqual(2, len(self.cluster.asked))

    def test_look_up(self) -> None:
        """A page is looked up as it may be cached: by host and path."""
        answer = self.ask(b"GET /cache?page=http%3A%2F%2FH%2Fa")

        self.assertEqual(
            {
                "pages": ["h:8080/a"],
                "found": [{"page": "h:8080/a", "tier": "memory"}],
            },
            json.loads(answer.body),
        )
        self.assertEqual(400, self.ask(b"GET /cache").status)
        self.assertEqual(400, self.ask(b"GET /cache?page=a&page=b").status)
        self.assertEqual(400, self.ask(b"GET /cache?page=%20/").status)
        self.assertEqual(405, self.ask(b"POST /cache?page=h/").status)

    def test_explain(self) -> None:
        """Questions are JSON objects of bounded size, and answers are bounded too."""
        answer = self.ask(b"POST /explain", b'{"url": "http://h/"}')

        self.assertEqual([{"url": "http://h/"}], self.questions)
        self.assertEqual(2000, len(json.loads(answer.body)["lines"]))
        for nonsense in (b"", b"{", b"[]", b"3", b"[" * 60_000, b"\xff"):
            status = self.ask(b"POST /explain", nonsense).status
            self.assertEqual(400, status, nonsense[:10])
        long = b" " * (MOST_QUESTION_BYTES + 1)
        self.assertEqual(413, self.ask(b"POST /explain", long).status)
        self.assertEqual(405, self.ask(b"GET /explain").status)
        self.busy = True
        self.assertEqual(503, self.ask(b"POST /explain", b"{}").status)

    def test_without_products(self) -> None:
        """What is not there is not there."""
        self.with_products = False
        for request in (
            b"GET /cluster/_status/001",
            b"GET /cache?page=h/",
            b"POST /explain",
        ):
            self.assertEqual(404, self.ask(request).status, request)
