"""The merge rule: how two states of one blob become one.

Each register is last-writer-wins on its stamp.  Equal stamps are decided by content,
never by order of arrival: so merging is commutative, associative and idempotent, and
replicas (and an index rebuilt from the volumes in any order) always agree.

Pure.
"""

from __future__ import annotations

from attrs import frozen

from clinfra.blob.records import Data, Expiry, State


@frozen
class Merged:
    """The state after a merge, and which registers the incoming state won."""

    state: State
    data_won: bool
    expiry_won: bool


def _data_key(data: Data) -> tuple[int, bytes, int, str]:
    return data.modified, data.sha256, data.size, data.content_type


def _expiry_key(expiry: Expiry) -> tuple[int, int]:
    return expiry.modified_deleted, expiry.deleted


def merge(known: State | None, incoming: State) -> Merged:
    """Merge what comes in into what is known; an equal register has not won."""
    if known is None:
        return Merged(incoming, incoming.data is not None, True)
    data_won = incoming.data is not None and (
        known.data is None or _data_key(incoming.data) > _data_key(known.data)
    )
    expiry_won = _expiry_key(incoming.expiry) > _expiry_key(known.expiry)
    state = State(
        data=incoming.data if data_won else known.data,
        expiry=incoming.expiry if expiry_won else known.expiry,
    )
    return Merged(state, data_won, expiry_won)
