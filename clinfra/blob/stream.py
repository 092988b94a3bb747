"""Everything a replica has, as one stream: for a peer that has lost all of it.

``GET /_stream?after=N&for=REPLICA``.  The answer is every row with a change number
above N, in order of number, which is about the order on disk: records one after the
other, each as in a volume (see `volume`) without padding, with its change number.  A
record of data has its bytes; what has ended for good is told as a change.  Then comes
an end mark: `END` and the number up to which this was everything, 8 bytes,
little-endian.  An answer without it was cut short, and can be continued after the last
number that came.

Who asks for what comes after N has everything up to N: the sender's change feed for it
goes on from there.  ``X-Clblob-Filling`` says that the sender itself lacks much.

Only replicas of the cluster file may ask.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import AsyncIterator, Callable, Sequence

from attrs import define, evolve, field, frozen
from twisted.logger import Logger

from clinfra.blob import parameters, volume
from clinfra.blob.peers import FILLING, Peers
from clinfra.blob.reading import SMALL_BYTES
from clinfra.blob.records import Row, State
from clinfra.blob.rejoin import Fence
from clinfra.blob.replica import Replica
from clinfra.blob.standing import Standing
from clinfra.blob.volume import RECORD_HEAD_BYTES, Record
from clinfra.blob.workers import Workers
from clinfra.errors import Forbidden, InvalidRequest
from clinfra.web.exchange import IExchange, Response
from clinfra.web.heads import Fields

STREAM = "_stream"

END = b"CLEND\0\0\0"

PAGE_ROWS = 256
PAGE_BYTES = 2 << 20
"""Read and sent at a time, about."""

PIECE_BYTES = 1 << 20
"""Of a large body, read and sent at a time."""

_NUMBER = struct.Struct("<Q")
_LENGTHS = struct.Struct("<HH")
_LENGTHS_AT = 6


def end_mark(seq: int) -> bytes:
    """Return what ends a stream that told everything up to a number."""
    return END + _NUMBER.pack(seq)


@frozen(eq=False)
class Streamed:
    """One record that came; `body` is None when it tells of the expiry alone."""

    name: str
    state: State
    body: bytes | None
    seq: int


@frozen(eq=False)
class Parsed:
    """What could be read of a piece of a stream.

    Attributes:
        records: those that are whole.
        used: bytes they took; the rest is to be kept until more has come.
        large: the head of a record whose large body follows.
        end: number of the end mark.
    """

    records: Sequence[Streamed]
    used: int
    large: Record | None = None
    end: int | None = None


def parse(raw: bytes) -> Parsed:
    """Read the records of a piece of a stream.  Raises InvalidRequest."""
    records: list[Streamed] = []
    at = 0
    while True:
        if raw.startswith(END, at):
            if len(raw) < at + len(END) + _NUMBER.size:
                return Parsed(records, at)
            (end,) = _NUMBER.unpack_from(raw, at + len(END))
            return Parsed(records, at + len(END) + _NUMBER.size, None, end)
        if len(raw) < at + RECORD_HEAD_BYTES:
            return Parsed(records, at)
        head_bytes = RECORD_HEAD_BYTES + sum(
            _LENGTHS.unpack_from(raw, at + _LENGTHS_AT)
        )
        if len(raw) < at + head_bytes:
            return Parsed(records, at)
        try:
            record = volume.unpack_record_head(raw[at : at + head_bytes])
        except UnicodeDecodeError:
            record = None
        if record is None:
            raise InvalidRequest("This is no record")
        if record.body_bytes > SMALL_BYTES:
            return Parsed(records, at + head_bytes, record)
        begin = at + head_bytes
        end_of_body = begin + record.body_bytes
        if len(raw) < end_of_body:
            return Parsed(records, at)
        body = raw[begin:end_of_body] if record.has_body else None
        records.append(Streamed(record.name, record.state, body, record.seq))
        at = end_of_body


def parse_checked(raw: bytes) -> tuple[Parsed, list[str]]:
    """Read records and check their bytes; return the names of damaged ones too."""
    parsed = parse(raw)
    good: list[Streamed] = []
    bad: list[str] = []
    for record in parsed.records:
        data, body = record.state.data, record.body
        if (
            data is not None
            and body is not None
            and (
                hashlib.sha256(body).digest() != data.sha256
                or zlib.crc32(body) != data.crc32
            )
        ):
            bad.append(record.name)
        else:
            good.append(record)
    return evolve(parsed, records=good), bad


@frozen(eq=False)
class _Page:
    """What was read at a time; `large` comes after it, in pieces."""

    raw: bytes
    after: int
    large: Row | None = None
    end: int | None = None


@define(eq=False)
class Streamer:
    """Answers who has lost everything.

    Args:
        now: returns unix seconds.
        forget_seconds: what ended longer ago than this is told without its bytes.
        has: told which destination has everything up to which number.

    Attributes:
        streaming: how many are being answered.
    """

    log = Logger()

    _replica: Replica
    _peers: Peers
    _workers: Workers
    _standing: Standing
    _fence: Fence
    _now: Callable[[], float]
    _forget_seconds: float
    _has: Callable[[str, int], object]
    streaming: int = field(init=False, default=0)

    async def respond(self, exchange: IExchange) -> Response:
        """Answer a request for `STREAM`."""
        if not self._peers.may_ask(exchange.client_ip):
            raise Forbidden("This is answered to replicas of this cluster only")
        # What it has may be deleted: who lacks it is better off without.
        self._fence.check()
        given = parameters.split(exchange.head.query)
        after = parameters.integer("after", given.get("after"))
        if after < 0:
            raise InvalidRequest(f"Invalid int value for after: {after}")
        self._has(f"peer:{given.get('for')}", after)
        fields: Fields = ((b"Content-Type", b"application/octet-stream"),)
        if self._standing.filling:
            fields += (FILLING,)
        return Response(200, fields, self._records(after))

    async def _records(self, after: int) -> AsyncIterator[bytes]:
        self.streaming += 1
        reading = self._workers.run(self._read, after)
        try:
            while True:
                page = await reading
                if page.end is None:
                    # Read on while this is sent.
                    reading = self._workers.run(self._read, page.after)
                if page.raw:
                    yield page.raw
                if page.large is not None:
                    async for piece in self._large(page.large):
                        yield piece
                if page.end is not None:
                    yield end_mark(page.end)
                    return
        finally:
            self.streaming -= 1
            reading.addErrback(lambda failure: None)

    def _read(self, after: int) -> _Page:
        """Read the next rows and their bytes.  A reader thread."""
        # Taken before the rows: what is committed meanwhile may be in neither.
        last = self._replica.index.last_seq()
        pieces: list[bytes] = []
        held = 0
        rows = self._replica.index.changes(after, PAGE_ROWS)
        for row in rows:
            if self._is_large(row):
                return _Page(b"".join(pieces), row.seq, row)
            self._add(row, pieces)
            after = row.seq
            held += row.data.size if row.data is not None else 0
            if held >= PAGE_BYTES:
                break
        return _Page(b"".join(pieces), after, None, None if rows else max(last, after))

    def _add(self, row: Row, pieces: list[bytes]) -> None:
        data = row.data
        if data is None or self._has_ended(row):
            pieces.append(_head(row, has_body=False))
            return
        body = self._body(row)
        if body is not None:
            pieces.append(_head(row, has_body=True))
            pieces.append(body)

    def _body(self, row: Row) -> bytes | None:
        """Return a small body; None when it is damaged or has changed."""
        size = row.data.size if row.data is not None else 0
        found: Row | None = row
        try:
            for _ in range(2):
                if found is None or found.at is None or found.data != row.data:
                    # Its newer state comes later.
                    return None
                try:
                    body = self._replica.store.read(found.at, 0, size)
                except LookupError:
                    # Compaction moved it.
                    found = self._replica.index.get(row.name)
                    continue
                if len(body) == size:
                    return body
                break
        except OSError:
            pass
        self.log.error("{name} cannot be read, and is left out", name=row.name)
        return None

    def _is_large(self, row: Row) -> bool:
        data = row.data
        return data is not None and data.size > SMALL_BYTES and not self._has_ended(row)

    def _has_ended(self, row: Row) -> bool:
        return row.expiry.passed(self._now() - self._forget_seconds)

    async def _large(self, row: Row) -> AsyncIterator[bytes]:
        """Yield a record with a large body.

        What cannot be read is zeros: its digest is wrong, and it is not kept.
        """
        yield _head(row, has_body=True)
        size = row.data.size if row.data is not None else 0
        for offset in range(0, size, PIECE_BYTES):
            length = min(PIECE_BYTES, size - offset)
            yield await self._workers.run(self._piece, row, offset, length)

    def _piece(self, row: Row, offset: int, length: int) -> bytes:
        piece = b""
        try:
            found = self._replica.index.get(row.name)
            if found is not None and found.data == row.data and found.at is not None:
                piece = self._replica.store.read(found.at, offset, length)
        except (LookupError, OSError) as error:
            self.log.error("{name} cannot be read: {error}", name=row.name, error=error)
        return piece.ljust(length, b"\0")


def _head(row: Row, *, has_body: bool) -> bytes:
    return volume.pack_record_head(
        row.name, row.state, None, has_body=has_body, seq=row.seq
    )
