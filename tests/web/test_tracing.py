"""Ids of requests, and how they are handed on."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from clinfra.web.exchange import IExchange, Response
from clinfra.web.heads import parse_request_head
from clinfra.web.pool import Origin, make_request_head
from clinfra.web.tracing import Trace, Tracing, carried, current
from tests.web.clients import Client, make_site

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


def traced(*fields: str, client: str = "10.0.0.1") -> Trace:
    """Return the ids of a request with these fields."""
    lines = "".join(f"{each}\r\n" for each in ("GET / HTTP/1.1", "Host: h", *fields))
    head = parse_request_head(f"{lines}\r\n".encode())
    return Tracing.of(["10.0.0.0/8", "::1"]).trace_of(head, client)


class TakingTests(SynchronousTestCase):
    """Which ids are taken, and which are made."""

    def test_taken(self) -> None:
        """A trusted client's trace goes on, with a part of our own in it."""
        trace = traced(f"traceparent: {PARENT}", "X-Request-Id: r1", "tracestate: a=b")

        self.assertEqual(TRACE, trace.trace_id)
        self.assertEqual("r1", trace.request_id)
        self.assertNotEqual("b7ad6b7169203331", trace.span_id)
        self.assertEqual(
            (
                (b"traceparent", f"00-{TRACE}-{trace.span_id}-01".encode()),
                (b"X-Request-Id", b"r1"),
                (b"tracestate", b"a=b"),
            ),
            trace.fields,
        )

    def test_made(self) -> None:
        """Whoever sends none gets one, and each gets another."""
        one, other = traced(), traced()

        self.assertRegex(one.trace_id, "^[0-9a-f]{32}$")
        self.assertEqual(one.trace_id, one.request_id)
        self.assertNotEqual(one.trace_id, other.trace_id)

    def test_strangers(self) -> None:
        """What a stranger claims is not taken."""
        for client in ("192.0.2.1", "not an address"):
            trace = traced(f"traceparent: {PARENT}", "X-Request-Id: r", client=client)

            self.assertNotEqual(TRACE, trace.trace_id)
            self.assertEqual(trace.trace_id, trace.request_id)

    def test_friends(self) -> None:
        """UNIX sockets are trusted, and IPv4 addresses however they are spelled."""
        for client in ("", "::ffff:10.1.2.3", "::1"):
            self.assertEqual(
                TRACE, traced(f"traceparent: {PARENT}", client=client).trace_id
            )

    def test_bad_ones(self) -> None:
        """What is no traceparent is as good as none; so is one given twice."""
        for bad in (
            f"traceparent: 00-{'0' * 32}-b7ad6b7169203331-01",
            f"traceparent: ff-{TRACE}-b7ad6b7169203331-01",
            f"traceparent: 00-{TRACE.upper()}-b7ad6b7169203331-01",
            f"traceparent: {PARENT}\r\ntraceparent: {PARENT}",
        ):
            self.assertNotEqual(TRACE, traced(bad).trace_id)

    @given(st.binary(max_size=200))
    @settings(deadline=None)
    def test_whatever_comes(self, value: bytes) -> None:
        """What is handed on is well formed, whatever came."""
        clean = bytes(byte for byte in value if 32 <= byte < 127).strip()
        fields = f"X-Request-Id: {clean.decode()}", f"traceparent: {clean.decode()}"

        told = dict(traced(*fields).fields)

        self.assertRegex(told[b"traceparent"], rb"^00-[0-9a-f]{32}-[0-9a-f]{16}-..$")
        self.assertRegex(told[b"X-Request-Id"], rb"^[!-~]{1,128}$")


class CarryingTests(SynchronousTestCase):
    """How ids get to those who are asked."""

    def test_put_into(self) -> None:
        """A head that was made before gets the fields at its end."""
        trace = Tracing((), Random(1)).trace_of(
            parse_request_head(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"), ""
        )
        origin = Origin("h", 80)
        head = trace.put_into(make_request_head(origin, b"GET", b"/", (), None))

        fields = parse_request_head(head).index
        self.assertEqual((trace.request_id.encode(),), fields[b"x-request-id"])

    def test_while_answering(self) -> None:
        """What is asked of others for a request carries its ids, also after a wait."""
        waiting: Deferred[None] = Deferred()
        seen: list[object] = []

        async def respond(exchange: IExchange) -> Response:
            seen.append(carried() == exchange.trace.fields)
            await waiting
            seen.append(carried() == exchange.trace.fields)
            return Response(204)

        site, clock = make_site(respond)
        site.tracing = Tracing.of([])
        Client(site, clock).send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        self.assertIsNone(current.get())
        waiting.callback(None)

        self.assertEqual([True, True], seen)
        self.assertIsNone(current.get())

    def test_not_asked_for(self) -> None:
        """Without tracing there are no ids."""
        seen: list[object] = []

        async def respond(exchange: IExchange) -> Response:
            seen.extend((exchange.trace, carried()))
            return Response(204)

        site, clock = make_site(respond)
        Client(site, clock).send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")

        self.assertEqual([None, ()], seen)
