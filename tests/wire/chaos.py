"""Clusters of real processes, clients that load them, bad days, and what must hold.

Clients put, replace, delete and read blobs through every server.  Each client has names
of its own, so it knows what every name must be: what was acknowledged last.  When a
request had no answer, or was refused, what was before it and what it asked for are both
right, and that name is left alone from then on.

While it lasts, no read may return bytes that were never put under that name; and where
every replica of a bucket has acknowledged a state, nobody in its cluster may tell of
another.  In the end every replica has each name as it was acknowledged last: bytes for
bytes, deleted for deleted, and none of a name that nobody put.

Replicas are asked as their peers ask them (``X-Clblob-Hop``): for what they have
themselves.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import random
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from attrs import define, field

from clinfra.blob.playground import cluster_file
from tests.support import Child, ClinfraProcess, lasting_ports, wait_until

CLIENTS = 6
NAMES = 40
"""A client's names in use at a time."""

LAST_LINES = 15
"""Of what a server said, in the story of a failure."""

LARGE_BYTES = 1_500_000
REPLICAS = 3
"""Of each bucket."""

State = int | None
"""What a name is: the version put last; None when deleted or never put."""


def body_of(name: str, version: int) -> bytes:
    """Return a version of a name: up to 30 KB, one in a hundred larger; all differ."""
    digest = hashlib.sha256(f"{name} {version}".encode()).digest()
    size = int.from_bytes(digest[:4]) % 30_000
    if digest[4] < 3:
        size = LARGE_BYTES
    return digest * (size // 32 + 1)


class SmallDisk:
    """A tmpfs of its own, in a mount namespace that lasts as long as this.

    Root's rights are not needed where the kernel lets anybody make namespaces.

    Attributes:
        path: where it is, for what is run by `enter`.
    """

    def __init__(self, stack: ExitStack, megabytes: int) -> None:
        self.path = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.holder = stack.enter_context(
            Child(
                (
                    *("unshare", "--map-root-user", "--mount", "sh", "-c"),
                    'mount -t tmpfs -o "size=$1m" tmpfs "$0" && echo mounted && exec'
                    " sleep 1000",
                    *(str(self.path), str(megabytes)),
                )
            )
        )
        self.holder.wait_for("mounted")
        self.enter = (
            *("nsenter", "--preserve-credentials", "--user", "--mount"),
            *("-t", str(self.holder.pid), "--"),
        )

    @property
    def seen_from_here(self) -> Path:
        """The same directory, for those who are outside."""
        return Path(f"/proc/{self.holder.pid}/root{self.path}")

    def free_bytes(self) -> int:
        """Return how much still fits."""
        return shutil.disk_usage(self.seen_from_here).free

    def grow(self, megabytes: int) -> None:
        """Make it larger."""
        size = f"remount,size={megabytes}m"
        command = (*self.enter, "mount", "-o", size, str(self.path))
        with Child(command) as child:
            assert child.wait() == 0, child.output


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
        disks: Mapping[str, SmallDisk] | None = None,
        **config: Any,
    ) -> None:
        """Start it.

        Args:
            disks: of replicas that have one of their own.
            config: further keys of every blob section.
        """
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        told = cluster_file(processes, lasting_ports(processes))
        file = directory / "cluster.json"
        file.write_text(json.dumps(told), encoding="utf-8")
        self.clusters: int = len(told["clblob"]["client"]["clusters"])
        self.buckets: int = len(told["clblob"]["client"]["clusters"][0])
        self.ports: dict[str, int] = {}
        self.servers: dict[str, ClinfraProcess] = {}
        for name, peer in told["clblob"]["client"]["replicas"].items():
            self.ports[name] = peer["port"]
            blob = {
                "cluster_file": str(file),
                "replica": name,
                "listen": [f"tcp:{peer['port']}:interface=127.0.0.1"],
                "compare_interval": 1,
                **config,
            }
            disk = (disks or {}).get(name)
            data_dir = disk.path / "data" if disk is not None else None
            server = ClinfraProcess({"blob": blob}, data_dir=data_dir)
            if disk is not None:
                server.command = [*disk.enter, *server.command]
                server.data_dir = disk.seen_from_here / "data"
            self.servers[name] = server
            stack.callback(server.close)
        self.start()
        for name in self.servers:
            wait_until(
                lambda name=name: not self.told(name, "/_status")["refill"]["filling"],  # type: ignore[misc] # bound here
                f"{name} knows that there is nothing it could be filled with",
            )

    def start(self) -> None:
        """Start every server anew, all at once."""
        for server in self.servers.values():
            if server.child is not None:
                server.child.close()
            server.start(wait=False)
        for server in self.servers.values():
            server.running.wait_for("clinfra is ready", timeout_seconds=60)

    def cut_power(self) -> None:
        """Kill every server, all at once: none is left to tell of the others' end."""
        for server in self.servers.values():
            server.running.signal(signal.SIGKILL)
        for server in self.servers.values():
            server.running.kill()

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

    def stored(self, plain: str) -> str:
        """Return the name under which a blob is kept, by the original's rule."""
        number = int(hashlib.md5(plain.encode()).hexdigest()[:8], 16)
        bucket = f"{number % self.buckets:02}"
        return f"0{bucket * self.clusters}_{plain}"

    def keepers(self, stored: str) -> list[str]:
        """Return the replicas that have a blob, in all clusters."""
        return [
            name
            for name in self.servers
            if int(stored[2 * int(name[0]) + 1 :][:2]) == int(name[1])
        ]

    def told(self, server: str, path: str) -> Any:
        """Return what a server answers about itself."""
        status, told, _ = self.ask(server, "GET", path, itself=True)
        assert status == 200, told
        return json.loads(told)

    def has_sent_all(self, server: str) -> bool:
        """Return whether a server has nothing left that others are to get."""
        buffered = self.told(server, "/_status")["buffer_status"]
        kept = self.servers[server].data_dir.glob("blob/handoff/*.json")
        return buffered == "buffered replica=0 cluster=0" and not any(kept)

    def converge(self, *, timeout_seconds: float = 45) -> None:
        """Wait until all is sent, and the replicas of each bucket list the same.

        AssertionError says who has not, and how all of them are.
        """
        deadline = time.monotonic() + timeout_seconds

        def wait_for(nothing_left: Callable[[], object], what: str) -> None:
            while left := nothing_left():
                if time.monotonic() > deadline:
                    raise AssertionError(f"{what}: {left}\n{self.story()}")
                time.sleep(0.1)

        for server in self.servers:
            wait_for(
                lambda server=server: not self.has_sent_all(server),  # type: ignore[misc] # bound here
                f"{server} has not sent everything",
            )
        for bucket in sorted({name[:2] for name in self.servers}):
            names = [name for name in self.servers if name[:2] == bucket]
            wait_for(partial(self._differing, names), f"{bucket} differs")

    def mend(self, *, timeout_seconds: float = 60) -> None:
        """Wait until every server has looked at all it has, and put it right.

        A power cut makes each of them do that.  What only a torn disk had stays
        damaged: whether that may be lost is judged later.
        """

        def is_whole(server: str) -> bool:
            scrub = self.told(server, "/_status")["scrub"]
            damaged = scrub["damaged_names"]
            assert len(damaged) == scrub["damaged"], "more than are told"
            return scrub["ended_at"] is not None and all(map(self._is_nowhere, damaged))

        deadline = time.monotonic() + timeout_seconds
        for server in self.servers:
            while not is_whole(server):
                if time.monotonic() > deadline:
                    raise AssertionError(f"{server} is not whole\n{self.story()}")
                time.sleep(0.1)

    def _is_nowhere(self, stored: str) -> bool:
        """Return whether none of the replicas that keep a blob has its bytes."""
        return all(
            self.ask(server, "GET", f"/{stored}", itself=True)[0] != 200
            for server in self.keepers(stored)
        )

    def story(self) -> str:
        """Return how every server is, and what it said last."""
        told = []
        for name, server in self.servers.items():
            try:
                status = self.told(name, "/_status")
            except (OSError, http.client.HTTPException) as error:
                status = {"replication": repr(error)}
            keys = ("replication", "handoff", "repair", "refill", "scrub")
            told += [f"--- {name}", *(f"{key}: {status.get(key)}" for key in keys)]
            told += server.running.output.splitlines()[-LAST_LINES:]
        return "\n".join(told)

    def _differing(self, servers: Sequence[str]) -> list[Any]:
        """Return some of what replicas list that not all of them list.

        What has ended does not matter: a purge, or a new disk, may have forgotten it.
        """
        listed = [
            {
                tuple(row)
                for row in self.told(server, "/_list?checksum=false")
                if not 0 < row[2] <= time.time()
            }
            for server in servers
        ]
        every: set[Any] = set().union(*listed)
        differing = [row for row in every if not all(row in rows for rows in listed)]
        return [
            (
                row,
                [
                    name
                    for name, rows in zip(servers, listed, strict=True)
                    if row in rows
                ],
            )
            for row in sorted(differing)[:5]
        ]


@define(eq=False)
class Name:
    """What a client knows of one of its names.

    Attributes:
        states: what it may be.
        before: what it may have been, before the change acknowledged last.
        copies: how many replicas of the client's cluster acknowledged that.
        holder: who has the copy when there is but one, if that is known.
    """

    plain: str
    stored: str
    states: set[State] = field(factory=lambda: {None})
    before: set[State] = field(factory=lambda: {None})
    version: int = 0
    copies: int = 0
    holder: str | None = None

    def bodies(self) -> dict[bytes, int]:
        """Return everything that was ever sent under it, and its version."""
        versions = range(1, self.version + 1)
        return {body_of(self.plain, version): version for version in versions}


class Load:
    """Clients, from a seed.

    Attributes:
        names: all there ever were.
        wrong: what must not have happened.
        acknowledged, unanswered: how many changes were.
        refused_507: how many a full disk refused.
        replaced: names are put again and deleted as well.
        full: servers whose disk is full.
    """

    def __init__(
        self,
        cluster: Cluster,
        seed: int,
        *,
        replaced: bool = True,
        full: Iterable[str] = (),
    ) -> None:
        self.cluster = cluster
        self.names: list[Name] = []
        self.wrong: list[str] = []
        self.acknowledged = 0
        self.unanswered = 0
        self.refused_507 = 0
        self.replaced = replaced
        self.full = frozenset(full)
        self._lost: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._going = threading.Event()
        self._going.set()
        self._busy = 0
        self._threads = [
            self._thread(partial(self._work, f"{seed}-{n}")) for n in range(CLIENTS)
        ]
        for thread in self._threads:
            thread.start()

    def _thread(self, work: Callable[[], None]) -> threading.Thread:
        """Return a thread whose end before its time is told."""

        def complete() -> None:
            try:
                work()
            except Exception as error:
                self._complain(f"nobody went on after {error!r}")
                raise

        return threading.Thread(target=complete, daemon=True)

    def end(self) -> None:
        """Wait until every client has its last answer."""
        self._ending.set()
        self._going.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Have no request under way for a while."""
        with self._lock:
            self._going.clear()
        wait_until(lambda: not self._busy, "every client has its answer")
        yield
        self._going.set()

    def lose_single_copies(self, victim: str) -> None:
        """A disk died: what that replica alone acknowledged may be gone with it."""
        self._lost[victim] += 1
        for name in list(self.names):
            if name.copies < 2 and name.holder in (victim, None):
                name.states = name.states | name.before

    def _work(self, client: str) -> None:
        rng = random.Random(client)
        # A client stays in a cluster: the others hear of a change some time later.
        home = rng.choice(sorted({each[0] for each in self.cluster.servers}))
        servers = [each for each in self.cluster.servers if each[0] == home]
        names: list[Name] = []
        for number in count():
            self._going.wait()
            if self._ending.is_set():
                return
            if self._begin():
                try:
                    self._do_something(rng, names, f"chaos-{client}-{number}", servers)
                finally:
                    with self._lock:
                        self._busy -= 1

    def _begin(self) -> bool:
        """Count a client as busy, unless all are to rest."""
        with self._lock:
            going = self._going.is_set()
            self._busy += going
            return going

    def _do_something(
        self, rng: random.Random, names: list[Name], plain: str, servers: Sequence[str]
    ) -> None:
        """Change a name, an old one or a new, and read it and another one."""
        if len(names) < NAMES or not self.replaced or rng.random() < 0.3:
            name = Name(plain, self.cluster.stored(plain))
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
            self._read(rng.choice(names), rng.choice(servers))

    def _change(self, name: Name, server: str, delete: bool) -> bool:
        """Put or delete a name; return whether it is known what came of it."""
        before, lost = set(name.states), self._lost[server]
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
            self.refused_507 += status == 507
        # Only what would be kept on a full disk may be refused for it.
        full = status == 507 and not delete and server in self.full
        if status not in (0, 200, 503) and not full:
            self._complain(f"{name} at {server}: {status} {told[:200]!r}")
        if status != 200:
            return False
        if json.loads(told)["name"] != name.stored:
            self._complain(f"{name} at {server} is {told[:200]!r}")
        # What the change before replaced may be all that others have.
        name.before = before if name.copies > 1 else before | name.before
        keeps_it = server in self.cluster.keepers(name.stored)
        name.holder = server if keeps_it else None
        name.copies = int(fields["X-Clblob-Copies"].partition("/")[0])
        name.states = {wanted}
        if name.copies < 2 and self._lost[server] > lost:
            # The one copy was lost before its answer was read.
            name.states |= name.before
        return True

    def _read(self, name: Name, server: str) -> None:
        """Read a name: some whole version of it, or none."""
        try:
            status, body, fields = self.cluster.ask(server, "GET", f"/{name.stored}")
        except (OSError, http.client.HTTPException):
            return
        found = name.bodies().get(body) if status == 200 else None
        if status == 200 and found is None:
            # Large ones are not read twice: the reader can see that it is not they.
            digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
            if len(body) < LARGE_BYTES or digest in fields["Repr-Digest"]:
                self._complain(f"{name} at {server}: {len(body)} bytes never put")
        elif status == 500 and b"damaged" in body and name.states == {None}:
            pass  # It has not heard yet that nobody has these bytes any more.
        elif status not in (200, 404, 503):
            self._complain(f"GET {name} at {server}: {status} {body[:200]!r}")
        elif status != 503 and name.copies == REPLICAS and {found} != name.states:
            self._complain(f"all have acknowledged {name}; {server} tells of {found}")

    def _complain(self, sentence: str) -> None:
        with self._lock:
            self.wrong.append(sentence)

    def check(self) -> None:
        """Check that every replica has each name as it was acknowledged last.

        And that servers that do not keep it get it from those who do.  All at once by
        as many threads as there are clients.
        """
        threads = [
            self._thread(partial(self._check, self.names[n::CLIENTS]))
            for n in range(CLIENTS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.wrong:
            wrong = "\n".join((f"{len(self.wrong)} wrong:", *self.wrong[:5]))
            raise AssertionError(f"{wrong}\n{self.cluster.story()}")

    def _check(self, names: list[Name]) -> None:
        connections = {
            server: http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            for server, port in self.cluster.ports.items()
        }
        for number, name in enumerate(names):
            keepers = self.cluster.keepers(name.stored)
            found = {
                self._state_at(name, keeper, connections[keeper], itself=True)
                for keeper in keepers
            }
            others = [each for each in self.cluster.servers if each not in keepers]
            if others:
                other = others[number % len(others)]
                asked = self._state_at(name, other, connections[other], itself=False)
                found.add(asked)
            if len(found) > 1:
                self._complain(f"{name}: servers differ, {found}")
        for connection in connections.values():
            connection.close()

    def _state_at(
        self,
        name: Name,
        server: str,
        connection: http.client.HTTPConnection,
        *,
        itself: bool,
    ) -> State:
        """Return what a server has; complain when that cannot be."""
        try:
            fields = {"X-Clblob-Hop": "1"} if itself else {}
            connection.request("GET", f"/{name.stored}", headers=fields)
            answer = connection.getresponse()
            status, body = answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._complain(f"{name} at {server}: {error!r}")
            return None
        state = name.bodies().get(body) if status == 200 else None
        if (
            status not in (200, 404)
            or (status == 200 and state is None)
            or state not in name.states
        ):
            self._complain(f"{name} at {server}: {status}, version {state}")
        return state


Day = Callable[[Cluster, str, Load], None]
"""Something bad that happens to a server, by name, under a load."""


def kill(cluster: Cluster, name: str, load: Load) -> None:
    """Kill it as kill -9 does, and start it again a moment later."""
    cluster.servers[name].running.kill()
    time.sleep(0.4)
    cluster.servers[name].restart()


def hang(cluster: Cluster, name: str, load: Load) -> None:
    """Stop it in the middle of whatever it does, for longer than writes wait."""
    cluster.servers[name].running.signal(signal.SIGSTOP)
    time.sleep(1.7)
    cluster.servers[name].running.signal(signal.SIGCONT)


def restart(cluster: Cluster, name: str, load: Load) -> None:
    """Restart it in order."""
    running = cluster.servers[name].running
    assert running.terminate() == 0, running.output
    cluster.servers[name].restart()


def tear(cluster: Cluster, name: str, load: Load) -> None:
    """Kill it, and have the disk keep only a part of what was written last."""
    server = cluster.servers[name]
    server.running.kill()
    load.lose_single_copies(name)
    *_, path = volumes_of(server)
    content = path.read_bytes()
    # Beyond is space that was kept for more, if any.
    used = len(content.rstrip(b"\0"))
    os.truncate(path, used - 700)
    server.restart()


def wipe(cluster: Cluster, name: str, load: Load) -> None:
    """Have its disk die, and give it an empty one."""
    server = cluster.servers[name]
    server.running.kill()
    load.lose_single_copies(name)
    shutil.rmtree(server.data_dir)
    server.restart()


def volumes_of(server: ClinfraProcess) -> list[Path]:
    """Return a server's volumes, the one written to last at the end."""
    volumes = (server.data_dir / "blob/volumes").iterdir()
    return sorted(volumes, key=lambda path: path.stat().st_mtime)


def files_of(server: ClinfraProcess) -> list[Path]:
    """Return all files that hold a server's blobs."""
    directories = (server.data_dir / "blob/volumes", server.data_dir / "blob/files")
    files = [path for each in directories for path in each.rglob("*") if path.is_file()]
    return sorted(files)


def go_through(cluster: Cluster, seed: int, days: Sequence[tuple[Day, str]]) -> Load:
    """Have bad days under load, then a power cut; check what is left of it."""
    load = Load(cluster, seed)
    try:
        time.sleep(1.0)
        for happen, name in days:
            happen(cluster, name, load)
            time.sleep(0.3)
        cluster.cut_power()
    finally:
        load.end()
    cluster.start()
    cluster.mend()
    cluster.converge()
    assert load.acknowledged > 20 * len(days)
    load.check()
    return load
