"""Two writes that a client gave one stamp."""

from __future__ import annotations

from hashlib import sha256

from twisted.trial.unittest import SynchronousTestCase

from clinfra.blob.records import Data, Expiry, State
from clinfra.blob.stamps import stamp_at
from tests.blob.support import NOW
from tests.sim.cluster import Cluster
from tests.sim.promises import Broken, Change, Name, Promise

LESSER, GREATER = sorted((b"one", b"other"), key=lambda body: sha256(body).digest())
STAMP = stamp_at(NOW)


class TieTests(SynchronousTestCase):
    """Ours decide by content; an original by what comes last."""

    def test_at_original(self) -> None:
        """The greater is lost when nobody is left who saw both but an original."""
        cluster = Cluster([[3]], originals={"c0b0r2"})
        self.addCleanup(cluster.close)
        (original,) = cluster.originals.values()
        first, second = cluster.hosts.values()
        cluster.run(5)
        cluster.crash(second)
        put = cluster.put(first, f"/a?modified={STAMP}", GREATER)
        stored = put.told["name"]
        self.assertEqual(b"2/3", put.fields[b"x-clblob-copies"])
        cluster.wipe(first)
        cluster.start(second)
        cluster.put(second, f"/a?modified={STAMP}", LESSER)
        cluster.run(60)

        self.assertEqual(LESSER, original.blobs[stored][3])
        greater = STAMP, sha256(GREATER).digest()
        self.assertEqual([greater], original.outdone[stored])
        cluster.start(first)
        cluster.run(600)
        self.assertEqual(LESSER, cluster.get(first, f"/{stored}").body)

    def test_excuse(self) -> None:
        """That, and no more, is an excuse."""
        name = Name("000_a")
        written = []
        for body in (LESSER, GREATER):
            change = Change(sha256(body).digest(), None, NOW, STAMP, NOW + 1)
            name.changes.append(change)
            data = STAMP, sha256(body).digest()
            name.kept[data] = NOW
            name.promises.append(Promise(change, "c0b0r0", 2, data, (STAMP, 0)))
            written.append(data)
        name.ends[STAMP, 0] = NOW
        lesser = State(Data(*written[0], 3, 0), Expiry(STAMP, 0))

        with self.assertRaises(Broken):
            name.check(lesser, "c0b0r0", NOW + 9)
        name.check(lesser, "c0b0r0", NOW + 9, lambda each: each.data == written[1])
        with self.assertRaises(Broken):
            name.check(None, "c0b0r0", NOW + 9, lambda each: each.data == written[1])
