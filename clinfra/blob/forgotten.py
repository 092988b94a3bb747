"""What a replica has forgotten of ends: none is to be undone by a change that is late.

A delete is forgotten when everybody has heard of it (see `repair`).  A change that some
server kept for us (see `handoff`) may be older than that, and be delivered days later:
who deleted it meanwhile would find it back.  So each replica notes the latest stamp of
all ends that it ever forgot, and when it last forgot one.  A change that was kept is
refused when its name is not known here, its stamp is earlier, and something was
forgotten after it was kept: then its name may have been deleted.  Whoever kept it puts
it aside, for somebody to look at.

This is enough: a replica that does not know a name and never forgot so late a stamp
never heard of its end, and nobody forgets an end before all others have heard.  And it
is not too much: after an outage of its whole bucket a replica has forgotten nothing but
what ended before, with earlier stamps, and takes everything.  Changes that other
replicas of the bucket send are not refused: they had them when they were current.

The note is in the index, in the transaction that forgets.  Who was away for too long
takes over what others have noted (see `rejoin`).  Who has lost his index takes it that
he forgot whatever ended ``blob.expiration_delay`` ago: so nothing that was deleted with
an end in the past is safe from a change that is late, and from him.

Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import inf
from typing import Any

from attrs import frozen

from clinfra.errors import PreconditionFailed

NOTE = "forgotten"
"""Where the index notes it."""

CLOCKS_SECONDS = 600.0
"""How far the clocks of who keeps and who forgets may be apart."""


@frozen
class Forgotten:
    """The latest of all ends that were forgotten.

    Attributes:
        stamp: of any of them, the highest `modified_deleted`.
        at: when one was last forgotten, unix seconds.
    """

    stamp: int = 0
    at: float = 0.0

    def joined(self, stamp: int, at: float) -> Forgotten:
        """Return what it is when more was forgotten."""
        return Forgotten(max(self.stamp, stamp), max(self.at, at))

    def may_hide(self, stamp: int, since: float) -> bool:
        """Return whether an end of a name may be forgotten that came after a change.

        Args:
            stamp: of the change.
            since: when it was kept, unix seconds.
        """
        return stamp < self.stamp and since < self.at + CLOCKS_SECONDS

    def check(self, stamp: int, since: float) -> None:
        """Raise TooLate when a change of a name that is not known is to be refused."""
        if self.may_hide(stamp, since):
            raise TooLate(
                "It was kept for too long: it may have been deleted meanwhile"
            )

    def told(self) -> list[Any]:
        """Return what others are told."""
        return [self.stamp, self.at if self.at < inf else None]

    def notes(self) -> Mapping[str, str]:
        """Return the note of the index."""
        return {NOTE: json.dumps(self.told())}


def forgotten_in(told: Any) -> Forgotten:
    """Return what somebody told; nothing, when that makes no sense."""
    try:
        stamp, at = told
        return Forgotten(int(stamp), inf if at is None else float(at))
    except (TypeError, ValueError, OverflowError):
        return Forgotten()


def noted(notes: Mapping[str, str]) -> Forgotten:
    """Return what an index notes."""
    try:
        return forgotten_in(json.loads(notes.get(NOTE, "[0, 0]")))
    except ValueError:
        return Forgotten()


class TooLate(PreconditionFailed):
    """A change was kept for so long that its blob may have been deleted meanwhile."""
