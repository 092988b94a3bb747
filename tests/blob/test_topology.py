"""Cluster files: read as the original reads them, refused with everything wrong."""

from __future__ import annotations

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from clinfra.blob import topology
from clinfra.errors import ConfigProblems, InvalidRequest

PEER = {"ip": "127.0.0.1", "port": 10000, "read_weight": 1}


def cluster_file(**client: Any) -> str:
    """Return a cluster file of two buckets with one replica each."""
    base: dict[str, Any] = {
        "clusters": [
            [
                {"replicas": ["a"], "write_weight": 1},
                {"replicas": ["b"], "write_weight": 1},
            ]
        ],
        "replicas": {"a": PEER, "b": PEER},
    }
    return json.dumps({"clblob": {"client": {**base, **client}}})


class ReadTests(SynchronousTestCase):
    """Reading."""

    def test_comments(self) -> None:
        """Lines that begin with "#" are comments."""
        text = "# hello\n" + cluster_file().replace(", ", ",\n  # why not\n")

        self.assertEqual(2, len(topology.read(text, None, "f").clusters[0]))

    def test_place_of_a_replica(self) -> None:
        """A replica finds its cluster and bucket; a client has none."""
        found = topology.read(cluster_file(), "b", "f")

        self.assertEqual((0, 1), (found.cluster, found.bucket))
        self.assertIsNone(topology.read(cluster_file(), None, "f").bucket)

    def test_single(self) -> None:
        """Without a file there is one cluster of one bucket of one replica."""
        found = topology.single()
        placement = found.place("cat.jpg", encoded=False)

        self.assertEqual("000_cat.jpg", placement.stored)
        self.assertTrue(found.is_here(placement))

    def test_everything_wrong_is_told(self) -> None:
        """All problems are reported at once, each with file and key."""
        text = cluster_file(
            clusters=[
                [],
                [{"replicas": ["a", "c"]}, {"replicas": ["a"], "write_weight": 0}],
            ],
            replicas={"a": {"ip": 1, "port": 0}},
            ttl="x",
            encode_name=1,
        )
        with self.assertRaises(ConfigProblems) as caught:
            topology.read(text, "z", "f.conf")

        problems = "\n".join(caught.exception.problems)
        for expected in (
            "clusters[0]: a cluster needs at least one bucket",
            "clusters[1][0]: write_weight missing",
            "replicas.a: ip missing",
            "replicas.a: port missing",
            "replicas.a: read_weight missing",
            "replicas.a: in more than one bucket",
            "replicas.c: not defined",
            "replica: z is not in any bucket",
            "ttl: not a whole number",
            "encode_name: not true or false",
        ):
            self.assertIn(expected, problems)
        self.assertTrue(all(p.startswith("f.conf: ") for p in problems.splitlines()))

    def test_not_a_cluster_file(self) -> None:
        """What is no JSON, or has no clusters, is refused with a sentence."""
        for text in ("{", "[]", "{}", '{"clblob": {"client": {}}}', "null"):
            with self.assertRaises(ConfigProblems):
                topology.read(text, None, "f")

    def test_all_weights_zero(self) -> None:
        """A cluster that nothing could be written to is refused, not divided by."""
        with self.assertRaises(ConfigProblems):
            topology.read(
                cluster_file(clusters=[[{"replicas": ["a"], "write_weight": 0}]]),
                None,
                "f",
            )


class PlacementTests(SynchronousTestCase):
    """Who keeps what."""

    def test_unwritable(self) -> None:
        """A name that chooses a bucket nobody has can never be delivered: refused."""
        found = topology.read(cluster_file(), "a", "f")
        for stored in ("00900_x", "0_x", "0", "0zz_x"):
            with self.assertRaises(InvalidRequest, msg=stored):
                found.check_writable(found.place(stored, encoded=True))

    def test_here(self) -> None:
        """Only names of its own bucket are a replica's."""
        found = topology.read(cluster_file(), "a", "f")

        self.assertTrue(found.is_here(found.place("000_x", encoded=True)))
        self.assertFalse(found.is_here(found.place("001_x", encoded=True)))
