"""What the commands of `clinfra blob …` do; see `command_line`."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from attrs import define

from clinfra.blob.client import BlobClient, Concern, Stored
from clinfra.blob.info import to_json
from clinfra.blob.local_files import FileUpload, opened_source, opened_target
from clinfra.blob.stamps import seconds_of
from clinfra.errors import NotFound, OriginFailed, Trouble
from clinfra.progress import Progress, amount

DONE, REFUSED, NOT_FOUND, UNREACHED, INTERRUPTED = 0, 1, 3, 4, 130
"""Exit statuses."""


@define(eq=False)
class Session:
    """One run of a command.

    Args:
        whole_cluster: the client knows every replica, not one server only.
    """

    client: BlobClient
    arguments: argparse.Namespace
    whole_cluster: bool
    out: TextIO
    err: TextIO

    def tell(self, told: Any, text: str) -> None:
        """Print a result: as JSON when that was asked for, else as text."""
        if self.arguments.json:
            text = json.dumps(told, ensure_ascii=False, sort_keys=False)
        if text:
            print(text, file=self.out)

    def progress(self, label: str, total: int | None) -> Progress:
        """Return what shows a transfer's progress, on a terminal."""
        stream = self.err if self.err.isatty() else None
        return Progress(stream, label, total, time.monotonic)

    def replicas(self) -> Sequence[str]:
        """Return the replicas meant: those named, else all, or the one server ("")."""
        named: Sequence[str] = self.arguments.replicas
        if named or not self.whole_cluster:
            return named or [""]
        return list(self.client.topology.peers)

    async def each(
        self, things: Sequence[str], do: Callable[[str], Awaitable[None]]
    ) -> int:
        """Do something for each of several; return the exit status."""
        worst = DONE
        for thing in things:
            try:
                await do(thing)
            except (Trouble, OSError) as error:
                sentence = sentence_of(error)
                if not sentence.startswith(f"{thing}: "):
                    sentence = f"{thing or 'server'}: {sentence}"
                print(sentence, file=self.err)
                worst = max(worst, status_of(error))
        return worst


Command = Callable[[Session], Awaitable[int]]


def status_of(error: BaseException) -> int:
    """Return the exit status that an error stands for."""
    if isinstance(error, NotFound):
        return NOT_FOUND
    if isinstance(error, OriginFailed):
        return UNREACHED
    return REFUSED


def sentence_of(error: BaseException) -> str:
    """Return what to say of an error."""
    return error.sentence if isinstance(error, Trouble) else str(error)


async def put(session: Session) -> int:
    """`clinfra blob put`."""
    arguments = session.arguments
    name = arguments.name or Path(arguments.file).name
    if name in ("", "-"):
        print("A blob from standard input needs a --name", file=session.err)
        return REFUSED
    with opened_source(arguments.file) as (source, length):
        progress = session.progress(name, length)
        try:
            stored = await session.client.store(
                name,
                lambda: FileUpload(source, length, progress.tell),
                ttl_seconds=arguments.ttl,
                content_type=arguments.type,
                encoded=arguments.encoded,
                concern=_concern(arguments),
            )
        finally:
            progress.end()
    session.tell(_stored(stored), stored.info.name)
    return DONE


async def get(session: Session) -> int:
    """`clinfra blob get`."""
    arguments = session.arguments
    async with await session.client.open(arguments.name) as download:
        progress = session.progress(arguments.name, download.length)
        try:
            with opened_target(arguments.output) as target:
                while piece := await download.read():
                    target.write(piece)
                    progress.tell(download.received)
        finally:
            progress.end()
    if arguments.output != "-":
        session.tell(
            {
                "name": arguments.name,
                "output": arguments.output,
                "size": download.received,
                "content_type": download.content_type,
            },
            "",
        )
    return DONE


async def delete(session: Session) -> int:
    """`clinfra blob delete`."""

    async def one(name: str) -> None:
        stored = await session.client.expire(name, _concern(session.arguments))
        session.tell(_stored(stored), "")

    return await session.each(session.arguments.names, one)


async def info(session: Session) -> int:
    """`clinfra blob info`."""

    async def one(name: str) -> None:
        known = await session.client.info(name)
        told = json.loads(to_json(known))
        lines = [
            f"name      {known.name}",
            f"size      {known.size}",
            f"type      {known.content_type}",
            f"sha256    {known.sha256}",
            f"modified  {_time_of(known.modified)}  {known.modified}",
            f"ends      {_end_of(known.deleted)}",
        ]
        session.tell(told, "\n".join(lines))

    return await session.each(session.arguments.names, one)


async def locate(session: Session) -> int:
    """`clinfra blob locate`."""
    arguments = session.arguments
    if not session.whole_cluster:
        await session.client.learn()
    cluster = session.client.topology
    placement = cluster.place(arguments.name, encoded=arguments.encoded)
    cluster.check_writable(placement)
    places = [
        {
            "cluster": number,
            "bucket": bucket,
            "replicas": {
                name: f"{cluster.peers[name].ip}:{cluster.peers[name].port}"
                for name in cluster.clusters[number][bucket].replicas
            },
        }
        for number, bucket in sorted(placement.buckets.items())
    ]
    lines = [placement.stored]
    for place in places:
        told: Any = place["replicas"]
        replicas = ", ".join(f"{name} ({address})" for name, address in told.items())
        lines.append(
            f"cluster {place['cluster']}, bucket {place['bucket']}: {replicas}"
        )
    session.tell({"name": placement.stored, "places": places}, "\n".join(lines))
    return DONE


async def status(session: Session) -> int:
    """`clinfra blob status`."""

    async def one(replica: str) -> None:
        told = await session.client.command("_status", replica)
        session.tell(told, _status_line(told))

    return await session.each(session.replicas(), one)


async def listing(session: Session) -> int:
    """`clinfra blob list`."""
    arguments = session.arguments

    async def one(replica: str) -> None:
        found = session.client.listing(replica, arguments.start, arguments.stop)
        async for row in found:
            session.tell(
                {
                    "replica": replica or None,
                    "name": row.name,
                    "modified": row.modified,
                    "deleted": row.deleted,
                    "modified_deleted": row.modified_deleted,
                },
                f"{_time_of(row.modified)}  {_end_of(row.deleted):19}  {row.name}",
            )

    return await session.each(session.replicas(), one)


async def sync(session: Session) -> int:
    """`clinfra blob sync`."""
    source = session.arguments.source
    return await _set_off(session, "_sync", f"source={source}" if source else "")


async def purge(session: Session) -> int:
    """`clinfra blob purge`."""
    return await _set_off(session, "_purge", "")


async def buffer(session: Session) -> int:
    """`clinfra blob buffer`."""
    return await _set_off(session, "_buffer", "")


async def scrub(session: Session) -> int:
    """`clinfra blob scrub`."""
    return await _set_off(session, "_scrub", "")


async def trust(session: Session) -> int:
    """`clinfra blob trust`."""
    return await _set_off(session, "_trust", "")


async def quarantine(session: Session) -> int:
    """`clinfra blob quarantine`."""

    async def one(replica: str) -> None:
        for told in await session.client.command("_quarantine", replica):
            session.tell(
                {"replica": replica or None, **told},
                f"{told['id']}  {_clock(told['found_at'])}  {amount(told['kept'])} of"
                f" {amount(told['size'])}  {told['name']}: {told['why']}",
            )

    return await session.each(session.replicas(), one)


async def discard(session: Session) -> int:
    """`clinfra blob discard`."""
    identity = session.arguments.id
    query = "" if identity == "all" else f"id={identity}"

    async def one(replica: str) -> None:
        try:
            told = await session.client.command("_discard", replica, query)
        except NotFound:
            told = {"discarded": 0}
        session.tell(
            {"replica": replica or None, **told},
            f"{replica or 'server'}: {told['discarded']} discarded",
        )

    return await session.each(session.replicas(), one)


async def configcheck(session: Session) -> int:
    """`clinfra blob configcheck`."""
    text = Path(session.arguments.file).read_bytes()
    grave = False

    async def one(replica: str) -> None:
        nonlocal grave
        told = await session.client.command("_configcheck", replica, body=text)
        grave = grave or bool(told["catastrophic"])
        lines = [f"catastrophic: {line}" for line in told["catastrophic"]]
        lines += [line for line in told["reconfig"] if line not in told["catastrophic"]]
        session.tell(
            {"replica": replica or None, **told},
            "\n".join(f"{replica or 'server'}: {line}" for line in lines or ["OK"]),
        )

    status = await session.each(session.replicas(), one)
    return max(status, REFUSED if grave else DONE)


async def _set_off(session: Session, command: str, query: str) -> int:
    async def one(replica: str) -> None:
        told = await session.client.command(command, replica, query)
        queued = bool(told["queued"])
        session.tell(
            {"replica": replica or None, "queued": queued},
            f"{replica or 'server'}: {'queued' if queued else 'waiting already'}",
        )

    return await session.each(session.replicas(), one)


def _concern(arguments: argparse.Namespace) -> Concern:
    return Concern(arguments.copies or "", arguments.clusters, arguments.require)


def _stored(stored: Stored) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(to_json(stored.info))
    if stored.copies:
        told["copies"] = stored.copies
    if stored.clusters:
        told["clusters"] = stored.clusters
    told["server"] = stored.server
    return told


def _status_line(told: Any) -> str:
    """Return the gist of a status: who, how many requests, backlog, trouble, space."""
    events = told.get("events", {})
    others = (*told["replicas"].values(), *told["clusters"].values())
    parked = sum(each.get("parked", 0) for each in others)
    waiting = sum(each.get("events", 0) for each in others) - parked
    lag = max((each.get("lag_seconds", 0.0) for each in others), default=0.0)
    damaged = told.get("scrub", {}).get("damaged", 0)
    counts = ", ".join(
        f"{events[kind]['total']} {kind}"
        for kind in ("put", "get", "delete")
        if kind in events
    )
    free = told.get("store_disk", {}).get("free_space")
    return (
        f"{told['replica']}  cluster {told['cluster']}, bucket {told['bucket']}:"
        f" {counts or 'no requests yet'}; {waiting} changes to send, lag {lag:.0f} s;"
        f"{f' {parked} refused by others;' if parked else ''}"
        f"{f' {damaged} damaged;' if damaged else ''}"
        f" {amount(free) if free is not None else '?'} free"
    )


def _time_of(stamp: int | None) -> str:
    return "-" * 19 if stamp is None else _clock(seconds_of(stamp))


def _end_of(deleted: int) -> str:
    return "never" if deleted == 0 else _clock(deleted)


def _clock(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return str(seconds)
