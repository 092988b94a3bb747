"""A cluster of real processes: every server answers for every name, whoever dies."""

from __future__ import annotations

import hashlib
import http.client
import json
import random
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.support import ClinfraProcess, lasting_ports, wait_until

LAYOUT = {"c0b0": 3, "c0b1": 3, "c1b0": 2}
"""Bucket → how many replicas it has."""

ROUTER = "router"

CLIENTS = 12
SECONDS = 2.5
KILL_AFTER_SECONDS = 0.8


class Cluster:
    """Two clusters, and a server that belongs to the first and keeps nothing.

    Attributes:
        servers: by name.
        ports: by name.
    """

    def __init__(self, stack: ExitStack) -> None:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        names = [f"{b}r{n}" for b, count in LAYOUT.items() for n in range(count)]
        self.ports = dict(
            zip([*names, ROUTER], lasting_ports(len(names) + 1), strict=True)
        )
        clusters: list[list[dict[str, object]]] = [[], []]
        for bucket in LAYOUT:
            keepers = [name for name in names if name.startswith(bucket)]
            clusters[int(bucket[1])].append({"replicas": keepers, "write_weight": 1})
        told = {
            "clusters": clusters,
            "replicas": {
                name: {"ip": "127.0.0.1", "port": self.ports[name], "read_weight": 1}
                for name in names
            },
            "cluster": 0,
        }
        file = directory / "cluster.json"
        file.write_text(json.dumps({"clblob": {"client": told}}), encoding="utf-8")
        self.servers: dict[str, ClinfraProcess] = {}
        for name, port in self.ports.items():
            blob = {
                "cluster_file": str(file),
                "listen": [f"tcp:{port}:interface=127.0.0.1"],
                **({"replica": name} if name != ROUTER else {}),
            }
            server = ClinfraProcess({"blob": blob})
            self.servers[name] = server
            stack.callback(server.close)
            server.start(wait=False)
        for server in self.servers.values():
            server.running.wait_for("clinfra is ready", timeout_seconds=60)

    def ask(
        self,
        server: str,
        method: str,
        target: str,
        body: bytes | None = None,
        *,
        timeout: float = 20,
    ) -> tuple[int, bytes, Mapping[str, str]]:
        """Return status, body and fields of an answer.  Raises OSError."""
        port = self.ports[server]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
        try:
            connection.request(method, target, body)
            response = connection.getresponse()
            return response.status, response.read(), dict(response.getheaders())
        finally:
            connection.close()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster that runs."""
    with ExitStack() as stack:
        yield Cluster(stack)


def body_of(name: str) -> bytes:
    """Return the body of a name: up to 30 KB, a few of 2 MB."""
    seed = hashlib.sha256(name.encode()).digest()
    length = int.from_bytes(seed[:4]) % 30_000
    if seed[4] < 3:
        length = 2_000_000
    return (seed * (length // 32 + 1))[:length]


def test_any_server_for_any_name(cluster: Cluster) -> None:
    """What is put through any server is read, told of and deleted through any other."""
    servers = list(cluster.servers)
    for number, server in enumerate(servers * 2):
        name = f"any ü{number}.txt"
        body = body_of(name)
        status, told, _ = cluster.ask(server, "PUT", f"/{quote(name)}?ttl=500", body)
        assert status == 200, told
        info = json.loads(told)
        stored = quote(info["name"])
        for other in servers:
            status, found, fields = cluster.ask(other, "GET", f"/{stored}")
            assert (status, found) == (200, body), (server, other, status)
            assert fields["Content-Type"] == "text/plain"
            status, told, _ = cluster.ask(other, "GET", f"/{stored}?response=info")
            assert json.loads(told)["modified"] == info["modified"], (server, other)
        gone = servers[(number * 5 + 3) % len(servers)]
        status, _, _ = cluster.ask(gone, "DELETE", f"/{stored}")
        assert status == 200
        # Two replicas know of it at once, the third a moment later.
        wait_until(
            lambda stored=stored: (  # type: ignore[misc] # bound here
                {cluster.ask(each, "GET", f"/{stored}")[0] for each in servers} == {404}
            ),
            "it is gone everywhere",
        )
    for server in servers:
        assert cluster.ask(server, "GET", "/00000_nothing")[0] == 404, server


class Load:
    """Clients that put and get through whatever server answers.

    Attributes:
        kept: stored name → plain name, of what was answered to have two copies.
        wrong: what must not have happened.
        slowest: seconds the slowest request took.
    """

    def __init__(self, cluster: Cluster, seconds: float) -> None:
        self.cluster = cluster
        self.kept: dict[str, str] = {}
        self.wrong: list[str] = []
        self.refused = 0
        self.slowest = 0.0
        self._lock = threading.Lock()
        self._end = time.monotonic() + seconds
        self._threads = [
            threading.Thread(target=self._work, args=(n,)) for n in range(CLIENTS)
        ]
        for thread in self._threads:
            thread.start()

    def wait(self) -> None:
        """Wait until the clients are through."""
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    def _work(self, client: int) -> None:
        rng = random.Random(client)
        number = 0
        while time.monotonic() < self._end:
            number += 1
            name = f"load-{id(self)}-{client}-{number}"
            server = rng.choice(list(self.cluster.servers))
            began = time.monotonic()
            try:
                self._put(server, name)
                with self._lock:
                    stored = rng.choice([*self.kept, ""])
                if stored:
                    self._get(rng.choice(list(self.cluster.servers)), stored)
            except (OSError, http.client.HTTPException):
                continue  # That server is the dead one: a client asks another.
            with self._lock:
                self.slowest = max(self.slowest, time.monotonic() - began)

    def _put(self, server: str, name: str) -> None:
        status, told, fields = self.cluster.ask(
            server, "PUT", f"/{name}", body_of(name)
        )
        with self._lock:
            if status == 503:
                self.refused += 1
            elif status != 200:
                self.wrong.append(f"PUT {name} at {server}: {status} {told[:80]!r}")
            elif int(fields["X-Clblob-Copies"].partition("/")[0]) >= 2:
                self.kept[json.loads(told)["name"]] = name

    def _get(self, server: str, stored: str) -> None:
        status, body, _ = self.cluster.ask(server, "GET", f"/{stored}")
        if status != 200 or body != body_of(self.kept[stored]):
            with self._lock:
                self.wrong.append(f"GET {stored} at {server}: {status} {len(body)}")


def check_all(cluster: Cluster, kept: Mapping[str, str], servers: list[str]) -> None:
    """Check that what was acknowledged is there, whole, whoever is asked."""
    for number, (stored, name) in enumerate(kept.items()):
        server = servers[number % len(servers)]
        status, body, _ = cluster.ask(server, "GET", f"/{stored}")
        assert (status, body) == (200, body_of(name)), (server, stored, status)


def test_kill_one_under_load(cluster: Cluster) -> None:
    """kill -9 of a replica under load loses nothing acknowledged, and stops nobody."""
    victim = "c0b0r1"
    load = Load(cluster, SECONDS)
    time.sleep(KILL_AFTER_SECONDS)
    before = len(load.kept)
    cluster.servers[victim].running.kill()
    load.wait()

    assert load.wrong == []
    assert before > 20
    assert len(load.kept) > before + 20
    living = [name for name in cluster.servers if name != victim]
    check_all(cluster, load.kept, living)
    cluster.servers[victim].restart()
    check_all(cluster, load.kept, [victim])


def test_stopped_under_load(cluster: Cluster) -> None:
    """A replica that hangs (SIGSTOP) keeps nobody waiting for long."""
    victim = "c0b1r2"
    running = cluster.servers[victim].running
    others = {name: each for name, each in cluster.servers.items() if name != victim}
    whole, cluster.servers = cluster.servers, others
    try:
        running.signal(signal.SIGSTOP)
        load = Load(cluster, SECONDS)
        load.wait()
    finally:
        running.signal(signal.SIGCONT)
        cluster.servers = whole

    assert load.wrong == []
    assert len(load.kept) > 50
    assert load.slowest < 12
    check_all(cluster, load.kept, list(cluster.servers))


def test_wiped_under_load(cluster: Cluster) -> None:
    """A replica that lost its disk takes over a peer's files, under load; all is there.

    What it lists afterwards is compared with the others by `test_converge`.
    """
    kept: dict[str, str] = {}
    for number in range(600):
        name = f"wiped-{number}"
        status, told, _ = cluster.ask("c0b0r1", "PUT", f"/{name}", body_of(name))
        assert status == 200, told
        kept[json.loads(told)["name"]] = name
    victim = cluster.servers["c0b0r0"]
    victim.running.kill()
    shutil.rmtree(victim.data_dir)
    load = Load(cluster, SECONDS)
    victim.restart()
    victim.running.wait_for("what was fetched is taken over", timeout_seconds=60)
    load.wait()

    def refill() -> dict[str, Any]:
        told: dict[str, Any] = json.loads(cluster.ask("c0b0r0", "GET", "/_status")[1])
        return dict(told["refill"])

    wait_until(lambda: not refill()["filling"], "it is filled", timeout_seconds=60)
    assert load.wrong == []
    assert refill()["left_out"] == 0
    check_all(cluster, {**kept, **load.kept}, ["c0b0r0"])


def test_converge(cluster: Cluster) -> None:
    """In the end all replicas of a bucket list the same."""

    def listed(server: str) -> object:
        told = cluster.ask(server, "GET", "/_list?checksum=false")
        return json.loads(told[1])

    for bucket, count in LAYOUT.items():
        wait_until(
            lambda bucket=bucket, count=count: (  # type: ignore[misc] # bound here
                len({str(listed(f"{bucket}r{n}")) for n in range(count)}) == 1
            ),
            f"the replicas of {bucket} are equal",
            timeout_seconds=60,
        )
