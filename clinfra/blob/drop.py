"""Deleting a volume whole when everything in it has ended, however much that is.

One durable step marks the volume *dropped* and unlinks it: the disk space is back, and
each row that points at it is told as purged from then on (see `index`).  The rows
themselves are removed afterwards, few at a time and with long rests, so that writers
hardly notice.  A name that is written again meanwhile has a row that points elsewhere,
and keeps it.

A volume is not dropped while somebody might not have heard of its last change (see
`repair`), nor when bytes of its names may be in other volumes, too: those rows have to
leave word for the day the index is rebuilt, one by one (see `expire`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from clinfra.blob.commit import Call, Committer
from clinfra.blob.index import VolumeMark
from clinfra.blob.parameters import MIN_TIME
from clinfra.blob.records import Expiry, Row, State
from clinfra.blob.replica import Replica

ROWS = 100
"""Removed at a time, in a few milliseconds of the writer thread."""

REST_SECONDS = 0.02
REST_SHARE = 9
"""Rest after that: at least so long, and so many times as long as it took."""


@define(eq=False)
class Dropper:
    """Drops volumes, and removes the rows they leave behind.

    Args:
        now: returns unix seconds.
        expiration_delay_seconds: how long an expired blob can still be undeleted.
        may_forget: whether everybody has heard of an end.

    Attributes:
        forgotten: rows removed so far.
    """

    log = Logger()

    _replica: Replica
    _committer: Committer
    _reactor: IReactorTime
    _now: Callable[[], float]
    _expiration_delay_seconds: float
    _may_forget: Callable[[Row], bool]
    forgotten: int = field(init=False, default=0)
    _running: Deferred[None] | None = field(init=False, default=None)

    async def drop(self) -> None:
        """Drop every volume whose time has come."""
        call = Call(partial(self._committer.drop_volumes, self._is_due))
        try:
            await self._replica.commit(call)
        except Exception:
            self.log.failure("cannot drop volumes that have expired")
            return
        numbers = cast(list[int], call.result)
        self._replica.volumes_dropped(numbers)
        for number in numbers:
            delete = partial(self._committer.delete_dropped, number)
            try:
                await self._replica.commit(Call(delete))
            except Exception:
                self.log.failure("cannot delete volume {number}", number=number)
            else:
                self.log.info(
                    "volume {number} has expired and is deleted", number=number
                )

    def _is_due(self, mark: VolumeMark) -> bool:
        """Return whether all of a volume can be forgotten.  The writer thread."""
        if mark.ends >= int(self._now() - self._expiration_delay_seconds):
            return False
        # What ended last and was changed last stands for all the others.
        last = Row("", State(None, Expiry(0, mark.ends)), None, mark.seq)
        return self._may_forget(last)

    @property
    def is_running(self) -> bool:
        """Rows of dropped volumes are being removed."""
        return self._running is not None

    def start(self) -> None:
        """Remove what dropped volumes left behind, in the background."""
        if self._running is None:
            self._running = Deferred()
            running = Deferred.fromCoroutine(self._forget_all())
            if not running.called:
                self._running = running
            running.addErrback(self._failed).addBoth(self._over)

    def stop(self) -> None:
        """Leave the rest to the next start."""
        if self._running is not None:
            self._running.cancel()

    def _failed(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self.log.failure("cannot remove rows of dropped volumes", failure=failure)

    def _over(self, result: object) -> None:
        self._running = None

    async def _forget_all(self) -> None:
        while numbers := self._committer.dropped_volumes():
            since, found = MIN_TIME, ROWS
            while found == ROWS:
                call = Call(partial(self._forget_some, since))
                await self._replica.commit(call)
                rows, took = cast(tuple[Sequence[Row], float], call.result)
                found = len(rows)
                for row in rows:
                    self._replica.hot.drop(row.name)
                    since = row.expiry.deleted
                self.forgotten += found
                if found == ROWS:
                    await deferLater(
                        self._reactor, max(REST_SECONDS, REST_SHARE * took)
                    )
            forget = partial(self._committer.forget_volumes, numbers)
            await self._replica.commit(Call(forget))

    def _forget_some(self, since: int) -> tuple[Sequence[Row], float]:
        """Remove some rows; return them, and how long it took.  The writer thread."""
        began = self._reactor.seconds()
        rows = self._committer.forget_dropped(since, ROWS)
        return rows, self._reactor.seconds() - began
