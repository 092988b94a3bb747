"""What is remembered of a blob: two registers, and where the bytes are.

`Data` is the last write, `Expiry` the last word on when it ends; they are merged
independently (see `merge`).  A `Row` is both, as the index keeps them, with the
place of the bytes.

Pure.
"""

from __future__ import annotations

from attrs import evolve, field, frozen

PEERS, CLUSTERS, BYTES = 1, 2, 4
"""What a change is still to be sent to (`Row.fanout`); BYTES: it brought new bytes."""

EVERYWHERE = PEERS | CLUSTERS


@frozen
class Data:
    """The last write.

    Attributes:
        modified: stamp of the write.
        sha256: 32 bytes.
        size: of the body, bytes.
        crc32: of the body; checked whenever a small body is read.
        content_type: as the writer gave it, "" when it is to be guessed.
    """

    modified: int
    sha256: bytes
    size: int
    crc32: int
    content_type: str = ""


@frozen
class Expiry:
    """The last word on when a blob ends.

    Attributes:
        modified_deleted: stamp of that word.
        deleted: unix seconds when it ends or ended; 0 never.
    """

    modified_deleted: int
    deleted: int

    def passed(self, now: float) -> bool:
        """Return whether the blob has ended at `now`, unix seconds."""
        return self.deleted != 0 and self.deleted <= now


@frozen
class State:
    """Both registers; `data` is None while only a delete has been seen."""

    data: Data | None
    expiry: Expiry


@frozen
class Locator:
    """Where a store keeps one record.

    Attributes:
        volume: number of the volume.
        offset: of the record in it, bytes.
        head_bytes: from there to the body.
        length: of the whole record, padding included.
    """

    volume: int
    offset: int
    head_bytes: int
    length: int


@frozen
class Row:
    """A blob in the index.

    Attributes:
        name: stored name.
        state: the registers.
        at: where the bytes are; None exactly when there is no data.
        seq: change sequence number of this replica, for the change feed.
        volumes: lowest and highest volume that ever held bytes of this name; of one
            that never had any, where its delete is recorded.  As long as one of them
            exists, rebuilding the index may come across what was, and the record of
            what outdid it must be kept.
        fanout: PEERS, CLUSTERS and BYTES, or'ed, of all changes that somebody has not
            had yet.
        digest: what the trees have for it (see `trees`), once it is in the index.
    """

    name: str
    state: State
    at: Locator | None
    seq: int = 0
    volumes: tuple[int, int] | None = None
    fanout: int = 0
    digest: bytes = field(default=b"", eq=False)

    def placed(self, at: Locator | None, volumes: tuple[int, int] | None) -> Row:
        """Return the row with its bytes somewhere else."""
        return Row(
            self.name, self.state, at, self.seq, volumes, self.fanout, self.digest
        )

    @property
    def data(self) -> Data | None:
        """The data register."""
        return self.state.data

    @property
    def expiry(self) -> Expiry:
        """The expiry register."""
        return self.state.expiry


@frozen
class Parked:
    """A name that a destination of changes would not take; see `parking`.

    Attributes:
        destination: its key.
        name: stored name.
        reason: in the destination's words.
        since: when that was first so, unix seconds.
        until: when to try again, unix seconds.
    """

    destination: str
    name: str
    reason: str
    since: float
    until: float


def without_data(row: Row) -> Row:
    """Return a row whose bytes are deleted, as it is from then on."""
    return evolve(row, state=State(None, row.expiry), at=None)


def widened(volumes: tuple[int, int] | None, number: int) -> tuple[int, int]:
    """Return `Row.volumes` with one volume more."""
    return (
        (min(volumes[0], number), max(volumes[1], number)) if volumes else (number,) * 2
    )
