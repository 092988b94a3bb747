"""Writing down how far a destination has got: soon, and not more often than needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

NOTE_SECONDS = 1.0
"""How often a cursor that moved is written down."""


@define(eq=False)
class CursorNote:
    """What is written down of one cursor.

    Args:
        key: of the destination.
        write: writes the cursor down.
        cursor: returns where it is.
    """

    log = Logger()

    _key: str
    _write: Callable[[str, int], Deferred[None]]
    _cursor: Callable[[], int]
    _reactor: Any
    _noted: int = field(init=False, default=-1)
    _soon: IDelayedCall | None = field(init=False, default=None)

    def is_noted(self) -> None:
        """It is where it was found."""
        self._noted = self._cursor()

    def moved(self) -> None:
        """It may have moved."""
        if self._soon is None and self._cursor() != self._noted:
            self._soon = self._reactor.callLater(NOTE_SECONDS, self._note)

    def _note(self) -> None:
        self._soon = None
        cursor = self._noted = self._cursor()

        def failed(failure: Any) -> None:
            self._noted = -1
            self.log.error(
                "cannot note the cursor of {key}: {error}",
                key=self._key,
                error=failure.value,
            )

        self._write(self._key, cursor).addErrback(failed)

    def stop(self) -> Deferred[None]:
        """Write it down for the last time."""
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        return self._write(self._key, self._cursor())
