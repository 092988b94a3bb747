"""Reading every blob from time to time, so that damage is found while others have it.

A pass goes through all names, at a set pace, and holds every body to its SHA-256, and
the record that the index points at to what the index says of it; where it is survives a
restart.  Who was killed soon begins one, and who lost ends of volumes begins with what
was there.  What is damaged goes to quarantine and is fetched anew from another replica,
at once, soon, and then ever more seldom; until that succeeds readers get an error or
are served from elsewhere, never wrong bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from clinfra.blob.digests import Announced
from clinfra.blob.quarantine import Quarantine
from clinfra.blob.reading import SMALL_BYTES
from clinfra.blob.records import Data, Row
from clinfra.blob.replica import Replica, Write
from clinfra.blob.workers import Workers
from clinfra.errors import Trouble

PAGE = 100
PIECE_BYTES = 1 << 20

BLOBS_PER_SECOND = 1000
FIRST_AFTER_SECONDS = 3600.0
SOON_SECONDS = 5.0
RETRY_SECONDS = 3600.0
"""Between tries to fetch what is damaged, at most; at first it is `SOON_SECONDS`."""

MAX_DAMAGED = 10_000
MAX_TOLD = 100

Refetch = Callable[[str], Awaitable[object]]
"""Fetches the blob of a stored name from elsewhere, and keeps it.  Raises Trouble."""

Sweep = Callable[[], Awaitable[object]]
"""Tidies up what the store has and nobody needs."""


@define(eq=False)
class Scrubber:
    """Looks after the bytes of a replica.

    Args:
        now: returns unix seconds.
        interval_seconds: from the end of a pass to the next; 0 is never.
        bytes_per_second: read at most.
        progress: a file that remembers where it is.
        refetch, sweep: see there; None when there is none.

    Attributes:
        damaged: names that wait to be fetched, and what is wrong with them.
        shortened: volumes that have lost their ends, and what is left, bytes.
    """

    log = Logger()

    _replica: Replica
    _workers: Workers
    _reactor: IReactorTime
    _now: Callable[[], float]
    _interval_seconds: float
    _bytes_per_second: int
    quarantine: Quarantine
    _progress: Path
    _refetch: Refetch | None = None
    _sweep: Sweep | None = None
    damaged: dict[str, str] = field(init=False, factory=dict)
    shortened: Mapping[int, int] = field(init=False, factory=dict)
    checked: int = field(init=False, default=0)
    checked_bytes: int = field(init=False, default=0)
    healed: int = field(init=False, default=0)
    _cursor: str = field(init=False, default="")
    _first_at: float = field(init=False, default=0.0)
    _ended_at: float | None = field(init=False, default=None)
    _at_once: bool = field(init=False, default=False)
    _passing: bool = field(init=False, default=False)
    _pause: Deferred[None] | None = field(init=False, default=None)
    _owed_seconds: float = field(init=False, default=0.0)
    _retry_seconds: float = field(init=False, default=SOON_SECONDS)
    _running: Deferred[None] | None = field(init=False, default=None)

    def start(self, was_killed: bool = False) -> None:
        """Begin where the last run ended.

        Args:
            was_killed: it did not end in order: whatever ended it may have hurt.
        """
        if self._running is None:
            self._load()
            self._first_at = self._now() + FIRST_AFTER_SECONDS
            if was_killed and self._interval_seconds:
                self._first_at, self._ended_at = self._now() + SOON_SECONDS, None
                # One that is half done goes on, and is followed by a whole one.
                self._at_once = bool(self._cursor)
            self._running = Deferred.fromCoroutine(self._run())
            self._running.addErrback(self._ended)

    def stop(self) -> None:
        """Stop, and remember where."""
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
            self._save()

    def now(self) -> bool:
        """Ask for a pass at once; False when one is asked for, or under way."""
        if self._running is None or self._at_once or self._passing:
            return False
        self._at_once = True
        if self._pause is not None:
            self._pause.cancel()
        return True

    def _ended(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self.log.failure("scrubbing ended", failure)

    def report(self) -> Mapping[str, Any]:
        """Return what status pages show."""
        now, ended_at = self._now(), self._ended_at
        return {
            "checked": self.checked,
            "checked_bytes": self.checked_bytes,
            "running": self._passing,
            "at": self._cursor,
            "ended_at": ended_at,
            "ended_seconds": None if ended_at is None else round(now - ended_at, 1),
            "damaged": len(self.damaged),
            "damaged_names": list(islice(self.damaged, MAX_TOLD)),
            "quarantined": self.quarantine.entries or 0,
            "healed": self.healed,
        }

    # Schedule

    async def _run(self) -> None:
        await self._workers.run(self.quarantine.measure)
        if self.shortened:
            await self._check_shortened()
        while True:
            while not self._at_once and (left := self._left_seconds()) > 0:
                await self._wait(min(left, self._until_retry()))
                if not self._at_once:
                    await self._heal_all()
            try:
                await self.scrub()
            except CancelledError:
                raise
            except Exception:
                self.log.failure("cannot scrub on from {name}", name=self._cursor)
                await self._sleep(RETRY_SECONDS)

    def _left_seconds(self) -> float:
        """Return how long it is until a pass begins, or goes on."""
        if not self._interval_seconds:
            return RETRY_SECONDS
        if self._cursor:
            return 0.0
        if self._ended_at is None:
            return self._first_at - self._now()
        return self._ended_at + self._interval_seconds - self._now()

    def _until_retry(self) -> float:
        """Return when to try again to fetch what is damaged."""
        if not self.damaged:
            return RETRY_SECONDS
        seconds = self._retry_seconds
        self._retry_seconds = min(2 * seconds, RETRY_SECONDS)
        return seconds

    async def _check_shortened(self) -> None:
        """Check what was where volumes have ends no more."""
        after = ""
        while rows := await self._workers.run(
            self._replica.index.names_after, after, PAGE
        ):
            for row in rows:
                at = row.at
                left = self.shortened.get(at.volume) if at is not None else None
                if at and left is not None and at.offset + at.length > left:
                    await self._check_in_turn(row)
            after = rows[-1].name
        self._retry_seconds = SOON_SECONDS

    async def _wait(self, seconds: float) -> None:
        """Wait, unless a pass is asked for."""
        pause = self._pause = self._sleep(seconds)
        try:
            await pause
        except CancelledError:
            if not self._at_once:
                raise
        finally:
            self._pause = None

    def _sleep(self, seconds: float) -> Deferred[None]:
        return deferLater(self._reactor, seconds)

    async def _pace(self, read_bytes: int) -> None:
        """Count bytes that were read, and rest when enough came together."""
        self._owed_seconds += read_bytes / self._bytes_per_second
        if self._owed_seconds >= 0.1:
            owed, self._owed_seconds = self._owed_seconds, 0.0
            await self._sleep(owed)

    # A pass

    async def scrub(self) -> None:
        """Check every blob after where the last one ended, then tidy up."""
        self._passing = True
        # Asked for while one was under way, half done: a further one follows.
        self._at_once = self._at_once and bool(self._cursor)
        try:
            await self._pass()
        finally:
            self._passing = False

    async def _pass(self) -> None:
        while True:
            rows = await self._workers.run(
                self._replica.index.names_after, self._cursor, PAGE
            )
            if not rows:
                break
            # In the order of the disk, as far as that goes.
            for row in sorted(rows, key=_place_of):
                await self._check_in_turn(row)
            self._cursor = rows[-1].name
            self._save()
            await self._pace(len(rows) * self._bytes_per_second // BLOBS_PER_SECOND)
        if self._sweep is not None:
            await self._sweep()
        self._cursor, self._ended_at = "", self._now()
        self._retry_seconds = SOON_SECONDS
        self._save()
        self.log.info(
            "all blobs are checked, {damaged} are damaged", damaged=len(self.damaged)
        )

    async def _check_in_turn(self, row: Row) -> None:
        """Check a blob; nothing that is wrong with one keeps others from their turn."""
        if row.data is None or row.at is None:
            return
        try:
            await self.check(row)
        except CancelledError:
            raise
        except Exception:
            self.log.failure("cannot check {name}", name=row.name)

    async def check(self, row: Row) -> bool:
        """Check a blob, and see to it when it is damaged; return whether it is good."""
        why = await self._wrong_with(row)
        if why is None:
            self.checked += 1
            self.damaged.pop(row.name, None)
            return True
        again = await self._workers.run(self._replica.index.get, row.name)
        if again is None or again.at != row.at or again.data != row.data:
            return True  # it has moved on; the next pass meets it
        self.log.error("{name} is damaged: {why}", name=row.name, why=why)
        self._replica.hot.drop(row.name)
        await self.set_aside(row, why)
        if len(self.damaged) < MAX_DAMAGED:
            self.damaged[row.name] = why
        await self._heal(row)
        return False

    async def _wrong_with(self, row: Row) -> str | None:
        """Return what is wrong with a body, None when it is good."""
        if row.data is None:
            return None
        why = await self._workers.run(self._wrong_with_record, row)
        return why or await self._wrong_with_body(row, row.data)

    async def _wrong_with_body(self, row: Row, data: Data) -> str | None:
        digest, size = hashlib.sha256(), 0
        pieces = self._pieces(row)
        try:
            while piece := await self._workers.run(next, pieces, b""):
                await self._workers.run(digest.update, piece)
                size += len(piece)
                self.checked_bytes += len(piece)
                await self._pace(len(piece))
        except (LookupError, OSError) as error:
            return f"it cannot be read ({type(error).__name__})"
        if size != data.size:
            return f"{data.size - size} bytes are missing"
        if digest.digest() != data.sha256:
            return "its bytes have changed"
        return None

    def _wrong_with_record(self, row: Row) -> str | None:
        """Return what is wrong with the record of a row.  A reader thread.

        The index would survive that; but it could not be rebuilt any more.
        """
        if row.at is None:
            return "it has no record"
        try:
            record = self._replica.store.head_of(row.at)
        except (LookupError, OSError) as error:
            return f"its record cannot be read ({type(error).__name__})"
        if (record.name, record.state.data) != (row.name, row.data):
            return "the index points at the record of something else"
        return None

    def _pieces(self, row: Row) -> Iterator[bytes]:
        """Yield a body as it is on disk.  Reader threads, one at a time."""
        offset = 0
        while row.data is not None and row.at is not None and offset < row.data.size:
            length = min(PIECE_BYTES, row.data.size - offset)
            piece = self._replica.store.read(row.at, offset, length)
            if not piece:
                return
            yield piece
            offset += len(piece)

    async def set_aside(self, row: Row, why: str) -> None:
        """Keep in quarantine what is there of a blob that is to be no more."""
        await self._workers.run(self.quarantine.keep, row, why, self._remains(row))

    def _remains(self, row: Row) -> Iterator[bytes]:
        """Yield what can be read of a body.  Reader threads, one at a time."""
        try:
            yield from self._pieces(row)
        except (LookupError, OSError):
            return

    # Healing

    async def _heal(self, row: Row) -> None:
        try:
            if not await self._write_anew(row):
                if self._refetch is None:
                    return
                await self._refetch(row.name)
        except Trouble as error:
            self.log.warn(
                "cannot bring {name} back: {error}", name=row.name, error=error
            )
            return
        again = await self._workers.run(self._replica.index.get, row.name)
        if again is not None and await self._wrong_with(again) is None:
            self.damaged.pop(row.name, None)
            self.healed += 1

    async def _write_anew(self, row: Row) -> bool:
        """Write a small body again whose record alone is bad; return whether it is."""
        data = row.data
        if data is None or data.size > SMALL_BYTES:
            return False
        if await self._wrong_with_body(row, data) is not None:
            return False
        body = b"".join(await self._workers.run(list, self._pieces(row)))
        write = Write(
            modified=data.modified,
            deleted=row.expiry.deleted,
            modified_deleted=row.expiry.modified_deleted,
            content_type=data.content_type,
            fanout=0,
        )
        announced = Announced({"sha256": data.sha256})
        await self._replica.put(row.name, body, write, announced=announced, mend=True)
        return True

    async def _heal_all(self) -> None:
        """Look again after everything that is damaged."""
        for name in list(self.damaged):
            row = await self._workers.run(self._replica.index.get, name)
            if row is None or row.at is None:
                self.damaged.pop(name, None)
            else:
                await self._check_in_turn(row)

    # Progress

    def _load(self) -> None:
        try:
            told = json.loads(self._progress.read_text(encoding="utf-8"))
            cursor, ended_at = str(told["at"]), told["ended_at"]
            self._ended_at = None if ended_at is None else float(ended_at)
            self._cursor = cursor
        except (OSError, ValueError, TypeError, KeyError):
            self._cursor, self._ended_at = "", None

    def _save(self) -> None:
        told = {"at": self._cursor, "ended_at": self._ended_at}
        new = self._progress.with_suffix(".new")
        try:
            new.write_text(json.dumps(told), encoding="utf-8")
            os.replace(new, self._progress)
        except OSError as error:
            self.log.error("cannot remember where I am: {error}", error=error)


def _place_of(row: Row) -> tuple[int, int]:
    return (row.at.volume, row.at.offset) if row.at is not None else (0, 0)
