"""A replica as files, for a peer that has lost all of it: the volumes and the index.

``GET /_clone?for=REPLICA`` makes ready what this replica has at this moment: the index
is copied, the volumes are linked, so that they stay when they are deleted or compacted
meanwhile.  The answer tells of it (see `Offer`).  ``GET /_clone?for=REPLICA&id=ID&
file=F&offset=N&length=N`` gives a piece of a file: the number of a volume, or `INDEX`;
its CRC-32 is in `CRC`.  With ``…&has=CRC`` the answer is 304 when that is its CRC-32.
``…&over=1`` says that it is not needed any more.  What nobody has asked for in a while
is not kept either, nor what was made ready for the same replica before.

What changes afterwards is in the stream (see `stream`), after the change number that
the offer tells.  Only replicas of the cluster file may ask.  A replica with few blobs
has nothing to offer: the stream is quicker.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sqlite3
import zlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

from attrs import define, field, frozen
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from clinfra.blob import parameters, sqlite_clone
from clinfra.blob.commit import Call, Committer
from clinfra.blob.index_sqlite import SqliteIndex
from clinfra.blob.peers import Peers
from clinfra.blob.rejoin import Fence
from clinfra.blob.replica import Replica
from clinfra.blob.standing import Standing
from clinfra.blob.stock import path_of
from clinfra.blob.store_volume import VolumeStore
from clinfra.blob.workers import Workers
from clinfra.errors import Forbidden, InvalidRequest, NotFound
from clinfra.web.exchange import FileBody, IExchange, Response

CLONE = "_clone"
INDEX = "index"
CRC = b"X-Clblob-Crc32"

LEAST_BLOBS = 200
"""Fewer are streamed."""

PIECE_BYTES = 8 << 20
"""Given at a time, at most."""

_READ_BYTES = 1 << 20
"""Read at a time for a checksum."""

KEPT_SECONDS = 120.0
"""How long nobody may ask before it is not kept any more."""


@frozen
class Offer:
    """What was made ready.

    Attributes:
        seq: change number up to which it is everything.
        index: size of the copy of the index, bytes.
        volumes: number → size of the volumes, bytes.
    """

    id: str
    seq: int
    index: int
    volumes: Mapping[int, int]

    def told(self) -> bytes:
        """Return it as it travels."""
        return json.dumps(
            {
                "id": self.id,
                "seq": self.seq,
                "index": self.index,
                "volumes": list(self.volumes.items()),
            }
        ).encode()


def offer_in(raw: bytes) -> Offer:
    """Return the offer that came.  Raises ValueError."""
    try:
        told = json.loads(raw)
        volumes = {int(number): int(size) for number, size in told["volumes"]}
        return Offer(str(told["id"]), int(told["seq"]), int(told["index"]), volumes)
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"this is no offer: {error!r}") from error


def file_in(directory: Path, name: str) -> Path:
    """Return the path of a file.  Raises InvalidRequest for one that cannot be."""
    if name == INDEX:
        return directory / "index.sqlite"
    return path_of(directory, parameters.integer("file", name))


@define(eq=False)
class _Kept:
    """What was made ready for a replica."""

    offer: Offer
    directory: Path
    timer: IDelayedCall


@define(eq=False)
class Cloner:
    """Answers who wants to become what this replica is.

    Args:
        path: a directory of ours, on the disk of the volumes.
    """

    log = Logger()

    _path: Path
    _index: SqliteIndex
    _store: VolumeStore
    _replica: Replica
    _committer: Committer
    _workers: Workers
    _peers: Peers
    _standing: Standing
    _fence: Fence
    _reactor: Any
    _kept: dict[str, _Kept] = field(init=False, factory=dict)

    def open(self) -> None:
        """Remove what an earlier run left."""
        shutil.rmtree(self._path, ignore_errors=True)

    def stop(self) -> None:
        """Keep nothing any more."""
        for replica in list(self._kept):
            self._drop(replica)
        self.open()

    async def respond(self, exchange: IExchange) -> Response:
        """Answer a request for `CLONE`."""
        if not self._peers.may_ask(exchange.client_ip):
            raise Forbidden("This is answered to replicas of this cluster only")
        # What it has may be deleted: who lacks it is better off without.
        self._fence.check()
        given = parameters.split(exchange.head.query)
        replica = str(given.get("for"))
        asked = given.get("id")
        if asked is None:
            return Response(200, (), (await self._offer(replica)).told())
        kept = self._kept.get(replica)
        if kept is None or kept.offer.id != asked:
            raise NotFound("This is not kept any more")
        if given.get("over"):
            self._drop(replica)
            return Response(200)
        kept.timer.reset(KEPT_SECONDS)
        offset = parameters.integer("offset", given.get("offset"))
        length = parameters.integer("length", given.get("length"))
        if offset < 0 or not 0 < length <= PIECE_BYTES:
            raise InvalidRequest(f"Invalid int value for length: {length}")
        path = file_in(kept.directory, given.get("file") or "")
        crc, body = await self._workers.run(_piece, path, offset, length)
        if given.get("has") == str(crc):
            body.close()
            return Response(304)
        return Response(200, ((CRC, b"%d" % crc),), body)

    async def _offer(self, replica: str) -> Offer:
        """Make ready what is here."""
        if self._standing.filling:
            raise NotFound("This replica has not everything itself")
        self._drop(replica)
        token = secrets.token_hex(8)
        directory = self._path / token
        call = Call(partial(self._freeze, directory))
        try:
            await self._replica.commit(call)
            found, sizes = cast(tuple[sqlite3.Connection, dict[int, int]], call.result)
            offer = await self._workers.run(self._copy, token, found, sizes)
        except BaseException:
            self._workers.run(partial(shutil.rmtree, directory, ignore_errors=True))
            raise
        timer = self._reactor.callLater(KEPT_SECONDS, self._drop, replica)
        self._drop(replica)
        self._kept[replica] = _Kept(offer, directory, timer)
        return offer

    def _freeze(self, directory: Path) -> tuple[sqlite3.Connection, dict[int, int]]:
        """Hold on to what is there now.  The writer thread: nothing changes."""
        directory.mkdir(parents=True)
        frozen = sqlite_clone.freeze(self._index.path)
        try:
            if not sqlite_clone.has(frozen, LEAST_BLOBS):
                raise NotFound("There are few blobs here")
            sizes: dict[int, int] = {}
            for number, facts in self._store.volumes().items():
                mark = self._committer.marks.get(number)
                if mark is not None and not mark.dropped:
                    self._store.link(number, directory)
                    sizes[number] = facts.size
        except BaseException:
            frozen.close()
            raise
        return frozen, sizes

    def _copy(
        self, token: str, frozen: sqlite3.Connection, sizes: dict[int, int]
    ) -> Offer:
        path = file_in(self._path / token, INDEX)
        try:
            sqlite_clone.copy(frozen, path, sizes)
            return Offer(
                token, sqlite_clone.last_of(frozen), path.stat().st_size, sizes
            )
        finally:
            frozen.close()

    def _drop(self, replica: str) -> None:
        kept = self._kept.pop(replica, None)
        if kept is not None:
            if kept.timer.active():
                kept.timer.cancel()
            self._workers.run(
                partial(shutil.rmtree, kept.directory, ignore_errors=True)
            )


def _piece(path: Path, offset: int, length: int) -> tuple[int, FileBody]:
    """Return a piece of a file and its CRC-32.  A reader thread."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFound("There is no such file") from None
    try:
        length = max(0, min(length, os.fstat(fd).st_size - offset))
        crc, at, end = 0, offset, offset + length
        buffer = memoryview(bytearray(min(length, _READ_BYTES)))
        while at < end and (read := os.preadv(fd, [buffer[: end - at]], at)):
            crc = zlib.crc32(buffer[:read], crc)
            at += read
    except BaseException:
        os.close(fd)
        raise
    return crc, FileBody(fd, offset, length, partial(os.close, fd))
