"""`clinfra blob cluster`: a whole cluster on this machine, to try things with.

It writes the cluster file and a configuration for each replica, starts one twistd for
each, and stops them all when it is told to stop.  It restarts none: what dies stays
dead, so that one can see how the others go on.  `kill_demo` is a thing to see.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import define, field, frozen

from clinfra.blob import kill_demo, topology
from clinfra.errors import StartupFailed

REPLICAS = 3
"""Of each bucket."""

LAYOUTS: Mapping[int, tuple[int, int]] = {3: (1, 1), 6: (1, 2), 12: (2, 2)}
"""Number of processes → clusters, and buckets in each; 12 is the original's example."""

START_SECONDS = 60.0
STOP_SECONDS = 20.0


def cluster_file(processes: int, ports: Sequence[int]) -> dict[str, Any]:
    """Return what the cluster file says for so many processes.

    A replica's name is three digits: its cluster, its bucket and its number there.

    Args:
        processes: one of LAYOUTS.
        ports: one for each, on 127.0.0.1.
    """
    clusters, buckets = LAYOUTS[processes]
    names = [
        [[f"{c}{b}{r}" for r in range(REPLICAS)] for b in range(buckets)]
        for c in range(clusters)
    ]
    in_order = [name for cluster in names for bucket in cluster for name in bucket]
    told = {
        "clusters": [
            [{"replicas": bucket, "write_weight": 1} for bucket in cluster]
            for cluster in names
        ],
        "replicas": {
            name: {"ip": "127.0.0.1", "port": port, "read_weight": 1}
            for name, port in zip(in_order, ports, strict=True)
        },
    }
    return {"clblob": {"client": told}}


@frozen
class Member:
    """A replica's process, and where it tells what happens to it."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def says_ready(self) -> bool:
        """Return whether it has started.  Raises StartupFailed when it ended."""
        told = self.log.read_text(encoding="utf-8", errors="replace")
        if self.process.poll() is not None:
            last = "\n".join(told.splitlines()[-5:])
            raise StartupFailed(f"{self.name} did not start; {self.log} ends:\n{last}")
        return "clinfra is ready" in told


@define(eq=False)
class Playground:
    """A running cluster.

    Args:
        directory: everything is kept in it, and found there again.
        processes: one of LAYOUTS.
        first_port: the replicas listen on this and those after it.
    """

    directory: Path
    processes: int
    first_port: int
    members: list[Member] = field(factory=list, init=False)

    @property
    def file(self) -> Path:
        """The cluster file."""
        return self.directory / "cluster.json"

    def start(self) -> None:
        """Start everything.  Raises StartupFailed; what was started is running then."""
        ports = range(self.first_port, self.first_port + self.processes)
        told = cluster_file(self.processes, ports)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        for name, peer in told["clblob"]["client"]["replicas"].items():
            self.members.append(self._start(name, peer["port"]))
        deadline = time.monotonic() + START_SECONDS
        for member in self.members:
            while not member.says_ready():
                if time.monotonic() > deadline:
                    raise StartupFailed(
                        f"{member.name} is not ready after {START_SECONDS:.0f} s;"
                        f" see {member.log}"
                    )
                time.sleep(0.05)

    def _start(self, name: str, port: int) -> Member:
        home = self.directory / name
        home.mkdir(exist_ok=True)
        config = home / "clinfra.toml"
        config.write_text(
            "[blob]\n"
            f'listen = ["tcp:{port}:interface=127.0.0.1"]\n'
            f"cluster_file = {json.dumps(str(self.file))}\n"
            f'replica = "{name}"\n',
            encoding="utf-8",
        )
        log = home / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [
                    str(Path(sys.executable).with_name("twistd")),
                    *("--nodaemon", "--pidfile=", "--reactor=clinfra"),
                    *("clinfra", "--config", str(config)),
                    *("--data-dir", str(home / "data")),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        return Member(name, port, process, log)

    def stop(self) -> None:
        """Stop everything in order, and by force what does not."""
        for member in self.members:
            member.process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for member in self.members:
            try:
                member.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                member.process.kill()
                member.process.wait()


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to `clinfra blob`."""
    parser = commands.add_parser(
        "cluster",
        help="run a whole cluster on this machine, to try things with",
        description="Run a whole cluster on this machine, to try things with.",
    )
    parser.add_argument(
        "processes",
        nargs="?",
        type=int,
        choices=sorted(LAYOUTS),
        default=REPLICAS,
        help="3: one bucket of three replicas; 6: two buckets; 12: two clusters of two"
        " (default: %(default)s)",
    )
    parser.add_argument(
        "--port",
        type=int,
        default=8101,
        help="the first listens here, the others after it (default: %(default)s)",
    )
    parser.add_argument(
        "--directory",
        metavar="DIR",
        type=Path,
        default=Path("clinfra-cluster"),
        help="where everything is kept (default: %(default)s)",
    )
    parser.add_argument(
        "--kill",
        action="store_true",
        help="kill -9 one under load, look whether anything was lost, and stop",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run a cluster until SIGINT or SIGTERM; return the exit status.

    Raises:
        StartupFailed: when one of its processes does not start.
    """
    playground = Playground(
        # Names say which layout they were made for.
        (arguments.directory / f"of-{arguments.processes}").resolve(),
        arguments.processes,
        arguments.port,
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        playground.start()
        if arguments.kill:
            return kill_demo.show(
                {member.name: member.port for member in playground.members},
                playground.members[1].name,
                playground.members[1].process.kill,
            )
        _tell(playground)
        _watch(playground.members)
    except KeyboardInterrupt:
        print("stopping", flush=True)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        playground.stop()
    return 0


def _tell(playground: Playground) -> None:
    """Say where everything is, and what to try."""
    known = topology.read(playground.file.read_text("utf-8"), None, "")
    first, last = playground.members[0], playground.members[-1]
    stored = known.place("hello.txt", encoded=False).stored
    for member in playground.members:
        print(f"{member.name}  http://127.0.0.1:{member.port}", end="")
        print(f"  process {member.process.pid}")
    print(f"cluster file and data: {playground.directory}")
    print("Put a blob through one, and read it from another:")
    print(f"  echo hello | curl -T - http://127.0.0.1:{first.port}/hello.txt")
    print(f"  curl http://127.0.0.1:{last.port}/{stored}")
    print("Ctrl-C stops everything.", flush=True)


def _watch(members: Sequence[Member]) -> None:
    """Say when one ends; return when none is left."""
    running = list(members)
    while running:
        time.sleep(0.1)
        for member in list(running):
            status = member.process.poll()
            if status is not None:
                running.remove(member)
                how = signal.Signals(-status).name if status < 0 else f"status {status}"
                print(f"{member.name} ended ({how}); {len(running)} go on", flush=True)
