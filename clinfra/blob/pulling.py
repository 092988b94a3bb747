"""Pulling from originals what they have, now and then: with them no trees are compared.

First everything they list is pulled, as this replica may have lost its disk, and they
may have the only copy; then what is younger than deletes are remembered for them.
(What is older may have been deleted, and the delete forgotten, while they were away.)
Before that, they are told what has ended: see `telling`.
"""

from __future__ import annotations

from functools import partial
from math import inf

from attrs import define, evolve, field

from clinfra.blob.commit import Call
from clinfra.blob.index import Batch
from clinfra.blob.stamps import stamp_at
from clinfra.blob.sync import Puller
from clinfra.blob.telling import Telling

PULL_SECONDS = 3600.0
"""From one time to the next: an original goes through all it has."""

AGAIN_SECONDS = 300.0
"""The same when some blobs could not be had."""

_NOTE = "pulled:"
"""With a replica's name: the index notes that everything was pulled from it."""


def _copied(puller: Puller) -> Puller:
    return evolve(puller)


@define(eq=False)
class Pulling:
    """Pulls from originals.

    Args:
        puller: how `_sync` pulls; what runs here does not meddle with that.
        tombstone_seconds: how long deletes are remembered for originals, at least.
        telling: tells them of what has ended.
    """

    _puller: Puller = field(converter=_copied)
    _tombstone_seconds: float
    telling: Telling
    _due: dict[str, float] = field(init=False, factory=dict)

    async def pull(self, source: str) -> None:
        """Pull what an original has, if that is due.  Raises errors.Trouble."""
        now = self._puller.now()
        if now < self._due.get(source, -inf):
            return
        await self.telling.tell(source, now)
        index, start = self._puller.replica.index, None
        if _NOTE + source in await self._puller.workers.run(index.notes):
            start = stamp_at(max(0.0, now - self._tombstone_seconds))
        complete = await self._puller.pull_from(source, start)
        self._due[source] = now + (PULL_SECONDS if complete else AGAIN_SECONDS)
        if start is None and complete:
            note = Batch(notes={_NOTE + source: str(int(now))})
            await self._puller.replica.commit(Call(partial(index.apply, note)))
