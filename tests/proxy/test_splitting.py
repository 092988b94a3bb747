"""Whatever rules put into messages, nobody is sent two of them for one.

The rules here have no scruples: they copy bytes that an attacker chose to wherever a
rule can put any.
"""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.config import ModuleConfig
from clinfra.errors import ConfigProblems
from clinfra.proxy.message import Reply, Request
from clinfra.proxy.rules import RuleModule
from tests.proxy.stage import Stage

PARTS = st.sampled_from(
    [
        *(
            b"a",
            b":",
            b" ",
            b"\t",
            b"\r",
            b"\n",
            b"\r\n",
            b"\0",
            b"\x01",
            b"\xe9",
            b"/",
        ),
        *(b"\r\n\r\n", b"HTTP/1.1 200 OK", b"Content-Length: 0", b"X: y", b"%0d%0a"),
        *(b"Transfer-Encoding: chunked", b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"),
    ]
)
EVIL = st.lists(PARTS, min_size=1, max_size=5).map(b"".join)


class Careless(RuleModule):
    """Does to each request, and to each answer, what the test at hand wants."""

    on_request: Callable[[Request], Reply | None] = staticmethod(lambda request: None)
    on_answer: Callable[[Reply], None] = staticmethod(lambda reply: None)

    def received(self, request: Request) -> Reply | None:
        return Careless.on_request(request)

    def deliver(self, request: Request) -> None:
        assert request.reply is not None
        Careless.on_answer(request.reply)


class SplittingTests(SynchronousTestCase):
    """Requests to origins, and answers to clients."""

    def setUp(self) -> None:
        self.patch(Careless, "on_request", Careless.on_request)
        self.patch(Careless, "on_answer", Careless.on_answer)
        self.stage = Stage(self, first=(ModuleConfig(use=f"{__name__}.Careless"),))

    def one(self) -> int:
        """Ask for a page; return the status of the one answer, to the one request."""
        before = len(self.stage.asked)
        answer = self.stage.get("/page")
        asked = self.stage.asked[before:]
        self.assertIn(len(asked), (0, 1))
        self.assertNotIn(b"/smuggled", [each.target for each in asked])
        self.assertEqual([b""], [each.body for each in asked] or [b""])
        self.flushLoggedErrors()
        return answer.status

    @settings(deadline=None, max_examples=60)
    @given(name=EVIL, value=EVIL)
    def test_request_fields(self, name: bytes, value: bytes) -> None:
        """A field of a request is one field, or the request fails."""
        Careless.on_request = lambda request: request.set(name, value)
        self.assertIn(self.one(), (200, 500))
        Careless.on_request = lambda request: setattr(
            request, "fields", (*request.fields, (b"X-Evil", value))
        )
        self.assertIn(self.one(), (200, 500))

    @settings(deadline=None, max_examples=60)
    @given(evil=EVIL)
    def test_where_to(self, evil: bytes) -> None:
        """So are the target, the host and the method."""
        text = evil.decode("latin-1")
        for change in (
            lambda request: request.rewrite("example.com/" + text),
            lambda request: request.rewrite(text + "/"),
            lambda request: setattr(request, "forward_target", "/" + text),
            lambda request: setattr(request, "authority", evil),
            lambda request: setattr(request, "method", evil),
            lambda request: setattr(request, "scheme", text),
        ):
            Careless.on_request = change
            self.assertLess(self.one(), 600)

    @settings(deadline=None, max_examples=60)
    @given(name=EVIL, value=EVIL)
    def test_answers(self, name: bytes, value: bytes) -> None:
        """A field of an answer is one field, or the answer is another."""
        Careless.on_request = lambda request: None
        Careless.on_answer = lambda reply: reply.set(name, value)
        self.assertIn(self.one(), (200, 500))
        Careless.on_answer = lambda reply: None
        Careless.on_request = lambda request: Reply(302, ((b"Location", value),))
        self.assertIn(self.one(), (302, 500))

    def test_configured_fields(self) -> None:
        """What a file asks for is looked at when it is read."""
        for name, value in (
            ("X", "a\r\nY: b"),
            ("X", "a\0"),
            ("X\r\nY", "b"),
            ("a b", ""),
        ):
            rule = {"match": "", "set": {name: value}}
            for which in ("modify_request_headers", "modify_response_headers"):
                with self.assertRaises(ConfigProblems):
                    Stage(self, modules={"HeaderStamper": {which: [rule]}})
