"""What another configuration would change, and whether blobs would be lost by it.

Two configurations in the original's form (``{"clblob": {"client": …, "store": …}}``,
as `_config` tells it) are compared after its defaults have filled both.  Differences
are sorted by weight: *catastrophic* is what makes blobs unreachable or unsafe,
*reconfig* is any other.

Everything is compared: clusters, buckets, their replicas and write weights, the
replicas' addresses and read weights, and every option.

Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from attrs import Factory, define

from clinfra.errors import InvalidRequest

DEFAULTS: Mapping[str, Any] = {
    "client.admin_timeout": 5,
    "client.bucket_count_mismatch_catastrophic": True,
    "client.buffer_interval": 3,
    "client.buffer_start_delay": 0,
    "client.checksum_modulo": 86400,
    "client.churn_threshold": 0.5,
    "client.cluster": None,
    "client.cluster_event_buffer_size": 100,
    "client.cluster_event_retry": 1,
    "client.cluster_pool_size": 4,
    "client.encode_name": True,
    "client.expiration_delay": 86400,
    "client.index_module": "sqlite",
    "client.log_level": "NOTSET",
    "client.logstatus_interval": 60,
    "client.logstatus_start_delay": 60,
    "client.purge_batch_size": 100,
    "client.purge_interval": 60,
    "client.purge_start_delay": 900,
    "client.replica": None,
    "client.replica_cached_connections": 10,
    "client.replica_event_buffer_size": 100,
    "client.replica_event_retry": 1,
    "client.replica_pool_size": 2,
    "client.replica_retry": 10,
    "client.request_timeout": 5,
    "client.response_buffer_size": 131072,
    "client.store_module": "disk",
    "client.sync_blob_threshold": 1000,
    "client.sync_checksum_modulo_factor": 120,
    "client.sync_interval": None,
    "client.sync_start_delay": None,
    "client.ttl": None,
    "client.worker_retry": 1,
    "index.sqlite.database": None,
    "index.sqlite.log_level": "NOTSET",
    "index.sqlite.sync": 2,
    "index.sqlite.thread": True,
    "index.sqlite.tmpdir": None,
    "store.disk.buffer_size": 131072,
    "store.disk.log_level": "NOTSET",
    "store.disk.path": None,
    "store.disk.path_depth": 2,
    "store.disk.pool_size": 4,
    "store.disk.sync": True,
}
"""The original's options and their defaults."""

CATASTROPHIC = frozenset(
    (
        "client.cluster",
        "client.encode_name",
        "client.index_module",
        "client.replica",
        "client.store_module",
        "index.sqlite.path_depth",
        "index.sqlite.sync",
        "store.disk.path_depth",
    )
)
"""Options that hide blobs, or put them at risk, when they change."""

TOLERANCES = ("reconfig", "catastrophic")

_Buckets = list[list[Mapping[str, Any]]]


@define
class Report:
    """The differences.

    Attributes:
        catastrophic, reconfig: a sentence for each difference.
        added, removed: "clusters", "buckets", "replicas", each by cluster and bucket.
        weights: cluster → bucket → write weights.
        replicas: replica → key → the two values.
        options: option → the two values.
        churn: cluster → bucket → share of its replicas that would be new.
        bucket_count_mismatch: the new clusters do not all have as many buckets.
    """

    catastrophic: list[str] = Factory(list)
    reconfig: list[str] = Factory(list)
    added: dict[str, Any] = Factory(dict)
    removed: dict[str, Any] = Factory(dict)
    weights: dict[str, dict[str, Any]] = Factory(dict)
    replicas: dict[str, dict[str, Any]] = Factory(dict)
    options: dict[str, Any] = Factory(dict)
    churn: dict[str, dict[str, float]] = Factory(dict)
    bucket_count_mismatch: bool = False

    def told(self) -> dict[str, Any]:
        """Return the report as JSON-able values, the original's keys first."""
        clusters: dict[str, Any] = {"removed": self.removed, "added": self.added}
        if self.weights:
            clusters["write_weight"] = self.weights
        told: dict[str, Any] = {
            "replicas": self.replicas,
            "catastrophic": self.catastrophic,
            "reconfig": self.reconfig,
            "clusters": clusters,
            "churn": self.churn,
            "options": self.options,
        }
        if self.bucket_count_mismatch:
            told["bucket_count_mismatch"] = True
        return told

    def brief(self, tolerance: str | None) -> str:
        """Return "OK", or the heaviest sentences, one a line.

        Args:
            tolerance: "reconfig" leaves out what is merely that; "catastrophic"
                leaves out everything.
        """
        shown = [] if tolerance == "catastrophic" else self.catastrophic
        if not shown and tolerance is None:
            shown = self.reconfig
        return "".join(f"{line}\n" for line in sorted(shown)) or "OK"


def compare(old: Any, new: Any, kept: Collection[str] = ()) -> Report:
    """Return what changes from one configuration to another.

    Args:
        kept: options that stay as they are when `new` does not tell them.

    Raises InvalidRequest when one has not the form of a configuration.
    """
    before = _Config(old, {})
    after = _Config(
        new, {name: before.options[name] for name in kept if name in before.options}
    )
    report = Report()
    _compare_clusters(report, before.clusters, after.clusters, after.encode_name)
    _compare_replicas(report, before.replicas, after.replicas)
    _compare_options(report, before.options, after.options)
    _judge(report, after)
    return report


class _Config:
    """One configuration, with defaults, taken apart."""

    def __init__(self, whole: Any, kept: Mapping[str, Any]) -> None:
        root = _table(_table(whole, "configuration").get("clblob", {}), "clblob")
        client = _table(root.get("client", {}), "client")
        self.clusters = _clusters(client.get("clusters", []))
        self.replicas = {
            name: _table(peer, f"client.replicas.{name}")
            for name, peer in _table(
                client.get("replicas", {}), "client.replicas"
            ).items()
        }
        self.options = {**DEFAULTS, **kept, **dict(_options(root, ""))}
        if self.options["client.cluster"] is None:
            # A replica's cluster is where it is listed.
            self.options["client.cluster"] = self._home()
        self.encode_name = bool(self.options["client.encode_name"])

    def _home(self) -> int | None:
        for cluster, buckets in enumerate(self.clusters):
            if any(self.options["client.replica"] in b["replicas"] for b in buckets):
                return cluster
        return None


def _table(found: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(found, dict):
        raise InvalidRequest(f"Not a table: {where}")
    return found


def _clusters(found: Any) -> _Buckets:
    if not isinstance(found, list) or not all(isinstance(each, list) for each in found):
        raise InvalidRequest("Not a list of lists: client.clusters")
    for buckets in found:
        for bucket in buckets:
            replicas = _table(bucket, "bucket in client.clusters").get("replicas")
            if not isinstance(replicas, list) or not all(
                isinstance(name, str) for name in replicas
            ):
                raise InvalidRequest("Not a list of names: replicas of a bucket")
    return found


def _options(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield every option below a table, by its dotted name."""
    for key, value in table.items():
        name = f"{prefix}{key}"
        if name in ("client.clusters", "client.replicas"):
            continue
        if isinstance(value, dict):
            yield from _options(value, f"{name}.")
        else:
            yield name, value


def _compare_clusters(
    report: Report, old: _Buckets, new: _Buckets, encode_name: bool
) -> None:
    for cluster in range(max(len(old), len(new))):
        if cluster >= len(new):
            sentence = f"cluster ({cluster}) removed"
            _note(report.removed, "clusters", cluster, _members(old[cluster]))
            report.reconfig.append(sentence)
            report.catastrophic.append(sentence)
        elif cluster >= len(old):
            _note(report.added, "clusters", cluster, _members(new[cluster]))
            report.reconfig.append(f"cluster ({cluster}) added")
        else:
            _compare_buckets(report, cluster, old[cluster], new[cluster], encode_name)


def _compare_buckets(
    report: Report,
    cluster: int,
    old: list[Mapping[str, Any]],
    new: list[Mapping[str, Any]],
    encode_name: bool,
) -> None:
    for bucket in range(max(len(old), len(new))):
        where = f"({cluster},{bucket})"
        if bucket >= len(new):
            sentence = f"bucket {where} removed"
            members = list(old[bucket]["replicas"])
            _note(report.removed, "buckets", cluster, {str(bucket): members})
            report.reconfig.append(sentence)
            report.catastrophic.append(sentence)
            continue
        if bucket >= len(old):
            members = list(new[bucket]["replicas"])
            _note(report.added, "buckets", cluster, {str(bucket): members})
            report.reconfig.append(f"bucket {where} added")
            continue
        _compare_bucket(report, cluster, bucket, old[bucket], new[bucket])
        weights = old[bucket].get("write_weight"), new[bucket].get("write_weight")
        if weights[0] != weights[1]:
            sentence = f"bucket {where} write_weight changed: {_values(*weights)}"
            report.weights.setdefault(str(cluster), {})[str(bucket)] = _pair(*weights)
            report.reconfig.append(sentence)
            if not encode_name:
                # Where a blob is follows from its hash and the weights alone.
                report.catastrophic.append(sentence)


def _compare_bucket(
    report: Report,
    cluster: int,
    bucket: int,
    old: Mapping[str, Any],
    new: Mapping[str, Any],
) -> None:
    added = [name for name in new["replicas"] if name not in old["replicas"]]
    removed = [name for name in old["replicas"] if name not in new["replicas"]]
    for names, where, verb in (
        (added, report.added, "added"),
        (removed, report.removed, "removed"),
    ):
        if names:
            _note(where, "replicas", cluster, {str(bucket): names})
        for name in names:
            report.reconfig.append(f"replica ({cluster},{bucket},{name}) {verb}")
    if added:
        share = len(added) / len(new["replicas"])
        report.churn.setdefault(str(cluster), {})[str(bucket)] = share


def _compare_replicas(
    report: Report,
    old: Mapping[str, Mapping[str, Any]],
    new: Mapping[str, Mapping[str, Any]],
) -> None:
    for name in sorted(old.keys() & new.keys()):
        for key in sorted(old[name].keys() | new[name].keys()):
            values = old[name].get(key), new[name].get(key)
            if values[0] != values[1]:
                report.replicas.setdefault(name, {})[key] = _pair(*values)
                report.reconfig.append(
                    f'replica "{name}" {key} changed: {_values(*values)}'
                )


def _compare_options(
    report: Report, old: Mapping[str, Any], new: Mapping[str, Any]
) -> None:
    for name in sorted(old.keys() | new.keys()):
        values = old.get(name), new.get(name)
        if values[0] == values[1]:
            continue
        report.options[name] = _pair(*values)
        heavy = name in CATASTROPHIC
        (report.catastrophic if heavy else report.reconfig).append(
            f'option "{name}" changed: {_values(*values)}'
        )


def _judge(report: Report, new: _Config) -> None:
    """Weigh the differences as a whole."""
    threshold = new.options["client.churn_threshold"]
    if isinstance(threshold, int | float):
        for cluster, buckets in report.churn.items():
            for bucket, share in buckets.items():
                if share >= threshold:
                    report.catastrophic.append(
                        f"churn of bucket ({cluster},{bucket}) is {share:.2f},"
                        f" not below {threshold}"
                    )
    if len({len(buckets) for buckets in new.clusters}) > 1:
        report.bucket_count_mismatch = True
        if new.options["client.bucket_count_mismatch_catastrophic"]:
            report.catastrophic.append("clusters differ in their number of buckets")
    if report.reconfig and not new.encode_name:
        report.catastrophic.append("reconfig while client.encode_name is False")


def _members(buckets: list[Mapping[str, Any]]) -> dict[str, list[str]]:
    return {str(n): list(bucket["replicas"]) for n, bucket in enumerate(buckets)}


def _note(
    found: dict[str, Any], kind: str, cluster: int, buckets: Mapping[str, list[str]]
) -> None:
    found.setdefault(kind, {}).setdefault(str(cluster), {}).update(buckets)


def _pair(old: Any, new: Any) -> dict[str, Any]:
    return {"new_config": new, "old_config": old}


def _values(old: Any, new: Any) -> str:
    return f'new_config: "{new}" old_config: "{old}"'
