"""How full the disk is, and what index and store say of themselves."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import define, field

from clinfra.blob.commit import Committer
from clinfra.blob.datadir import DataDirectory
from clinfra.blob.replica import Replica


@define(eq=False)
class Disk:
    """Measured again and again, by any thread.

    Attributes:
        facts: of the index, and of the store.
    """

    _directory: DataDirectory
    _committer: Committer
    _replica: Replica
    facts: tuple[Mapping[str, object], Mapping[str, object]] = field(
        init=False, factory=lambda: ({}, {})
    )

    def measure(self) -> None:
        """Look at the disk; tell the replica what the fuller one has left."""
        committer = self._committer
        index, store = committer.index, committer.store
        free_bytes = store.free_bytes(), self._directory.free_bytes()
        self._replica.free_bytes = min(free_bytes)
        self.facts = index.facts(), {**store.facts(), **committer.facts()}
