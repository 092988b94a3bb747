"""What can be read of the image service: a table that its parts fill."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from attrs import frozen

from clinfra.web.exchange import IExchange, Response


@frozen
class Route:
    """Something that can be read.

    Attributes:
        pattern: of its whole path.
        answer: answers GET and HEAD; errors.Trouble that it raises is told to the
            client, and not to be kept by caches.
    """

    pattern: re.Pattern[bytes]
    answer: Callable[[IExchange, re.Match[bytes]], Awaitable[Response | None]]
