"""Clusters of real processes on bad days: what was acknowledged is kept, and agreed on.

Clients put, replace and delete blobs through every server while servers are killed,
stopped and restarted.  Each client has names of its own, so it knows what every name
must be in the end: what was acknowledged last.  When a request had no answer, or was
refused, what was before it and what it asked for are both right, and that name is left
alone from then on.

Replicas are asked as their peers ask them (``X-Clblob-Hop``): for what they have
themselves.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import random
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

from attrs import define, field

from clinfra.blob.playground import cluster_file
from tests.support import ClinfraProcess, lasting_ports, wait_until

CLIENTS = 6
NAMES = 40
"""A client's names in use at a time."""

LARGE_BYTES = 1_500_000

State = int | None
"""What a name is: the version put last; None when deleted or never put."""


def body_of(name: str, version: int) -> bytes:
    """Return a version of a name: up to 30 KB, one in a hundred larger; all differ."""
    digest = hashlib.sha256(f"{name} {version}".encode()).digest()
    size = int.from_bytes(digest[:4]) % 30_000
    if digest[4] < 3:
        size = LARGE_BYTES
    return digest * (size // 32 + 1)


class Cluster:
    """A cluster of processes, each with a data directory of its own.

    Attributes:
        servers: by name; the first two digits of a name are its bucket.
        ports: by name.
    """

    def __init__(
        self,
        stack: ExitStack,
        processes: int = 3,
        data_dirs: Mapping[str, Path] | None = None,
        **config: Any,
    ) -> None:
        """Start it.

        Args:
            data_dirs: of replicas, where it matters.
            config: further keys of every blob section.
        """
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        told = cluster_file(processes, lasting_ports(processes))
        file = directory / "cluster.json"
        file.write_text(json.dumps(told), encoding="utf-8")
        self.ports: dict[str, int] = {}
        self.servers: dict[str, ClinfraProcess] = {}
        for name, peer in told["clblob"]["client"]["replicas"].items():
            self.ports[name] = peer["port"]
            blob = {
                "cluster_file": str(file),
                "replica": name,
                "listen": [f"tcp:{peer['port']}:interface=127.0.0.1"],
                **config,
            }
            server = ClinfraProcess(
                {"blob": blob}, data_dir=(data_dirs or {}).get(name)
            )
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
        timeout_seconds: float = 20,
        itself: bool = False,
    ) -> tuple[int, bytes, Mapping[str, str]]:
        """Return status, body and fields of an answer.

        Args:
            itself: what the server has, not what it gets from others.

        Raises:
            OSError, http.client.HTTPException: when there is no whole answer.
        """
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.ports[server], timeout=timeout_seconds
        )
        try:
            fields = {"X-Clblob-Hop": "1"} if itself else {}
            connection.request(method, target, body, fields)
            answer = connection.getresponse()
            return answer.status, answer.read(), dict(answer.getheaders())
        finally:
            connection.close()

    def keepers(self, buckets: Mapping[str, int]) -> list[str]:
        """Return the replicas that have a blob, in all clusters."""
        return [name for name in self.servers if buckets.get(name[0]) == int(name[1])]

    def listing(self, server: str) -> object:
        """Return everything a replica knows, in an order that does not matter."""
        status, told, _ = self.ask(server, "GET", "/_list?checksum=false", itself=True)
        assert status == 200, told
        return json.loads(told)

    def has_sent_all(self, server: str) -> bool:
        """Return whether a server has nothing left that others are to get."""
        status, told, _ = self.ask(server, "GET", "/_status", itself=True)
        assert status == 200, told
        buffered = json.loads(told)["buffer_status"]
        kept = self.servers[server].data_dir.glob("blob/handoff/*.json")
        return buffered == "buffered replica=0 cluster=0" and not any(kept)

    def converge(self, *, timeout_seconds: float = 45) -> None:
        """Wait until all is sent, and the replicas of each bucket list the same."""
        for server in self.servers:
            wait_until(
                lambda server=server: self.has_sent_all(server),  # type: ignore[misc] # bound here
                f"{server} has sent everything",
                timeout_seconds=timeout_seconds,
            )
        for bucket in sorted({name[:2] for name in self.servers}):
            names = [name for name in self.servers if name[:2] == bucket]
            wait_until(
                lambda names=names: (  # type: ignore[misc] # bound here
                    len({str(self.listing(name)) for name in names}) == 1
                ),
                f"the replicas of {bucket} list the same",
                timeout_seconds=timeout_seconds,
            )


@define(eq=False)
class Name:
    """What a client knows of one of its names."""

    plain: str
    stored: str = ""
    keepers: list[str] = field(factory=list)
    states: set[State] = field(factory=lambda: {None})
    version: int = 0
    copies: int = 0


class Load:
    """Clients, from a seed.

    Attributes:
        names: all there ever were.
        wrong: what must not have happened.
        acknowledged, unanswered: how many changes were.
        replaced: names are put again and deleted as well.
    """

    def __init__(self, cluster: Cluster, seed: int, *, replaced: bool = True) -> None:
        self.cluster = cluster
        self.names: list[Name] = []
        self.wrong: list[str] = []
        self.acknowledged = 0
        self.unanswered = 0
        self.replaced = replaced
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(f"{seed}-{n}",), daemon=True)
            for n in range(CLIENTS)
        ]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Wait until every client has its last answer."""
        self._ending.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    def _work(self, client: str) -> None:
        rng = random.Random(client)
        # A client stays in a cluster: the others hear of a change some time later.
        home = rng.choice(sorted({each[0] for each in self.cluster.servers}))
        servers = [each for each in self.cluster.servers if each[0] == home]
        names: list[Name] = []
        for number in count():
            if self._ending.is_set():
                return
            if len(names) < NAMES or not self.replaced or rng.random() < 0.3:
                name = Name(f"chaos-{client}-{number}")
                names.append(name)
                with self._lock:
                    self.names.append(name)
            else:
                name = rng.choice(names)
            server = rng.choice(servers)
            delete = bool(name.version) and self.replaced and rng.random() < 0.3
            if not self._change(name, server, delete):
                names.remove(name)
            elif self.replaced:
                self._read(name, rng.choice(servers))

    def _change(self, name: Name, server: str, delete: bool) -> bool:
        """Put or delete a name; return whether it is known what came of it."""
        before = set(name.states)
        wanted: State = None if delete else name.version + 1
        # From here on both are possible: the test may look at any time.
        name.states = before | {wanted}
        if wanted is not None:
            name.version = wanted
        try:
            if wanted is None:
                answer = self.cluster.ask(server, "DELETE", f"/{name.stored}")
            else:
                body = body_of(name.plain, wanted)
                answer = self.cluster.ask(server, "PUT", f"/{name.plain}", body)
        except (OSError, http.client.HTTPException):
            answer = 0, b"", {}
        status, told, fields = answer
        with self._lock:
            if status == 200:
                self.acknowledged += 1
            else:
                self.unanswered += 1
        if status not in (0, 200, 503, 507):
            self._complain(f"{name} at {server}: {status} {told[:200]!r}")
        if status != 200:
            return False
        name.states = {wanted}
        name.copies = int(fields["X-Clblob-Copies"].partition("/")[0])
        if wanted is not None:
            info = json.loads(told)
            name.stored = info["name"]
            name.keepers = self.cluster.keepers(info["buckets"])
        return True

    def _read(self, name: Name, server: str) -> None:
        """Read a name: some whole version of it, or none."""
        try:
            status, body, _ = self.cluster.ask(server, "GET", f"/{name.stored}")
        except (OSError, http.client.HTTPException):
            return
        if status == 200 and body not in (
            body_of(name.plain, version) for version in range(name.version, 0, -1)
        ):
            self._complain(f"{name} at {server}: {len(body)} bytes never put")
        elif status not in (200, 404, 503):
            self._complain(f"GET {name} at {server}: {status} {body[:200]!r}")

    def _complain(self, sentence: str) -> None:
        with self._lock:
            self.wrong.append(sentence)

    def check(self) -> None:
        """Check that every replica has each name as it was acknowledged last.

        All at once by as many threads as there are clients.
        """
        known = [name for name in self.names if name.stored]
        threads = [
            threading.Thread(target=self._check, args=(known[n::CLIENTS],))
            for n in range(CLIENTS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert self.wrong == [], f"{len(self.wrong)} wrong: {self.wrong[:5]}"

    def _check(self, names: list[Name]) -> None:
        for name in names:
            possible = {
                b"" if state is None else body_of(name.plain, state)
                for state in name.states
            }
            found = set()
            for keeper in name.keepers:
                try:
                    status, body, _ = self.cluster.ask(
                        keeper, "GET", f"/{name.stored}", itself=True
                    )
                except (OSError, http.client.HTTPException) as error:
                    self._complain(f"{name} at {keeper}: {error!r}")
                    continue
                body = b"" if status == 404 else body
                if status not in (200, 404) or body not in possible:
                    self._complain(f"{name} at {keeper}: {status}, {len(body)} bytes")
                found.add(body)
            if len(found) > 1:
                self._complain(f"{name}: replicas differ")


def kill(server: ClinfraProcess) -> None:
    """Kill it as kill -9 does, and start it again a moment later."""
    server.running.kill()
    time.sleep(0.4)
    server.restart()


def hang(server: ClinfraProcess) -> None:
    """Stop it in the middle of whatever it does, for longer than writes wait."""
    server.running.signal(signal.SIGSTOP)
    time.sleep(2.0)
    server.running.signal(signal.SIGCONT)


def restart(server: ClinfraProcess) -> None:
    """Restart it in order."""
    assert server.running.terminate() == 0, server.running.output
    server.restart()


def go_through(
    cluster: Cluster,
    seed: int,
    days: Sequence[tuple[Callable[[ClinfraProcess], None], str]],
) -> None:
    """Have bad days under load, then a power cut; check what is left of it."""
    load = Load(cluster, seed)
    try:
        time.sleep(1.0)
        for happen, name in days:
            happen(cluster.servers[name])
            time.sleep(0.3)
        for server in cluster.servers.values():
            server.running.kill()
    finally:
        load.end()
    for server in cluster.servers.values():
        server.running.close()
        server.start(wait=False)
    for server in cluster.servers.values():
        server.running.wait_for("clinfra is ready", timeout_seconds=60)
    cluster.converge()
    assert load.acknowledged > 20 * len(days)
    load.check()


def test_bucket_of_three() -> None:
    """One bucket: kills, hangs and restarts of everyone in turn, then a power cut."""
    with ExitStack() as stack:
        days = [
            (kill, "001"),
            (hang, "002"),
            (restart, "000"),
            (kill, "002"),
            (hang, "000"),
            (kill, "000"),
        ]
        go_through(Cluster(stack), 1, days)


def test_original_example() -> None:
    """The same in the original's example of two clusters of two buckets of three."""
    with ExitStack() as stack:
        days = [(kill, "011"), (hang, "100"), (kill, "112"), (restart, "002")]
        go_through(Cluster(stack, 12), 2, days)


def volumes(server: ClinfraProcess) -> list[Path]:
    """Return the files that hold a server's blobs."""
    return [
        path
        for path in server.data_dir.rglob("*")
        if path.is_file() and ".sqlite" not in path.name and "index" not in path.name
    ]


def test_bytes_flipped() -> None:
    """Bytes flipped on the disk are noticed, never served, and put right by peers."""
    with ExitStack() as stack:
        cluster = Cluster(stack)
        victim = cluster.servers["001"]
        bodies = {}
        for number in range(12):
            name, size = f"flip-{number}", 50_000 * (number % 3) + 2000
            bodies[f"000_{name}"] = random.Random(number).randbytes(size)
            status, told, _ = cluster.ask(
                "000", "PUT", f"/{name}?copies=all", bodies[f"000_{name}"]
            )
            assert status == 200, told
        cluster.converge()
        victim.running.kill()
        flipped = 0
        for path in volumes(victim):
            content = path.read_bytes()
            for number, body in enumerate(bodies.values()):
                at = content.find(body)
                if at >= 0 and number % 2:
                    with path.open("r+b") as file:
                        file.seek(at + len(body) // 2)
                        file.write(bytes([content[at + len(body) // 2] ^ 1]))
                    flipped += 1
        assert flipped == 6
        victim.restart()

        for _ in range(2):
            for stored, body in bodies.items():
                status, found, _ = cluster.ask("001", "GET", f"/{stored}")
                assert (status, found) == (200, body), stored
        for stored, body in bodies.items():
            wait_until(
                lambda stored=stored, body=body: (  # type: ignore[misc] # bound here
                    cluster.ask("001", "GET", f"/{stored}", itself=True)[:2]
                    == (200, body)
                ),
                f"{stored} is whole again",
            )
        cluster.converge()


if os.getuid() == 0:  # Only root can make disks that fill up.

    def test_full_disk(tmp_path: Path) -> None:
        """A replica whose disk is full costs nobody anything; later it catches up."""
        with ExitStack() as stack:
            disk = tmp_path / "disk"
            disk.mkdir()
            mount = ("mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(disk))
            subprocess.run(mount, check=True)
            stack.callback(subprocess.run, ("umount", "-l", str(disk)), check=True)
            cluster = Cluster(stack, data_dirs={"001": disk / "data"}, min_free_bytes=0)
            load = Load(cluster, 3, replaced=False)
            try:
                time.sleep(6.0)
            finally:
                load.end()
            full = os.statvfs(disk)
            assert full.f_bavail * full.f_frsize < 1_000_000
            assert load.acknowledged > 500
            kept = [name for name in load.names if name.copies >= 2]
            assert len(kept) > 500
            # What it cannot hold it gets from others.
            gone, *rest = random.Random(3).sample(kept, 60)
            for name in rest:
                (state,) = name.states
                assert state is not None
                for server in cluster.servers:
                    found = cluster.ask(server, "GET", f"/{name.stored}")[:2]
                    assert found == (200, body_of(name.plain, state)), server
            status, told, _ = cluster.ask("000", "DELETE", f"/{gone.stored}")
            assert status == 200, told
            gone.states = {None}

            subprocess.run(("mount", "-o", "remount,size=1g", str(disk)), check=True)
            restart(cluster.servers["001"])
            cluster.converge()
            load.check()
