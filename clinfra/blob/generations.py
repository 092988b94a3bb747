"""What has changed lately, told to the processes that only read.

A table of counters in memory that processes share: each name has one, with others
whose hash is the same.  Whoever commits a change counts its name up when the change is
in the index, and before it is acknowledged.  Whoever keeps in memory what the index
says of a name looks at its counter *before* reading, and believes what it kept while
the counter is the same: then no change has been acknowledged since.

Two counters are special: one for what concerns any number of names, one that says
whether readers may answer at all.
"""

from __future__ import annotations

import mmap
import os
import zlib
from typing import ClassVar

from attrs import define, field

from clinfra.blob.index import Batch

_SLOTS = 1 << 15
_ALL = _SLOTS
_SHUT = _SLOTS + 1
_BYTES = 8 * (_SLOTS + 2)


def slot_of(name: str) -> int:
    """Return which counter is a name's."""
    return zlib.crc32(name.encode("utf-8", "surrogatepass")) % _SLOTS


@define(eq=False)
class Generations:
    """The table: `create` is for the one process that writes, `open` for the others.

    It is memory alone, since writing to a file that is mapped fails fatally when the
    disk is full.

    Attributes:
        name: what it is inherited as.  Its number rises with each change of what is in
            it: who reads may be of a newer version than who writes.
        descriptor: of the table, for processes to inherit; -1 there is none.
    """

    name: ClassVar[str] = "generations-1"
    descriptor: int = field(init=False, default=-1)
    _counters: memoryview = field(init=False, factory=lambda: memoryview(b""))

    def create(self) -> None:
        """Make a table; nobody may answer by it yet."""
        self.close()
        self.descriptor = os.memfd_create(self.name)
        os.ftruncate(self.descriptor, _BYTES)
        self._map(mmap.PROT_READ | mmap.PROT_WRITE)
        self._counters[_SHUT] = 1

    def open(self, descriptor: int) -> None:
        """Look at the table of the process that writes.

        Args:
            descriptor: as it was inherited.
        """
        self.descriptor = descriptor
        self._map(mmap.PROT_READ)

    def close(self) -> None:
        """Let go of the table."""
        self._counters = memoryview(b"")
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def _map(self, access: int) -> None:
        # It is unmapped when the last view of it is gone.
        shared = mmap.mmap(self.descriptor, _BYTES, mmap.MAP_SHARED, access)
        self._counters = memoryview(shared).cast("Q")

    # Writing: one thread at a time

    def applied(self, batch: Batch, more: bool) -> None:
        """Tell that a batch is in the index.

        Args:
            more: it came with changes of any number of names.
        """
        counters = self._counters
        dropped = any(mark is None or mark.dropped for mark in batch.marks.values())
        if more or dropped:
            counters[_ALL] += 1
        for name in (*(row.name for row in batch.rows), *batch.forget):
            counters[slot_of(name)] += 1

    def allow(self) -> None:
        """Let readers answer from now on."""
        self._counters[_SHUT] = 0

    # Reading: any thread

    def of(self, slot: int) -> int:
        """Return how often the names of a counter have changed."""
        return self._counters[slot]

    @property
    def of_all(self) -> int:
        """Return how often everything has changed."""
        return self._counters[_ALL]

    @property
    def is_shut(self) -> bool:
        """Whether readers are to answer nothing."""
        return self._counters[_SHUT] != 0
