"""Reading the blobs of this machine: rows, small bodies checked, pieces of large ones.

Runs in the reactor's thread and waits for nothing: reads that miss memory go to reader
threads (`workers`).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from clinfra.blob.hot import Hot, HotCache
from clinfra.blob.index import IRows
from clinfra.blob.records import Data, Locator, Row
from clinfra.blob.store import IBodies
from clinfra.blob.workers import Workers
from clinfra.errors import StorageDamaged
from clinfra.web.exchange import FileBody

SMALL_BYTES = 1 << 20
"""Bodies up to this are handled in memory and checked on every read from disk."""

HOT_BYTES = 1 << 18
"""Bodies up to this are kept in the hot cache."""


@define(eq=False, kw_only=True)
class Reader:
    """Finds and reads what the index knows.

    Args:
        now: returns unix seconds.
    """

    log = Logger()

    index: IRows
    store: IBodies
    hot: HotCache
    _workers: Workers
    _now: Callable[[], float]
    _loading: dict[str, list[Deferred[Hot | None]]] = field(init=False, factory=dict)

    def seconds(self) -> float:
        """Return unix seconds."""
        return self._now()

    async def find(self, name: str) -> Hot | None:
        """Return what is known of a name, with its body when that is small."""
        found = self.hot.get(name)
        return found if found is not None else await self._load(name)

    async def _load(self, name: str) -> Hot | None:
        """Read a name from the disk; equal reads in flight are one."""
        waiter: Deferred[Hot | None] = Deferred()
        waiters = self._loading.get(name)
        if waiters is not None:
            waiters.append(waiter)
        else:
            waiters = self._loading[name] = [waiter]
            reading = self._workers.run(self._read_row, name)
            reading.addBoth(self._loaded, name, waiters)
        return await waiter

    def _loaded(
        self,
        answer: Hot | Failure | None,
        name: str,
        waiters: list[Deferred[Hot | None]],
    ) -> None:
        if self._loading.get(name) is waiters:
            del self._loading[name]
            if isinstance(answer, Hot):
                self.hot.put(answer)
        for waiter in waiters:
            waiter.callback(answer)

    def _read_row(self, name: str) -> Hot | None:
        """Read row and small body.  A reader thread."""
        for attempt in (1, 2):
            row = self.index.get(name)
            if row is None:
                return None
            if row.data is None or row.at is None or row.data.size > HOT_BYTES:
                return Hot(row, None)
            if row.expiry.passed(self._now()):
                # Most likely nobody may have the bytes any more, damaged or not.
                return Hot(row, None)
            try:
                return Hot(row, self._checked(row, row.data, row.at))
            except LookupError:
                # Compaction moved it between the two reads; the index knows where.
                if attempt == 2:
                    raise StorageDamaged("The blob's bytes are missing") from None
        return None

    def _checked(self, row: Row, data: Data, at: Locator) -> bytes:
        body = self.store.read(at, 0, data.size)
        self._check(row, data, body)
        return body

    def _check(self, row: Row, data: Data, body: bytes) -> None:
        if len(body) != data.size or zlib.crc32(body) != data.crc32:
            self.log.error(
                "blob {name} is damaged at {offset} of volume {volume}",
                name=row.name,
                offset=row.at.offset if row.at is not None else -1,
                volume=row.at.volume if row.at is not None else -1,
            )
            raise StorageDamaged("The blob's bytes are damaged")

    def body_at_once(self, hot: Hot) -> bytes | None:
        """Return a small body, checked, unless the disk would have to be waited for."""
        row, data, at = hot.row, hot.row.data, hot.row.at
        if hot.body is not None or data is None or at is None:
            return hot.body
        body = self.store.read_at_once(at, 0, data.size)
        if body is not None:
            self._check(row, data, body)
            self._keep(hot, body)
        return body

    async def body(self, hot: Hot) -> bytes:
        """Return a small body whole, checked."""
        body = self.body_at_once(hot)
        if body is not None:
            return body
        row, data, at = hot.row, hot.row.data, hot.row.at
        if data is None or at is None:
            raise StorageDamaged("The blob's bytes are missing")
        try:
            body = await self._workers.run(self._checked, row, data, at)
        except LookupError:
            again = await self._reload(row)
            return await self._workers.run(self._checked, again, again.data, again.at)
        self._keep(hot, body)
        return body

    def _keep(self, hot: Hot, body: bytes) -> None:
        if len(body) <= HOT_BYTES:
            self.hot.keep_body(hot, body)

    async def piece(self, hot: Hot, offset: int, length: int) -> bytes:
        """Return a piece of a body; of a large one its checksum is not looked at."""
        row, at = hot.row, hot.row.at
        if hot.body is not None:
            return hot.body[offset : offset + length]
        if at is None:
            raise StorageDamaged("The blob's bytes are missing")
        try:
            piece = await self._workers.run(self.store.read, at, offset, length)
        except LookupError:
            at = (await self._reload(row)).at
            piece = await self._workers.run(self.store.read, at, offset, length)
        if len(piece) != length:
            raise StorageDamaged("The blob's bytes are missing")
        return piece

    async def file(self, hot: Hot, offset: int, length: int) -> FileBody | bytes:
        """Return a piece of a large body."""
        at = hot.row.at
        if at is None:
            raise StorageDamaged("The blob's bytes are missing")
        try:
            return await self._workers.run(self.store.file_of, at, offset, length)
        except LookupError:
            again = await self._reload(hot.row)
            return await self._workers.run(self.store.file_of, again.at, offset, length)

    async def _reload(self, row: Row) -> Row:
        """Return a row whose bytes have moved, if it is still the same blob."""
        self.hot.drop(row.name)
        again = await self._workers.run(self.index.get, row.name)
        if again is None or again.data != row.data or again.at == row.at:
            raise StorageDamaged("The blob's bytes are missing")
        return again
