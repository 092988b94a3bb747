"""Uploads: taken in first, so that a slow sender ties no origin up."""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.error import ConnectionLost
from twisted.trial.unittest import SynchronousTestCase

from clinfra.config import PoolConfig, SpoolConfig
from clinfra.keys import Bytes
from tests.proxy.stage import Asked, Stage, response
from tests.web.clients import Client

LARGE = os.urandom(900_000)
PUT = b"PUT /a HTTP/1.1\r\nHost: example.com\r\nContent-Length: %d\r\n\r\n"
TWO = {"origin": PoolConfig(members=("o1:80", "o2:80"))}


class UploadTestCase(SynchronousTestCase):
    """A proxy, and a sender who takes time."""

    def stage_of(self, **config: Any) -> Stage:
        """Return a stage whose origins say thanks."""
        return Stage(self, lambda asked: response(b"thanks"), **config)

    def begin(self, stage: Stage, body: bytes, head: bytes = PUT) -> Client:
        """Send all but the last byte."""
        client = stage.client()
        client.send(head % len(body) + body[:-1])
        stage.turn()
        return client

    def used(self, stage: Stage) -> int:
        """Return how much is on disk."""
        used: int = stage.proxy.report()["spool"]["bytes"]
        return used


class SlowSenderTests(UploadTestCase):
    """The origin is asked when there is something to ask."""

    def test_waits_for_the_last_byte(self) -> None:
        """No connection is even made before that."""
        for body in (b"small", LARGE):
            stage = self.stage_of()
            client = self.begin(stage, body)
            self.assertEqual(stage.dials, [])
            client.send(body[-1:])
            stage.turn(30)
            (asked,) = stage.asked
            self.assertEqual(asked.body, body)
            self.assertEqual(asked.field("Content-Length"), str(len(body)))
            self.assertEqual(client.answers()[0].body, b"thanks")
            self.assertEqual(self.used(stage), 0)

    def test_on_disk_meanwhile(self) -> None:
        """A large body costs little memory."""
        stage = self.stage_of()
        self.begin(stage, LARGE)
        self.assertGreater(self.used(stage), len(LARGE) - 300_000)

    def test_sender_leaves(self) -> None:
        """Nobody was asked, and nothing is left."""
        stage = self.stage_of()
        client = self.begin(stage, LARGE)
        client.hang_up()
        stage.turn()
        self.assertEqual(stage.dials, [])
        self.assertEqual(self.used(stage), 0)
        self.assertEqual(stage.proxy.report()["spool"]["files"], 0)
        self.assertEqual(stage.proxy.pipeline.active, 0)

    def test_sender_stops(self) -> None:
        """It is told that it took too long."""
        stage = self.stage_of()
        client = self.begin(stage, LARGE)
        stage.pass_time(70)
        self.assertEqual([each.status for each in client.answers()], [408])
        self.assertEqual(stage.dials, [])
        self.assertEqual(self.used(stage), 0)

    def test_waits_to_be_told_to_send(self) -> None:
        """Expect: 100-continue is answered by us, once."""
        stage = self.stage_of()
        client = stage.client()
        head = PUT[:-2] % 4 + b"Expect: 100-continue\r\n\r\n"
        client.send(head)
        self.assertEqual(client.received, b"HTTP/1.1 100 Continue\r\n\r\n")
        client.received.clear()
        client.send(b"body")
        stage.turn()
        self.assertEqual(client.answers()[0].body, b"thanks")
        self.assertIsNone(stage.asked[0].field("Expect"))

    def test_bad_chunk(self) -> None:
        """A body that makes no sense reaches nobody."""
        stage = self.stage_of()
        client = stage.client()
        client.send(
            b"PUT /a HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n"
            b"\r\n3\r\nabc\r\nzz\r\n"
        )
        stage.turn()
        self.assertEqual([each.status for each in client.answers()], [400])
        self.assertEqual(stage.dials, [])


class BoundTests(UploadTestCase):
    """The room on disk is bounded; without any, bodies stream."""

    def test_no_room(self) -> None:
        """The origin is asked with what there is, and gets the rest as it comes."""
        spool = SpoolConfig(max_bytes=Bytes(300_000))
        stage = self.stage_of(spool=spool)
        client = self.begin(stage, LARGE)
        self.assertEqual(len(stage.dials), 1)
        self.assertLessEqual(self.used(stage), 300_000)
        client.send(LARGE[-1:])
        stage.turn(30)
        self.assertEqual(stage.asked[0].body, LARGE)
        self.assertEqual(client.answers()[0].body, b"thanks")
        self.assertEqual(self.used(stage), 0)

    def test_switched_off(self) -> None:
        """A pool can have its uploads as they come."""
        pool = PoolConfig(members=("o1:80",), spool_uploads=False)
        stage = self.stage_of(pools={"origin": pool})
        client = self.begin(stage, LARGE)
        self.assertEqual(len(stage.dials), 1)
        self.assertEqual(self.used(stage), 0)
        client.send(LARGE[-1:])
        stage.turn(30)
        self.assertEqual(stage.asked[0].body, LARGE)


class RetriedUploadTests(SynchronousTestCase):
    """What is here as a whole can be sent whole again, if that does no harm."""

    def ask(self, method: bytes, body: bytes) -> tuple[int, list[Asked]]:
        """Send an upload to two origins, of which the first asked hangs up."""

        def script(asked: Asked) -> bytes | None:
            if len(stage.asked) == 1:
                asked.line.hang_up(ConnectionLost)
                return None
            return response(b"thanks")

        stage = Stage(self, script, pools=TWO)
        client = stage.client()
        client.send(PUT.replace(b"PUT", method) % len(body) + body)
        stage.turn(40)
        return client.answers()[0].status, stage.asked

    def test_idempotent(self) -> None:
        """PUT of any size is tried again, whole."""
        for body in (b"small", LARGE):
            status, asked = self.ask(b"PUT", body)
            self.assertEqual(status, 200)
            self.assertEqual([each.body for each in asked], [body, body])

    def test_not_idempotent(self) -> None:
        """POST is not: the first may have had it."""
        for body in (b"small", LARGE):
            status, asked = self.ask(b"POST", body)
            self.assertEqual(status, 502)
            self.assertEqual(len(asked), 1)
