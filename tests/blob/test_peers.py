"""Asking other replicas: what is on the wire, and what is learned from the answers."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from clinfra.blob import names, topology
from clinfra.blob.peers import FEATURE, PeerFailed, PeerRefused, Peers
from clinfra.blob.records import Data, Expiry, State
from clinfra.errors import InvalidRequest, NotFound
from clinfra.web.exchange import Response
from clinfra.web.heads import RequestHead
from clinfra.web.pool import Origin, PoolSettings
from clinfra.web.site import Site
from tests.blob.support import LIMITS
from tests.blob.test_router import Original
from tests.sim.cluster import cluster_file
from tests.sim.network import Network

PEER = "c0b0r0"
INFO = {
    "name": "000_x",
    "modified": 5,
    "deleted": 0,
    "modified_deleted": 5,
    "buckets": {"0": 0},
}
ORIGINAL, OURS = {"replica": PEER}, {"replica": PEER, "features": [FEATURE]}


def told(value: object) -> Response:
    """Return JSON."""
    fields = ((b"Content-Type", b"application/json"),)
    return Response(200, fields, json.dumps(value).encode())


class PeersTests(SynchronousTestCase):
    """One peer, scripted."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_800_000_000)
        self.network = Network(self.clock, random.Random(1))
        self.status: object = ORIGINAL
        self.script: Callable[[RequestHead, bytes], Response]
        self.script = lambda head, body: told(INFO)
        self.server = Original(self.answer)
        site: Any = Site(self.server, reactor=self.clock, limits=LIMITS)
        self.network.listeners[Origin("10.0.0.0", 80)] = site
        self.peers = Peers(
            topology.read(cluster_file([[2]]), None, "cluster.json"),
            reactor=self.clock,
            now=self.clock.seconds,
            rng=random.Random(1),
            connect=self.network.connector("10.9.9.9"),
            settings=PoolSettings(response_timeout=5.0),
        )
        self.addCleanup(self.peers.close)

    def answer(self, head: RequestHead, body: bytes) -> Response:
        if head.target == b"/_status":
            return told(self.status)
        return self.script(head, body)

    def run_on(self, seconds: float) -> None:
        """Let time pass."""
        for _ in range(int(seconds / 0.05)):
            self.clock.advance(0.05)

    def finish(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Let time pass until it is done; return or raise what came of it."""
        found: list[Any] = []
        Deferred.fromCoroutine(work).addBoth(found.append)
        for _ in range(10_000):
            if found:
                break
            self.clock.advance(0.01)
        if isinstance(found[0], Failure):
            found[0].raiseException()
        return found[0]

    def put(self, name: str = "000_x", body: bytes = b"hi", kind: str = "") -> Any:
        """PUT to the peer as a feed does."""
        data = Data(7, hashlib.sha256(body).digest(), len(body), 0, kind)
        state = State(data, Expiry(8, 9))
        return self.finish(self.peers.put(PEER, name, state, body, "replica"))

    @property
    def asked(self) -> list[tuple[bytes, bytes, bytes]]:
        return [each for each in self.server.asked if each[1] != b"/_status"]

    def test_on_the_wire(self) -> None:
        """Parameters are the original's, in its order (WIRE 2.6)."""
        self.put()
        self.finish(self.peers.delete(PEER, "000_x", Expiry(8, 9), "cluster"))
        self.finish(self.peers.info(PEER, "000_x"))
        self.assertEqual(
            [
                (
                    b"PUT",
                    b"/000_x?modified=7&deleted=9&modified_deleted=8"
                    b"&replicate=replica&encoded=True",
                    b"hi",
                ),
                (
                    b"DELETE",
                    b"/000_x?deleted=9&modified_deleted=8&replicate=cluster",
                    b"",
                ),
                (b"GET", b"/000_x?response=info", b""),
            ],
            self.asked,
        )

    def test_fields(self) -> None:
        """A PUT says its length, its digest, its type, and to pass it on no more."""
        heads: list[RequestHead] = []

        def script(head: RequestHead, body: bytes) -> Response:
            heads.append(head)
            return told(INFO)

        self.script = script
        self.put(body=b"")
        self.put(kind="text/x")
        self.assertEqual([b"0", b"2"], [head.get(b"content-length") for head in heads])
        self.assertEqual([b"1"] * 2, [head.get(b"x-clblob-hop") for head in heads])
        self.assertEqual(
            [None, b"text/x"], [head.get(b"content-type") for head in heads]
        )
        for head in heads:
            self.assertIn(b"sha-256=:", head.get(b"content-digest") or b"")

    def test_names(self) -> None:
        """No name becomes another on its way, to peers of either kind (fault 32)."""
        for kind in (ORIGINAL, OURS):
            self.peers.forget_kind(PEER)
            self.status = kind
            self.peers.is_ours(PEER)
            self.run_on(1)
            self.assertEqual(kind is OURS, self.peers.is_ours(PEER))
            for name in ("que?st", "per%20cent", "ha#sh", "a b", "ü", "a/b", "\u2028"):
                self.put(f"000_{name}")
                path = self.asked[-1][1].partition(b"?")[0]
                placed = names.from_path(path)
                self.assertEqual(f"000_{name}", placed)

    def test_kind(self) -> None:
        """Whether a peer is of our kind is asked once, and again when it was down."""
        self.assertIsNone(self.peers.is_ours(PEER))
        self.run_on(1)
        self.assertFalse(self.peers.is_ours(PEER))
        self.assertEqual(1, len(self.server.asked))
        self.status = OURS
        self.script = lambda head, body: Response(500)
        for _ in range(3):
            with self.assertRaises(PeerFailed):
                self.put()
        self.assertFalse(self.peers.is_up(PEER))
        self.run_on(3)
        self.peers.is_up(PEER)
        self.run_on(1)
        self.assertTrue(self.peers.is_up(PEER))
        self.assertTrue(self.peers.is_ours(PEER))

    def test_not_found_is_no_failure(self) -> None:
        """A 404 is an answer: it steers no reads away (fault 20)."""
        self.script = lambda head, body: Response(404)
        for _ in range(5):
            with self.assertRaises(NotFound):
                self.finish(self.peers.info(PEER, "000_x"))
        self.assertIsNone(self.peers.health.seconds_since_failure(PEER))

    def test_refused(self) -> None:
        """A 4xx says that sending the same again is of no use; the peer is well."""
        self.script = lambda head, body: Response(400, (), b"Name cannot be so")
        with self.assertRaisesRegex(PeerRefused, "Name cannot be so"):
            self.put()
        self.assertTrue(self.peers.is_up(PEER))
        self.assertIsNone(self.peers.health.seconds_since_failure(PEER))

    def test_full_is_not_ill(self) -> None:
        """A full disk is a failure of the change, not of the peer."""
        self.script = lambda head, body: Response(507)
        with self.assertRaises(PeerFailed) as caught:
            self.put()
        self.assertNotIsInstance(caught.exception, PeerRefused)
        self.assertEqual(507, caught.exception.status)
        self.assertIsNone(self.peers.health.seconds_since_failure(PEER))

    def test_silence(self) -> None:
        """A peer that is cut off is down after three time-outs; then probed only."""
        self.network.cut("10.9.9.9", "10.0.0.0")
        for _ in range(3):
            with self.assertRaises(PeerFailed):
                self.put()
        self.assertFalse(self.peers.is_up(PEER))
        self.network.join()
        for _ in range(100):
            self.peers.is_up(PEER)
            self.run_on(0.1)
        self.assertTrue(self.peers.is_up(PEER))
        self.assertEqual([b"/_status"], [target for _, target, _ in self.server.asked])

    def test_our_own_fault(self) -> None:
        """A body that cannot be read here is not the peer's fault (fault 16)."""

        class Broken:
            length = 5

            async def read(self) -> bytes:
                raise InvalidRequest("damaged here")

        state = State(Data(7, bytes(32), 5, 0), Expiry(7, 0))
        body: Any = Broken()
        with self.assertRaisesRegex(InvalidRequest, "damaged here"):
            self.finish(self.peers.put(PEER, "000_x", state, body, "replica"))
        self.assertIsNone(self.peers.health.seconds_since_failure(PEER))

    def test_nonsense(self) -> None:
        """An answer that makes no sense is a failure with the peer's name."""
        self.script = lambda head, body: Response(200, (), b"<html>")
        with self.assertRaisesRegex(PeerFailed, f"{PEER}: its answer makes no sense"):
            self.put()

    def test_unknown(self) -> None:
        """A replica that is not in the cluster file is not found."""
        with self.assertRaises(NotFound):
            self.finish(self.peers.call("nobody", b"GET", b"/"))
        self.assertTrue(self.peers.is_address("10.0.0.0"))
        self.assertFalse(self.peers.is_address("10.0.0.77"))
