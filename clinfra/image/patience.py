"""How long the blob service is waited for: no longer than a picture is worked on."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from attrs import frozen
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime

from clinfra.errors import Overloaded

T = TypeVar("T")

RETRY_AFTER_SECONDS: Final = 5
"""When whoever met an unavailable blob service should come back."""

_BYTES_PER_SECOND: Final = 1e6
"""What moves faster than this has the time that it needs."""


@frozen
class Patience:
    """Waits for the blob service, within limits.

    Attributes:
        reactor: for time only.
        seconds: longest time for anything but bytes.
    """

    reactor: IReactorTime
    seconds: float

    async def within(
        self, work: Coroutine[Deferred[Any], Any, T], length: int = 0
    ) -> T:
        """Return the result of some work that moves so many bytes.

        Raises Overloaded when it takes too long; it is cancelled then.
        """
        seconds = self.seconds + length / _BYTES_PER_SECOND
        running = Deferred.fromCoroutine(work)
        try:
            return await running.addTimeout(seconds, self.reactor)
        except TimeoutError as error:
            raise Overloaded(
                "The blob service does not answer in time.", RETRY_AFTER_SECONDS
            ) from error
