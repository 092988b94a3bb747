"""Plain hits that are sent on the spot: the same as those that rules look at."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.proxy.message import Request
from clinfra.proxy.rules import RuleModule
from tests.proxy.stage import Stage, response

NAMES = ("Content-Type", "ETag", "Last-Modified", "X-One", "x-two", "Age", "Date")
FIELDS = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from("abc79")))
CONTROLS = st.sampled_from(
    ("max-age=60", "public, max-age=5", "s-maxage=9, must-revalidate", "no-cache")
)
STATUSES = st.sampled_from(
    ("200 OK", "204 No Content", "301 Moved Permanently", "404 Not Found")
)
WISHES = st.sampled_from(
    ("X-A: b", "Range: bytes=0-1", 'If-None-Match: "a"', "Cache-Control: max-age=3")
)


class Watcher(RuleModule):
    """Looks at every hit."""

    head_only = True

    def __init__(self) -> None:
        self.seen = 0

    def hit(self, request: Request) -> None:
        """Count it."""
        self.seen += 1


class PlainHitTests(SynchronousTestCase):
    """Two proxies: in one a rule wants to see hits, in the other none does."""

    @settings(deadline=None, max_examples=60)
    @given(
        FIELDS,
        CONTROLS,
        STATUSES,
        st.sampled_from((0, 9, 70_000)),
        st.integers(0, 70),
        WISHES,
        st.sampled_from(("GET", "HEAD")),
    )
    def test_same_bytes(
        self,
        fields: list[tuple[str, str]],
        control: str,
        status: str,
        size: int,
        later: int,
        wish: str,
        method: str,
    ) -> None:
        """Byte by byte they say the same, and origins are asked as often."""
        lines = [f"{name}: {value}" for name, value in fields]
        body = bytes(size if not status.startswith("204") else 0)
        made = response(
            body, "Server: o", f"Cache-Control: {control}", *lines, status=status
        )
        stages = [Stage(self, lambda asked: made) for _ in range(2)]
        watcher = Watcher()
        pipeline = stages[1].proxy.pipeline
        pipeline.use((*pipeline.modules, watcher))
        answers: list[list[Any]] = [[], []]
        for stage, got in zip(stages, answers, strict=True):
            stage.ask("/a")
            stage.clock.advance(later)
            for number in range(2):
                client = stage.ask("/a", wish, f"X-New: {number}", method=method)
                got.append(sorted(client.received.split(b"\r\n")))
            got.append(len(stage.asked))
        self.assertEqual(answers[1], answers[0])

    def test_on_the_spot(self) -> None:
        """No later phase is gone through, unless a rule wants to see it or may."""
        made = response(b"x", "Cache-Control: max-age=60")
        for watched in (False, True):
            stage = Stage(self, lambda asked: made)
            pipeline = stage.proxy.pipeline
            watcher = Watcher()
            if watched:
                pipeline.use((*pipeline.modules, watcher))
            stage.get("/a")
            replies: list[object] = []
            pipeline.on_over(lambda request, seen=replies: seen.append(request.reply))  # type: ignore[misc] # bound now
            stage.get("/a", "X-New: 1")
            self.assertEqual([watched], [reply is not None for reply in replies])
            self.assertEqual(int(watched), watcher.seen)
