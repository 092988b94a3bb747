"""The blob cluster: a bucket of two replicas, and stores with very many blobs.

Durable PUT: the pair shares two cores with the load.  Every answer must tell of two
copies.  The peer is two stores of one synced file per blob, one on each core.  A client
of theirs would send each blob to both and wait for both answers; here both are loaded
at the same time, each by a wrk of its own, and the slower one counts, in each round.
That is more than such a client could get, so the peer is favoured.

The other figures are held to bounds of their own.  Stores are copies of prepared ones
(see `prepared`); what the page cache holds of them is warm.

A wiped replica becomes what its peer is; it is held to copying the peer's directory,
with the same blobs in it, in the same round, from warm files.  Its time is counted from
when it listens until it is filled, synced, and can be compared with; that of its start,
when Python loads it, is told besides.  Files are copied twice, and the second time
counts: the first one finds memory that the machine has yet to provide.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from attrs import define, field

from benchmarks import load, peers
from benchmarks.figures import Bar, BenchmarkFailed, Measure, Reading, Row, Sample
from benchmarks.prepared import BODY_BYTES, Prepared, body_of, prepare
from benchmarks.rounds import Contender, Plan, compare
from benchmarks.servers import Server, Stage, free_port

_PUT_BYTES = 16384
_PUT_CONNECTIONS = 32
_ONE_AT_A_TIME = "synced files twice, one at a time"
_FILE_STORES = {_ONE_AT_A_TIME: 1, "synced files twice, 8 threads": 8}

_DRAINED = 100_000
_DOWN_SECONDS = 3.0
_READ = 20_000

_REBUILT = 40_000
_REBUILT_BYTES = (16384, 65536)
_PATIENCE_SECONDS = 120.0


def run(stage: Stage, plan: Plan) -> Iterator[Row | Reading]:
    """Yield the row of PUT, then one figure after the other."""
    yield from _puts(stage, plan)
    for title, measure in (
        ("backlog", _drain),
        ("rebuild of a wiped replica", _rebuild),
        ("many blobs", _many),
        ("purge of an expired volume", _purge),
    ):
        try:
            yield from measure(stage, plan)
        except BenchmarkFailed as failure:
            yield Reading(title, "", (), trouble=str(failure))


# PUT with two copies


def _puts(stage: Stage, plan: Plan) -> Iterator[Row | Reading]:
    root = stage.directory / "pair"
    stage.remove_now(root)
    ports = {name: free_port() for name in ("r0", "r1")}

    def replicas() -> list[Server]:
        return [
            peers.clinfra_replica(
                stage, name, ports, root / name, on_load_core=name == "r1"
            )
            for name in ports
        ]

    def stores(threads: int) -> list[Server]:
        # Files are never deleted, for the reason that `blob` tells.
        places = [stage.directory / f"files-{place}" for place in "ab"]
        for place in places:
            place.mkdir(exist_ok=True)
        return [
            peers.file_store(stage, place, threads, on_load_core=number == 1)
            for number, place in enumerate(places)
        ]

    writers = [
        Writer("a pair of replicas", replicas, stage, "?copies=2&require", both=False),
        *(
            Writer(name, partial(stores, threads), stage, "", both=True)
            for name, threads in _FILE_STORES.items()
        ),
    ]
    title = f"blob PUT, two durable copies, 16KB, {_PUT_CONNECTIONS} connections"
    row = compare(
        title,
        [writer.contender() for writer in writers],
        plan,
        measure=Measure.RATE,
        bars=[Bar(_ONE_AT_A_TIME, 10.0)],
        note="per core: of the replica that is asked; of the stores, the slower one",
    )
    for writer in writers:
        writer.stop()
    yield row
    ours = row.results[0]
    yield Reading(
        title,
        "a second",
        tuple(sample.rate for sample in ours.samples),
        at_least=1500,
        trouble=ours.trouble,
    )


@define(eq=False)
class Writer:
    """PUTs of new blobs to a pair of servers.

    Attributes:
        both: each server gets all of them, else the first one does and has to see to
            the other copy itself.
    """

    name: str
    _start: Callable[[], list[Server]]
    _stage: Stage
    _suffix: str
    _both: bool
    _servers: list[Server] = field(init=False, factory=list)

    def contender(self) -> Contender:
        """Return what `compare` needs."""
        return Contender(self.name, self._check, self._measure)

    def stop(self) -> None:
        """End the servers."""
        for server in self._servers:
            server.stop()

    def _check(self) -> None:
        self._servers = self._start()
        if not self._both:
            _wait_for(lambda: self._copies() == "2/2", "the pair finds together")

    def _copies(self) -> str | None:
        target = f"/check-{time.time_ns()}{self._suffix}"
        answer = load.ask(self._servers[0], "PUT", target, body_of(0))
        return answer.fields.get("x-clblob-copies")

    def _measure(self, seconds: float) -> Sample:
        loaded = self._servers if self._both else self._servers[:1]
        prefix = f"/put-{time.time_ns()}-"
        with ThreadPoolExecutor(len(loaded)) as pool:
            driving = [
                pool.submit(
                    load.drive,
                    server,
                    "/",
                    core=self._stage.cores.load,
                    connections=_PUT_CONNECTIONS,
                    seconds=seconds,
                    script=("put", prefix, str(_PUT_BYTES), self._suffix),
                )
                for server in loaded
            ]
        return min((each.result() for each in driving), key=lambda each: each.rate)


# A backlog


def _drain(stage: Stage, plan: Plan) -> Iterator[Reading]:
    """Time how a replica that comes back, with next to nothing, gets the rest."""
    blobs = min(plan.blobs, _DRAINED)
    prepared = prepare(stage.directory / "prepared", blobs)
    ports = {name: free_port() for name in ("r0", "r1")}
    data = prepared.copy(
        stage.directory / "drain-r0", replica="r0", sent_to=("r1",), sent=1
    )
    # It has something: with nothing at all it would be filled, not fed.
    little = prepare(stage.directory / "prepared", 1)
    away = little.copy(stage.directory / "drain-r1", replica="r1")
    sender = peers.clinfra_replica(stage, "r0", ports, data)
    time.sleep(_DOWN_SECONDS)
    receiver = peers.clinfra_replica(stage, "r1", ports, away, on_load_core=True)
    began = time.perf_counter()
    first = 0.0
    told: dict[str, float] = {"sent": 0}

    def drained() -> bool:
        nonlocal first
        told.update(_status(sender)["replicas"]["r1"])
        if told["sent"] and not first:
            first = time.perf_counter() - began
        return told["sent"] >= blobs - 1

    try:
        _wait_for(drained, "the backlog drains", every_seconds=0.2)
    except BenchmarkFailed as failure:
        raise BenchmarkFailed(f"{failure}; last told: {told}") from None
    seconds = time.perf_counter() - began
    _check_some(receiver, prepared)
    for server in (sender, receiver):
        server.stop()
    yield Reading(
        f"backlog of {blobs} blobs of {BODY_BYTES} B drained to one replica",
        "blobs a second from its return",
        (blobs / seconds,),
        at_least=5000,
        note=f"{seconds:.1f} s, of which {first:.1f} s until the first were there",
    )


# A wiped replica


def _rebuild(stage: Stage, plan: Plan) -> Iterator[Reading]:
    """Hold the time in which a wiped replica is filled to that of copying the files."""
    for size in _REBUILT_BYTES:
        blobs = min(plan.blobs, _REBUILT) * _REBUILT_BYTES[0] // size
        prepared = prepare(stage.directory / "prepared", blobs, body_bytes=size)
        shares, rates, from_start = [], [], []
        for _ in range(3):
            _copy_seconds(stage, prepared)
            copied = _copy_seconds(stage, prepared)
            filled, started = _fill_seconds(stage, prepared)
            shares.append(copied / filled)
            rates.append(f"{blobs * size / filled / 1e6:.0f}")
            from_start.append(f"{copied / (started + filled):.2f}")
        yield Reading(
            f"rebuild of a wiped replica, {blobs} blobs of {size // 1024} KB",
            "of the speed of cp -r and sync",
            tuple(shares),
            at_least=0.5,
            note=f"{', '.join(rates)} MB/s, sender and receiver on a core each;"
            f" {', '.join(from_start)} with the start of its process",
        )


def _copy_seconds(stage: Stage, prepared: Prepared) -> float:
    target = stage.directory / "copied"
    stage.remove_now(target)
    os.sync()
    began = time.perf_counter()
    subprocess.run(["cp", "-r", str(prepared.path), str(target)], check=True)
    os.sync()
    seconds = time.perf_counter() - began
    stage.remove_now(target)
    return seconds


def _fill_seconds(stage: Stage, prepared: Prepared) -> tuple[float, float]:
    """Return how long it took to fill a replica, and to start it."""
    ports = {name: free_port() for name in ("r0", "r1")}
    data = prepared.copy(stage.directory / "filled-r0", replica="r0")
    wiped = stage.directory / "filled-r1"
    stage.remove_now(wiped)
    sender = peers.clinfra_replica(stage, "r0", ports, data)
    os.sync()
    began = time.perf_counter()
    receiver = peers.clinfra_replica(stage, "r1", ports, wiped, on_load_core=True)
    listening = time.perf_counter()
    told: dict[str, float] = {}

    def filled() -> bool:
        told.update(_status(receiver)["refill"])
        return not told["filling"] and _has_trees(receiver)

    _wait_for(filled, "the wiped replica is filled", every_seconds=0.02)
    seconds = time.perf_counter() - listening
    if told["blobs"] < prepared.blobs:
        raise BenchmarkFailed(f"{told['blobs']} blobs of {prepared.blobs} came")
    _check_some(receiver, prepared)
    for server in (sender, receiver):
        server.stop()
    for directory in (data, wiped):
        stage.remove_now(directory)
    return seconds, listening - began


# Many blobs


def _many(stage: Stage, plan: Plan) -> Iterator[Reading]:
    """Start two equal replicas; measure that, their memory, and how they compare."""
    blobs = plan.blobs
    prepared = prepare(stage.directory / "prepared", blobs)
    ports = {name: free_port() for name in ("r0", "r1")}
    copies = {
        name: prepared.copy(
            stage.directory / f"many-{name}", replica=name, sent_to=(b,)
        )
        for name, b in (("r0", "r1"), ("r1", "r0"))
    }
    yield from _starts(stage, blobs, ports, copies["r0"])
    stage.remove_now(copies["r0"])
    prepared.copy(copies["r0"], replica="r0", sent_to=("r1",))
    replicas = [
        peers.clinfra_replica(stage, name, ports, data, on_load_core=name == "r1")
        for name, data in copies.items()
    ]
    _wait_for(lambda: all(map(_has_trees, replicas)), "the trees are complete")
    times, wire_bytes = [], 0
    for _ in range(10):
        wire_bytes, begun = 0, time.perf_counter()
        told = []
        for server in replicas:
            answer, size = _exchange(server, "/_tree")
            told.append(answer)
            wire_bytes += size
        times.append(time.perf_counter() - begun)
        if told[0] != told[1] or len(told[0]) != 4096:
            raise BenchmarkFailed("replicas that are equal say that they are not")
    title = f"comparing two equal replicas of {blobs} blobs"
    yield Reading(title, "s", (median(times),), at_most=1)
    yield Reading(title, "KB on the wire", (wire_bytes / 1000,), at_most=2000)
    _check_some(replicas[0], prepared, _READ)
    megabytes = _resident_bytes(replicas[0]) / 1e6
    for server in replicas:
        server.stop()
    yield Reading(
        f"memory of a replica with {blobs} blobs",
        "MB resident",
        (megabytes,),
        at_most=200,
        note=f"with its trees, after {_READ} GETs at random",
    )


def _starts(
    stage: Stage, blobs: int, ports: Mapping[str, int], data: Path
) -> Iterator[Reading]:
    """Start a replica that was stopped in order, and one that was killed at work."""
    listening: list[float] = []
    comparable: list[float] = []
    for start in range(4):
        began = time.perf_counter()
        server = peers.clinfra_replica(stage, "r0", ports, data)
        listening.append(time.perf_counter() - began)
        _wait_for(partial(_has_trees, server), "the trees are complete", 0.02)
        comparable.append(time.perf_counter() - began)
        if start == 2:
            load.drive(
                server,
                "/",
                core=stage.cores.load,
                connections=_PUT_CONNECTIONS,
                seconds=2,
                script=("put", "/killed-", str(BODY_BYTES), ""),
            )
            server.process.kill()
        server.stop()
    for title, which in (
        (f"start with {blobs} blobs", slice(3)),
        (f"start with {blobs} blobs, killed while it was written to", slice(3, 4)),
    ):
        for unit, seconds in (
            ("s until it listens", listening),
            ("s until it can be compared with", comparable),
        ):
            yield Reading(title, unit, tuple(seconds[which]), at_most=3)


def _has_trees(server: Server) -> bool:
    return load.ask(server, "GET", "/_tree").status == 200


def _exchange(server: Server, target: str) -> tuple[bytes, int]:
    """GET a target; return the body, and the bytes that went both ways."""
    request = f"GET {target} HTTP/1.1\r\nHost: r\r\nConnection: close\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", server.port), 10) as wire:
        wire.sendall(request)
        answer = b"".join(iter(partial(wire.recv, 1 << 16), b""))
    return answer.partition(b"\r\n\r\n")[2], len(request) + len(answer)


def _resident_bytes(server: Server) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


# What has expired


def _purge(stage: Stage, plan: Plan) -> Iterator[Reading]:
    """Drop a volume, all of whose blobs have expired: a small one and a large one.

    Its disk space is back at once.  Its rows in the index, which nobody sees any more,
    are removed afterwards, slowly; what writers notice of that is told, too.
    """
    counts = (max(1, plan.blobs // 10), plan.blobs)
    seconds: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(3):
        for count in counts:
            server, volume = _expired(stage, count)
            seconds[count].append(_drop(server, volume))
            server.stop()
    small, large = (median(seconds[count]) for count in counts)
    yield Reading(
        f"purge of an expired volume of {counts[1]} blobs",
        f"x the time for one of {counts[0]}, until the disk space is back",
        (large / small,),
        at_most=2,
        note=f"{1000 * small:.0f} ms and {1000 * large:.0f} ms",
    )
    yield from _clean_up(stage, plan)


def _clean_up(stage: Stage, plan: Plan) -> Iterator[Reading]:
    """Measure PUT before a volume is dropped, and while its rows are removed."""

    def put(name: str) -> Sample:
        return load.drive(
            server,
            "/",
            core=stage.cores.load,
            connections=_PUT_CONNECTIONS,
            seconds=plan.seconds,
            script=("put", f"/{name}-", str(_PUT_BYTES), ""),
        )

    server, volume = _expired(stage, plan.blobs)
    before = put("before")
    _drop(server, volume)
    began = time.perf_counter()
    during = put("during")
    removed = _purged(server)
    _wait_for(lambda: _purged(server) >= plan.blobs, "the rows are removed", 0.5, 1200)
    seconds = time.perf_counter() - began
    after = put("after")
    server.stop()
    title = f"removing the rows of {plan.blobs} expired blobs, in the background"
    yield Reading(
        title,
        "s after the disk space is back",
        (seconds,),
        note=f"{removed} of them in {plan.seconds:g} s under full load",
    )
    quiet = (before.rate + after.rate) / 2
    yield Reading(
        title,
        "x the PUTs a second without",
        (during.rate / quiet,),
        note="median and p99 before, meanwhile and after: "
        + ", ".join(
            f"{each.p50_ms:.1f} and {each.p99_ms:.1f} ms"
            for each in (before, during, after)
        ),
    )


def _expired(stage: Stage, blobs: int) -> tuple[Server, Path]:
    """Start a replica with a volume that has expired; return it, and the file."""
    prepared = prepare(stage.directory / "prepared", blobs, expired=True)
    data = prepared.copy(stage.directory / "purge", replica="blob", alone=True)
    (volume,) = (data / "blob" / "volumes").glob("*.volume")
    # What was copied must not be what the first sync waits for.
    os.sync()
    return peers.clinfra_purging(stage, data), volume


def _drop(server: Server, volume: Path) -> float:
    """Have a volume purged; return how long that took, seconds."""
    began = time.perf_counter()
    answer = load.ask(server, "GET", "/_purge")
    if answer.status != 200:
        raise BenchmarkFailed(f"_purge was answered with {answer.status}")
    _wait_for(lambda: not volume.exists(), "the volume is deleted", 0.001)
    return time.perf_counter() - began


def _purged(server: Server) -> int:
    purged: int = json.loads(load.ask(server, "GET", "/_status").body)["purged"]
    return purged


# Asking and waiting


def _status(server: Server) -> dict[str, dict[str, Any]]:
    told: dict[str, dict[str, Any]]
    told = json.loads(load.ask(server, "GET", "/_status").body)
    return told


def _check_some(server: Server, prepared: Prepared, count: int = 50) -> None:
    """Read blobs at random from this very replica."""
    rng = Random(3)
    numbers = [rng.randrange(prepared.blobs) for _ in range(count)]
    asked: Sequence[str] = [f"/{prepared.name(number)}" for number in numbers]
    answers = load.get_all(server, asked)
    for number, answer in zip(numbers, answers, strict=True):
        if answer != body_of(number, prepared.body_bytes):
            raise BenchmarkFailed(f"{server.name} has not got blob {number}")


def _wait_for(
    condition: Callable[[], bool],
    what: str,
    every_seconds: float = 0.1,
    patience_seconds: float = _PATIENCE_SECONDS,
) -> None:
    give_up = time.monotonic() + patience_seconds
    while not condition():
        if time.monotonic() > give_up:
            raise BenchmarkFailed(f"waited in vain: {what}")
        time.sleep(every_seconds)
