"""Room for pictures on their way, in files: when there is none, others have it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from twisted.logger import Logger

from clinfra.errors import Overloaded

_RETRY_AFTER_SECONDS: Final = 5

log = Logger()


@contextmanager
def room() -> Iterator[None]:
    """Make Overloaded of a full disk, and of descriptors that are used up."""
    try:
        yield
    except OSError as error:
        log.error("no room for a picture: {error}", error=str(error))
        raise Overloaded(
            "The image service has no room now.", _RETRY_AFTER_SECONDS
        ) from error
