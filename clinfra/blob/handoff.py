"""Changes kept for replicas of which none can be reached, and delivered later.

With every keeper of a name away, any server takes a PUT or DELETE all the same: it is
written down here, durably, with the stamps it got, and carried out when somebody
answers again, however often this process was restarted in between.  It is not among the
blobs of this process, and cannot be read before it was delivered.

On disk a change is NUMBER.body, for a PUT, and NUMBER.json, which makes it valid.
"""

from __future__ import annotations

import json
import os
from collections import deque
from pathlib import Path
from typing import Any

from attrs import asdict, define, field
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from clinfra.blob.errand import Errand
from clinfra.blob.replay import PIECE_BYTES, Replay
from clinfra.blob.replica import Write
from clinfra.blob.router import Router
from clinfra.blob.topology import Placement
from clinfra.blob.workers import Workers
from clinfra.errors import Overloaded, StorageFull, Trouble
from clinfra.interfaces import BlobInfo
from clinfra.web.heads import Field
from clinfra.web.streams import Spooled, write_all

DIRECTORY = "handoff"
TRY_SECONDS = 2.0
MAX_KEPT = 100_000

HANDOFF: Field = (b"X-Clblob-Handoff", b"1")
"""Told of a change that is only here: no keeper of its name has it."""


@define(eq=False)
class Handoff:
    """Keeps and delivers.

    Args:
        directory: where; made when the first change is kept.
        min_free_bytes: nothing is kept when less of the disk would be left.
        clock: Twisted's IReactorTime.
    """

    log = Logger()

    _directory: Path
    _min_free_bytes: int
    _router: Router
    _workers: Workers
    _clock: Any
    delivered: int = field(init=False, default=0)
    _waiting: deque[int] = field(init=False, factory=deque)
    _last: int = field(init=False, default=0)
    _trying: LoopingCall = field(init=False)
    _running: Deferred[None] | None = field(init=False, default=None)

    @_trying.default
    def _make_trying(self) -> LoopingCall:
        call = LoopingCall(self._try)
        call.clock = self._clock
        return call

    def open(self) -> None:
        """Find what is still to be delivered."""
        if not self._directory.is_dir():
            return
        for path in self._directory.iterdir():
            if path.suffix == ".json" and path.stem.isdigit():
                self._waiting.append(int(path.stem))
        self._waiting = deque(sorted(self._waiting))
        self._last = max(self._waiting, default=0)
        whole = set(self._waiting)
        for path in self._directory.glob("*.body"):
            if path.stem.isdigit() and int(path.stem) not in whole:
                path.unlink()  # Its change was never answered.

    def start(self) -> None:
        """Begin to deliver."""
        self._trying.start(TRY_SECONDS, now=False)

    def stop(self) -> None:
        """Deliver no more for now."""
        if self._trying.running:
            self._trying.stop()
        if self._running is not None:
            self._running.cancel()

    def report(self) -> dict[str, int]:
        """Return what status pages show."""
        return {"waiting": len(self._waiting), "delivered": self.delivered}

    def takes(self, errand: Errand) -> bool:
        """Return whether a change may be kept here: it depends on nothing elsewhere."""
        return not errand.fields and b"require" not in errand.wishes

    async def keep(self, errand: Errand, settled: Write) -> BlobInfo:
        """Write a change down, durably; return what is known of its blob then.

        Raises errors.StorageFull, errors.Overloaded.
        """
        if len(self._waiting) >= MAX_KEPT:
            raise Overloaded("Too many changes wait for replicas that are away")
        self._last += 1
        number, body, stored = self._last, errand.body, errand.placement.stored
        told = {
            "name": stored,
            "method": errand.method.decode(),
            "replicate": errand.replicate,
            "write": asdict(settled),
            "sha256": body.sha256.hex() if body is not None else None,
        }
        try:
            if body is not None:
                await self._write_body(number, body)
            await self._workers.run(self._write_record, number, json.dumps(told))
        except OSError as error:
            raise StorageFull("Not enough space to keep this blob") from error
        self._waiting.append(number)
        self.log.warn("{name} is kept until its replicas are back", name=stored)
        return BlobInfo(
            stored,
            settled.modified if body is not None else None,
            settled.deleted or 0,
            settled.modified_deleted or 0,
            errand.placement.buckets,
        )

    async def _write_body(self, number: int, body: Replay) -> None:
        path = self._path(number, "body")
        source = body.body()
        pieces = [source] if isinstance(source, bytes) else None
        fd = await self._workers.run(self._create, path)
        try:
            while True:
                if pieces is not None:
                    piece = pieces.pop() if pieces else b""
                else:
                    piece = await source.read()  # type: ignore[union-attr] # no bytes
                if not piece:
                    break
                await self._workers.run(write_all, fd, piece)
            await self._workers.run(os.fdatasync, fd)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)

    def _create(self, path: Path) -> int:
        self._directory.mkdir(mode=0o700, exist_ok=True)
        disk = os.statvfs(self._directory)
        if disk.f_bavail * disk.f_frsize < self._min_free_bytes:
            raise StorageFull("Not enough space to keep this blob")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        return os.open(path, flags, 0o600)

    def _write_record(self, number: int, record: str) -> None:
        part = self._path(number, "part")
        fd = self._create(part)
        try:
            write_all(fd, record.encode("ascii"))
            os.fdatasync(fd)
        finally:
            os.close(fd)
        part.rename(self._path(number, "json"))
        for directory in (self._directory, self._directory.parent):
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def _path(self, number: int, kind: str) -> Path:
        return self._directory / f"{number}.{kind}"

    # Delivery

    def _try(self) -> None:
        if self._running is not None or not self._waiting:
            return
        running = Deferred.fromCoroutine(self._deliver_all())
        self._running = running

        def failed(failure: Any) -> None:
            if self._trying.running:
                self.log.failure("delivering kept changes failed", failure=failure)

        def over(result: object) -> None:
            self._running = None

        running.addErrback(failed).addCallback(over)
        if running.called:
            self._running = None

    async def _deliver_all(self) -> None:
        """Try every change once, except those of a bucket that is away."""
        away: set[tuple[tuple[int, int], ...]] = set()
        for number in list(self._waiting):
            path = self._path(number, "json")
            try:
                told = json.loads(await self._workers.run(path.read_bytes))
                place = self._router.topology.place(told["name"], encoded=True)
            except (OSError, ValueError, KeyError, Trouble) as error:
                self.log.error(
                    "{path} cannot be delivered: {error}", path=str(path), error=error
                )
                self._waiting.remove(number)
                continue
            bucket = tuple(sorted(place.buckets.items()))
            if bucket in away:
                continue
            delivered = await self._deliver(number, told, place)
            self._waiting.remove(number)
            if not delivered:
                # Behind the others: it may be this one that nobody takes.
                self._waiting.append(number)
                away.add(bucket)

    async def _deliver(
        self, number: int, told: dict[str, Any], placement: Placement
    ) -> bool:
        """Carry a change out; return False when nobody can be reached."""
        settled = Write(**told["write"])
        body: Replay | None = None
        if told["sha256"] is not None:
            path = self._path(number, "body")
            sha256 = bytes.fromhex(told["sha256"])
            body = await self._workers.run(_open, path, sha256)
        errand = Errand(
            self._router, told["method"].encode(), placement, told["replicate"], body
        )
        try:
            found, answer = await errand.run(settled, settled)
        except (Overloaded, StorageFull):
            return False
        finally:
            if body is not None:
                body.close()
        if found.response.head.status == 200:
            self.delivered += 1
            await self._workers.run(self._forget, number)
        else:
            # It stays on the disk, for whoever wants to know.
            self.log.error(
                "{peer} refuses {name}, which was kept for it: {answer}",
                peer=found.peer,
                name=placement.stored,
                answer=answer[:200],
            )
        return True

    def _forget(self, number: int) -> None:
        self._path(number, "json").unlink(missing_ok=True)
        self._path(number, "body").unlink(missing_ok=True)


def _open(path: Path, sha256: bytes) -> Replay:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    length = os.fstat(fd).st_size
    if length <= PIECE_BYTES:
        body = os.read(fd, length)
        os.close(fd)
        return Replay.of(body)
    return Replay(sha256, b"", Spooled(fd, length, sha256))
