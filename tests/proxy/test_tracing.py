"""Ids of requests on their way to origins."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from clinfra.web.tracing import Tracing
from tests.proxy.stage import Asked, Stage, response
from tests.web.clients import Client

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
REQUEST = b"GET /a HTTP/1.1\r\nHost: example.com\r\n%b\r\n"


class TracingTests(SynchronousTestCase):
    """A page that is never kept, asked for again and again on one connection."""

    def setUp(self) -> None:
        self.asked: list[Asked] = []
        self.stage = Stage(self, self.script)
        self.client: Client = self.stage.client()

    def script(self, asked: Asked) -> bytes:
        self.asked.append(asked)
        return response(b"hello", "Cache-Control: no-store")

    def trace(self, *networks: str) -> None:
        self.stage.site.tracing = Tracing.of(networks)

    def ask(self, times: int = 1, *fields: str) -> None:
        lines = "".join(f"{each}\r\n" for each in fields).encode()
        for _ in range(times):
            self.client.send(REQUEST % lines)
            self.stage.turn()

    def told(self, name: str) -> list[str | None]:
        return [asked.field(name) for asked in self.asked]

    def test_each_has_its_own(self) -> None:
        """However short the way a request takes, its ids are its own."""
        self.trace()
        self.ask(6)

        parents = self.told("traceparent")
        self.assertGreater(self.stage.proxy.pipeline.passes, 0)
        self.assertEqual(6, len(set(parents)))
        self.assertNotIn(None, parents)
        self.assertEqual(
            [str(each).split("-")[1] for each in parents], self.told("x-request-id")
        )

    def test_strangers(self) -> None:
        """What a stranger sends takes the place of nothing: origins get ours alone."""
        self.trace("10.0.0.0/8")
        self.ask(4, f"traceparent: {PARENT}", "tracestate: a=b", "X-Request-Id: r")

        self.assertEqual([None] * 4, self.told("tracestate"))
        for parent in self.told("traceparent"):
            self.assertNotIn(TRACE, str(parent))
            self.assertNotIn(",", str(parent))
        self.assertNotIn("r", self.told("x-request-id"))

    def test_friends(self) -> None:
        """A trusted client's trace goes on, and its name for the request."""
        self.trace("192.0.2.0/24")
        self.ask(4, f"traceparent: {PARENT}", "tracestate: a=b", "X-Request-Id: r")

        self.assertEqual(["r"] * 4, self.told("x-request-id"))
        self.assertEqual(["a=b"] * 4, self.told("tracestate"))
        for parent in self.told("traceparent"):
            self.assertIn(TRACE, str(parent))
            self.assertNotIn("b7ad6b7169203331", str(parent))

    def test_not_asked_for(self) -> None:
        """Without tracing these fields are as any others."""
        self.ask(4, f"traceparent: {PARENT}", "X-Request-Id: r")

        self.assertEqual([PARENT] * 4, self.told("traceparent"))
        self.assertEqual(["r"] * 4, self.told("x-request-id"))
