"""Origins that misbehave at random: what must hold whatever they do."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.config import PoolConfig
from tests.proxy.stage import Asked, Stage, response

MOODS = ("well", "well", "hangs up", "silent", "half", "nonsense", "bad", "refuses")
ATTEMPTS = 3


class RandomTests(SynchronousTestCase):
    """A few members, each in a mood that changes, and many requests."""

    @given(
        st.integers(0, 2**32),
        st.sampled_from(["random", "least_loaded", "round_robin", "hash"]),
        st.integers(1, 4),
        st.lists(
            st.tuples(st.sampled_from(["GET", "HEAD", "PUT", "POST"]), st.booleans()),
            min_size=1,
            max_size=25,
        ),
    )
    @settings(deadline=None, max_examples=60)
    def test_whatever_they_do(
        self, seed: int, choice: str, count: int, requests: list[tuple[str, bool]]
    ) -> None:
        """Each request has one answer, its own; a POST is sent at most once."""
        rng = Random(seed)
        received: Counter[bytes] = Counter()
        names = [f"o{number}:80" for number in range(count)]

        def script(asked: Asked) -> bytes | None:
            received[asked.target] += 1
            mood = rng.choice(MOODS)
            echo = asked.head.method + b" " + asked.target
            if mood == "hangs up":
                asked.line.hang_up()
            elif mood == "nonsense":
                return b"nonsense\r\n\r\n"
            elif mood == "bad":
                return response(echo, status="503 Service Unavailable")
            elif mood == "half":
                asked.line.send(response(echo, length=len(echo) + 5))
                asked.line.hang_up()
            elif mood != "silent":
                body = b"" if asked.head.method == b"HEAD" else echo
                return response(body, length=len(echo))
            return None

        pools = PoolConfig(
            members=tuple(names),
            choice=choice,
            attempts=ATTEMPTS,
            retry_statuses=(503,),
            circuit_failures=3,
            response_timeout=1.0,  # type: ignore[arg-type] # seconds
            read_timeout=1.0,  # type: ignore[arg-type] # seconds
        )
        stage = Stage(self, script, pools={"origin": pools})
        asked: list[tuple[str, bytes, Any]] = []
        for number, (method, together) in enumerate(requests):
            stage.dead = {name for name in names if rng.random() < 0.15}
            target = b"/%d" % number
            body = b"x" * 100 if method in ("PUT", "POST") else b""
            client = stage.ask(target.decode(), method=method, body=body)
            asked.append((method, target, client))
            if not together:
                stage.pass_time(rng.choice([0.5, 3]))
        stage.pass_time(40)

        for method, target, client in asked:
            if method == "POST":
                self.assertLessEqual(received[target], 1, "a POST was repeated")
            # Twice on a connection kept open that turned out to be dead.
            self.assertLessEqual(received[target], 2 * ATTEMPTS)
            head, _, body = client.received.partition(b"\r\n\r\n")
            status = int(head.split(b" ")[1])
            self.assertIn(status, (200, 502, 503, 504))
            if status == 200 and method != "HEAD":
                # Perhaps cut: then the connection is, too.
                echo = method.encode() + b" " + target
                whole = b"Content-Length: %d\r\n" % len(echo) in head + b"\r\n"
                self.assertTrue(echo.startswith(body) or body == echo)
                self.assertTrue(whole or client.closed)
        self.assertEqual(0, stage.proxy.pipeline.active)
        report: Any = stage.proxy.report()["modules"]["Forwarder"]
        for peers in report["connections"]:
            for peer in peers.values():
                self.assertEqual((0, 0), (peer["active"], peer["waiting"]))
