"""What can go wrong, in the words of the domain; HTTP statuses live in `web.resource`.

Every error carries one plain sentence that may be shown to a client.  Errors that
must not be shown (bugs) are ordinary Python exceptions and become a 500.
"""

from __future__ import annotations

from collections.abc import Sequence


class Trouble(Exception):
    """Base of every expected trouble; `sentence` is safe to show to a client."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence


class InvalidRequest(Trouble):
    """The client sent something that cannot mean anything here."""


class NotFound(Trouble):
    """There is nothing of that name (any more)."""


class Forbidden(Trouble):
    """Understood, and refused."""


class Blocked(Forbidden):
    """A rule of the operator's keeps this request out."""


class Throttled(Trouble):
    """More than a limit allows; worth a retry after `retry_after_seconds`."""

    def __init__(self, sentence: str, retry_after_seconds: int = 1) -> None:
        super().__init__(sentence)
        self.retry_after_seconds = retry_after_seconds


class MethodNotAllowed(Trouble):
    """The resource does not know this method; `allowed` lists those it knows."""

    def __init__(self, allowed: Sequence[str]) -> None:
        super().__init__("405 Method Not Allowed")
        self.allowed = tuple(allowed)


class PreconditionFailed(Trouble):
    """An If-Match, If-None-Match or If-Unmodified-Since did not hold."""


class TooLarge(Trouble):
    """The body is over the configured limit."""


class Misdirected(Trouble):
    """It was sent to a server that does not answer for it."""


class UnsupportedMedia(Trouble):
    """The bytes are not of a kind this service accepts."""


class RequestTimeout(Trouble):
    """The client did not send what it announced in time."""


class Overloaded(Trouble):
    """Refused to protect the others; worth a retry after `retry_after_seconds`."""

    def __init__(self, sentence: str, retry_after_seconds: int = 1) -> None:
        super().__init__(sentence)
        self.retry_after_seconds = retry_after_seconds


class OriginsDown(Overloaded):
    """No server behind us could be asked, or none answered; what is kept may do."""


class Maintenance(OriginsDown):
    """Operators want no server behind us to be asked now."""


class StorageFull(Trouble):
    """Not enough disk for what was sent; deletes still work."""


class RuleFailed(Trouble):
    """A rule module raised what it should not have, or none of them answered."""


class StorageDamaged(Trouble):
    """What the disk holds is not what was stored; nothing wrong is served."""


class OriginFailed(Trouble):
    """A server behind us broke the connection or the protocol.

    Attributes:
        replayable: the request may be sent again: it did not reach the origin, or
            doing it twice does no harm; and its body can still be read from its start.
    """

    def __init__(self, sentence: str, replayable: bool = False) -> None:
        super().__init__(sentence)
        self.replayable = replayable


class OriginTimeout(OriginFailed):
    """A server behind us did not answer in time."""


class ClientGone(Exception):
    """The client hung up: nobody is left to tell."""


class ConfigProblems(Exception):
    """Everything wrong with the configuration, all at once.

    Args:
        problems: one line each, "FILE: section.key: sentence".
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class StartupFailed(Exception):
    """The process cannot start here: busy port, unwritable directory, ...."""
