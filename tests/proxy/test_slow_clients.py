"""Slow clients hold no origin: what they do not take waits on disk."""

from __future__ import annotations

import os
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from clinfra.config import PoolConfig, SpoolConfig
from clinfra.keys import Bytes
from tests.proxy.stage import Asked, Stage, response
from tests.web.clients import Client

LARGE = os.urandom(2_000_000)
KEPT = "Cache-Control: max-age=60"
PRIVATE = "Cache-Control: no-store"


class SlowClientTests(SynchronousTestCase):
    """A client that takes nothing for now."""

    def begin(self, answer: bytes, **config: Any) -> tuple[Stage, Asked, Client]:
        """Return a stage whose client has asked for something large."""
        held: list[Asked] = []
        stage = Stage(self, lambda asked: held.append(asked), **config)
        client = stage.client()
        client.reading = False
        client.send(b"GET /a HTTP/1.1\r\nHost: example.com\r\n\r\n")
        stage.turn()
        for at in range(0, len(answer), 65_536):
            held[0].line.send(answer[at : at + 65_536])
        stage.turn()
        return stage, held[0], client

    def spool(self, stage: Stage) -> dict[str, int]:
        """Return what is shown of the spool."""
        return dict(stage.proxy.report()["spool"])

    def test_origin_is_free(self) -> None:
        """It has said all and serves the next, while the client has all before it."""
        stage, asked, client = self.begin(response(LARGE, PRIVATE))
        self.assertGreater(self.spool(stage)["bytes"], len(LARGE) - 600_000)
        self.assertLess(client.transport.most_waiting, 300_000)
        stage.script = lambda asked: response(b"next")
        self.assertEqual(stage.get("/b").body, b"next")
        self.assertIs(stage.asked[-1].line, asked.line)
        client.take()
        stage.turn(60)
        (answer,) = client.answers()
        self.assertEqual(answer.body, LARGE)
        self.assertEqual(self.spool(stage)["bytes"], 0)
        self.assertEqual(self.spool(stage)["files"], 0)
        self.assertEqual(stage.proxy.pipeline.active, 0)

    def test_taken_little_by_little(self) -> None:
        """All of it arrives, in order, while more is coming."""
        whole = response(LARGE, PRIVATE)
        stage, asked, client = self.begin(whole[:900_000])
        at = 900_000
        while len(client.received) < len(whole):
            client.take(70_001)
            client.reading = False
            asked.line.send(whole[at : at + 50_000])
            at += 50_000
            stage.turn()
        (answer,) = client.answers()
        self.assertEqual(answer.body, LARGE)
        self.assertEqual(stage.proxy.pipeline.active, 0)

    def test_others_need_not_wait(self) -> None:
        """The cache has it as soon as the origin has sent it."""
        stage, _, _ = self.begin(response(LARGE[:900_000], KEPT))
        self.assertEqual(stage.get("/a").body, LARGE[:900_000])
        self.assertEqual(len(stage.asked), 1)

    def test_client_leaves(self) -> None:
        """Nothing is left of it."""
        stage, asked, client = self.begin(response(LARGE, PRIVATE)[:-1])
        client.hang_up()
        stage.turn()
        self.assertTrue(asked.line.lost)
        self.assertEqual(self.spool(stage)["bytes"], 0)
        self.assertEqual(self.spool(stage)["files"], 0)
        self.assertEqual(stage.proxy.pipeline.active, 0)

    def test_client_leaves_after_the_origin_said_all(self) -> None:
        """Nor then; the origin's connection stays."""
        stage, asked, client = self.begin(response(LARGE, PRIVATE))
        client.hang_up()
        stage.turn()
        self.assertFalse(asked.line.lost)
        self.assertEqual(self.spool(stage)["bytes"], 0)
        self.assertEqual(stage.proxy.pipeline.active, 0)

    def test_origin_cuts_its_answer(self) -> None:
        """The client never takes it for whole."""
        stage, asked, client = self.begin(response(LARGE, PRIVATE)[:-1])
        asked.line.hang_up()
        stage.turn()
        self.assertTrue(client.transport.aborted)
        self.assertEqual(self.spool(stage)["bytes"], 0)
        self.assertEqual(stage.proxy.pipeline.active, 0)

    def test_client_that_takes_nothing_for_ever(self) -> None:
        """It is cut after the usual time."""
        stage, _, client = self.begin(response(LARGE, PRIVATE))
        stage.pass_time(130)
        self.assertTrue(client.transport.aborted)
        self.assertEqual(self.spool(stage)["bytes"], 0)

    def test_bound_of_one_answer(self) -> None:
        """Then its origin waits, until the client has taken some."""
        spool = SpoolConfig(answer_bytes=Bytes(600_000))
        stage, asked, client = self.begin(response(LARGE, PRIVATE), spool=spool)
        self.assertEqual(asked.line.producerState, "paused")
        self.assertLess(self.spool(stage)["bytes"], 600_001)
        client.take()
        stage.turn(60)
        (answer,) = client.answers()
        self.assertEqual(answer.body, LARGE)

    def test_no_room(self) -> None:
        """So it does when there is no room on disk."""
        spool = SpoolConfig(max_bytes=Bytes(0))
        stage, asked, client = self.begin(response(LARGE, PRIVATE), spool=spool)
        self.assertEqual(asked.line.producerState, "paused")
        client.take()
        stage.turn(60)
        (answer,) = client.answers()
        self.assertEqual(answer.body, LARGE)

    def test_switched_off(self) -> None:
        """A pool can have its origins wait at once."""
        pool = PoolConfig(members=("o1:80",), spool_answers=False)
        stage, asked, _ = self.begin(
            response(LARGE, PRIVATE)[:140_000], pools={"origin": pool}
        )
        self.assertEqual(asked.line.producerState, "paused")
        self.assertEqual(self.spool(stage)["files"], 0)
