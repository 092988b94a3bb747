"""The seam between a replica and where it keeps bytes.

A store keeps *records*: a blob's state and, when the data changed, its bytes.  What
was appended is durable when `append` returns; nothing is ever overwritten.  The store
knows nothing of which record counts: that is the index's word.

Methods may block: they are called in the writer thread (one at a time) or, where it
says "any thread", in reader threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from attrs import frozen
from zope.interface import Attribute, Interface

from clinfra.blob.records import Data, Locator, State
from clinfra.blob.volume import Damage, Found, Record
from clinfra.web.exchange import FileBody


class ISpool(Interface):
    """A large body on its way in, on disk already.  Any thread, one at a time."""

    size = Attribute("bytes so far")
    sha256 = Attribute("digest of them")
    crc32 = Attribute("CRC-32 of them")

    def write(data: bytes) -> None:
        """Add bytes.  Raises errors.StorageFull."""

    def sync() -> None:
        """Make what was written durable, so that `append` is quick."""

    def discard() -> None:
        """Forget it; nothing is left.  Harmless after `append` took it."""


@frozen(eq=False)
class Entry:
    """One record to append.

    Attributes:
        name: stored name.
        state: both registers after the change.
        body: the bytes, when the record carries them.
        volumes: lowest and highest volume that held bytes of this name before.
        purge: the record says that the name is forgotten, up to this number.
        dropped: of a purge: what counts no more; None when it is only told again.
        seq: sequence number of the change.
        filed: the bytes are in a file of their own, the record only tells of them.
    """

    name: str
    state: State
    body: bytes | ISpool | None
    volumes: tuple[int, int] | None = None
    purge: bool = False
    seq: int = 0
    filed: bool = False
    dropped: Data | None = None


@frozen
class VolumeFacts:
    """A volume as the store sees it.

    Attributes:
        number: rising with time.
        ttl_class: see `volume.TTL_CLASSES`; 1 holds changes only.
        made_at: unix seconds.
        size: bytes.
        active: more may be appended to it.
    """

    number: int
    ttl_class: int
    made_at: int
    size: int
    active: bool


class IBodies(Interface):
    """What those who only read need."""

    def read(at: Locator, offset: int, length: int) -> bytes:
        """Return a piece of a body.  Any thread.  Raises LookupError if it is gone."""

    def read_at_once(at: Locator, offset: int, length: int) -> bytes | None:
        """Return the same if that needs no waiting for a disk.  Any thread."""

    def file_of(at: Locator, offset: int, length: int) -> FileBody | bytes:
        """Return a piece of a body for sending.  Any thread.  Raises LookupError."""


class IBlobStore(IBodies):
    """Somewhere durable to append records to."""

    holds_bodies = Attribute("volumes hold the bodies: they go with them")

    def open() -> None:
        """Make it ready.  What does not belong there is set aside, never an error."""

    def close() -> None:
        """Release everything."""

    def spool(name: str, content_type: str) -> ISpool:
        """Begin a large body; nothing is on disk yet, this does not block."""

    def append(entries: Sequence[Entry], now: float) -> list[Locator]:
        """Append records; they are durable on return, all of them.

        Raises errors.StorageFull or OSError, and then none of them is there.
        """

    def void(places: Sequence[Locator]) -> None:
        """Take back records that were appended but could not be indexed."""

    def carry(found: Found) -> bytes | ISpool:
        """Return the body of a record, for being appended again.  Any thread."""

    def tend(now: float) -> None:
        """Do what was to be done later, for the sake of readers."""

    def head_of(at: Locator) -> Record:
        """Return a record without its body.  Any thread.

        Raises LookupError when it is gone, or no good any more.
        """

    def volumes() -> Mapping[int, VolumeFacts]:
        """Return all volumes.  Any thread."""

    def scan(number: int, start: int) -> Iterator[Found | Damage]:
        """Read through a volume from `start` (0: all of it), checking everything."""

    def truncate(number: int, size: int) -> None:
        """Cut off the end of a volume."""

    def seal(number: int) -> None:
        """Append no more to a volume."""

    def remove(number: int) -> None:
        """Delete a volume, durably."""

    def reserve(number: int) -> None:
        """Give no new volume this number or a lower one."""

    def free_bytes() -> int:
        """Return what the disk has left.  Any thread."""

    def facts() -> Mapping[str, object]:
        """Return what status pages show.  Any thread."""
