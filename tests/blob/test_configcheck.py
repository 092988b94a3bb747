"""What a new configuration would do: as the original reports it, and what it missed."""

from __future__ import annotations

import copy
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from clinfra.blob.configcheck import Report, compare
from clinfra.errors import InvalidRequest


def config(**client: Any) -> dict[str, Any]:
    """Return the configuration of the recordings: 2 clusters of 2 buckets of 3."""
    clusters = [
        [
            {
                "replicas": [f"c{cluster}b{bucket}r{n}" for n in range(3)],
                "write_weight": 1,
            }
            for bucket in range(2)
        ]
        for cluster in range(2)
    ]
    names = [name for c in clusters for b in c for name in list(b["replicas"])]  # type: ignore[call-overload]  # a list of names
    return {
        "clblob": {
            "client": {
                "clusters": clusters,
                "cluster": 0,
                "encode_name": False,
                "replica": "c0b0r0",
                "replicas": {
                    name: {"ip": "127.0.0.1", "port": 10000 + n, "read_weight": 1}
                    for n, name in enumerate(names)
                },
                **client,
            },
            "index": {"sqlite": {"sync": 0, "database": "(data)"}},
            "store": {"disk": {"sync": False, "path": "(data)"}},
        }
    }


class Compared(SynchronousTestCase):
    """Comparing with what runs."""

    def setUp(self) -> None:
        self.old = config()
        self.new = copy.deepcopy(self.old)
        self.client = self.new["clblob"]["client"]

    def encoded(self) -> None:
        """Let both write placement in names, so that not every change is grave."""
        for whole in (self.old, self.new):
            whole["clblob"]["client"]["encode_name"] = True

    def report(self) -> Report:
        return compare(self.old, self.new)


class RecordedTests(Compared):
    """Recordings A13 [1320] to [1338]."""

    def test_own(self) -> None:
        """[1334, 1335] What runs changes nothing."""
        report = self.report()

        self.assertEqual(
            {
                "replicas": {},
                "catastrophic": [],
                "reconfig": [],
                "clusters": {"removed": {}, "added": {}},
                "churn": {},
                "options": {},
            },
            report.told(),
        )
        self.assertEqual("OK", report.brief(None))

    def test_one_replica_replaced(self) -> None:
        """[1336, 1337] A replaced replica: churn, and names without placement."""
        self.client["clusters"][0][0]["replicas"] = ["c0b0r0", "c0b0r1", "cNEW"]

        report = self.report()
        told = report.told()

        self.assertEqual(
            ["reconfig while client.encode_name is False"], told["catastrophic"]
        )
        self.assertEqual(
            ["replica (0,0,cNEW) added", "replica (0,0,c0b0r2) removed"],
            told["reconfig"],
        )
        self.assertEqual(
            {
                "removed": {"replicas": {"0": {"0": ["c0b0r2"]}}},
                "added": {"replicas": {"0": {"0": ["cNEW"]}}},
            },
            told["clusters"],
        )
        self.assertEqual({"0": {"0": 1 / 3}}, told["churn"])
        self.assertEqual(
            "reconfig while client.encode_name is False\n", report.brief(None)
        )

    def test_nothing(self) -> None:
        """[1323] An empty configuration has the defaults, and no cluster."""
        report = compare(self.old, {})

        for name, new, old in (
            ("client.cluster", "None", "0"),
            ("index.sqlite.sync", "2", "0"),
            ("client.encode_name", "True", "False"),
            ("client.replica", "None", "c0b0r0"),
        ):
            self.assertIn(
                f'option "{name}" changed: new_config: "{new}" old_config: "{old}"',
                report.catastrophic,
            )
        for sentence in (
            "cluster (0) removed",
            "cluster (1) removed",
            'option "store.disk.path" changed: new_config: "None" old_config: "(data)"',
            'option "store.disk.sync" changed: new_config: "True" old_config: "False"',
        ):
            self.assertIn(sentence, report.reconfig)
        self.assertEqual(
            {"new_config": None, "old_config": 0},
            report.options["client.cluster"],
        )
        self.assertEqual(compare(self.old, {"clblob": {"client": {}}}), report)

    def test_flipped(self) -> None:
        """[1338] An option of each weight."""
        self.client.update(encode_name=True, ttl=55)

        report = self.report()

        self.assertEqual(
            [
                'option "client.encode_name" changed:'
                ' new_config: "True" old_config: "False"'
            ],
            report.catastrophic,
        )
        self.assertEqual(
            ['option "client.ttl" changed: new_config: "55" old_config: "None"'],
            report.reconfig,
        )

    def test_tolerance(self) -> None:
        """[1326, 1327] What is tolerated is not told in brief."""
        self.encoded()
        self.client["ttl"] = 55
        self.assertEqual(1, self.report().brief(None).count("\n"))
        self.assertEqual("OK", self.report().brief("reconfig"))
        self.client["replica"] = None
        self.assertIn("client.replica", self.report().brief(None))
        self.assertNotIn("client.ttl", self.report().brief(None))
        self.assertIn("client.replica", self.report().brief("reconfig"))
        self.assertEqual("OK", self.report().brief("catastrophic"))


class FaultTests(Compared):
    """Faults 35 to 39: what the original did not see."""

    def test_fault_35(self) -> None:
        """A replica's changed address or read weight is seen."""
        self.encoded()
        self.client["replicas"]["c0b0r1"]["port"] = 1
        self.client["replicas"]["c1b1r2"]["read_weight"] = 0

        report = self.report()

        self.assertEqual(
            {
                "c0b0r1": {"port": {"new_config": 1, "old_config": 10001}},
                "c1b1r2": {"read_weight": {"new_config": 0, "old_config": 1}},
            },
            report.replicas,
        )
        self.assertEqual(2, len(report.reconfig))
        self.assertEqual([], report.catastrophic)

    def test_fault_36(self) -> None:
        """A removed cluster is catastrophic, and told where it belongs."""
        self.encoded()
        del self.client["clusters"][1]

        report = self.report()

        self.assertEqual(["cluster (1) removed"], report.catastrophic)
        self.assertEqual({"clusters"}, set(report.removed))
        self.assertEqual({"1"}, set(report.removed["clusters"]))

    def test_fault_37(self) -> None:
        """Each of several added or removed buckets is told."""
        self.encoded()
        more = [{"replicas": [f"new{n}"], "write_weight": 1} for n in range(2)]
        self.client["clusters"][0] += more
        self.client["clusters"][1] = []

        report = self.report()

        self.assertEqual(
            {"buckets": {"0": {"2": ["new0"], "3": ["new1"]}}}, report.added
        )
        self.assertEqual({"0", "1"}, set(report.removed["buckets"]["1"]))
        for sentence in ("bucket (1,0) removed", "bucket (1,1) removed"):
            self.assertIn(sentence, report.catastrophic)

    def test_fault_38(self) -> None:
        """Another layout of directories hides every blob: catastrophic."""
        self.encoded()
        self.new["clblob"]["store"]["disk"]["path_depth"] = 3

        report = self.report()

        (sentence,) = report.catastrophic
        self.assertIn('"store.disk.path_depth"', sentence)

    def test_fault_39(self) -> None:
        """Write weights are compared; without placement in names they are grave."""
        self.client["clusters"][0][1]["write_weight"] = 3
        sentence = 'bucket (0,1) write_weight changed: new_config: "3" old_config: "1"'
        self.assertIn(sentence, self.report().catastrophic)

        self.encoded()
        report = self.report()

        self.assertEqual(([], [sentence]), (report.catastrophic, report.reconfig))
        self.assertEqual(
            {"0": {"1": {"new_config": 3, "old_config": 1}}},
            report.told()["clusters"]["write_weight"],
        )


class WeighingTests(Compared):
    """What is catastrophic as a whole."""

    def test_churn(self) -> None:
        """Half of a bucket's replicas new is too much, unless one says otherwise."""
        self.encoded()
        self.client["clusters"][1][0]["replicas"] = ["c1b0r0", "x"]
        self.assertEqual(
            ["churn of bucket (1,0) is 0.50, not below 0.5"],
            self.report().catastrophic,
        )

        self.client["churn_threshold"] = 0.9
        self.assertEqual([], self.report().catastrophic)

    def test_bucket_counts(self) -> None:
        """Clusters of unequal size are told, and catastrophic unless allowed."""
        self.encoded()
        self.client["clusters"][0].append({"replicas": ["x"], "write_weight": 1})
        report = self.report()
        self.assertTrue(report.told()["bucket_count_mismatch"])
        self.assertEqual(1, len(report.catastrophic))

        self.client["bucket_count_mismatch_catastrophic"] = False
        self.assertEqual([], self.report().catastrophic)

    def test_derived_cluster(self) -> None:
        """A replica's cluster need not be said: it follows from where it is."""
        del self.client["cluster"]

        self.assertEqual("OK", self.report().brief(None))

    def test_refused(self) -> None:
        """What has not the form of a configuration is refused."""
        several: tuple[object, ...] = (
            [],
            {"clblob": 1},
            {"clblob": {"client": []}},
            {"clblob": {"client": {"clusters": {}}}},
            {"clblob": {"client": {"clusters": [[{}]]}}},
            {"clblob": {"client": {"clusters": [[{"replicas": [1]}]]}}},
            {"clblob": {"client": {"replicas": {"a": 1}}}},
        )
        for wrong in several:
            with self.assertRaises(InvalidRequest):
                compare(self.old, wrong)


del Compared
