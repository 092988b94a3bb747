"""Query parameters of the blob protocol, read exactly as the original reads them.

Pairs are split on "&" and the first "=", blanks around both sides are dropped,
nothing is percent-decoded, the last of a repeated key wins and unknown keys are
ignored.  The sentences of refusal are the original's, where it had one.

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import lru_cache

from attrs import frozen

from clinfra.blob.records import EVERYWHERE, PEERS
from clinfra.errors import InvalidRequest

_INTEGER = re.compile(r"[+-]?[0-9]+\Z")
_BOOLEANS = {"1": True, "true": True, "0": False, "false": False}

MIN_TIME = -(1 << 63)
MAX_TIME = (1 << 63) - 1

INTEGERS = frozenset(("ttl", "modified", "deleted", "modified_deleted"))
BOOLEANS = frozenset(("encoded",))
STRINGS = frozenset(("replicate", "response"))
_FANOUTS = {"all": EVERYWHERE, "cluster": PEERS}

ALLOWED: Mapping[str, Collection[str]] = {
    "PUT": frozenset(
        ("ttl", "modified", "deleted", "modified_deleted", "replicate", "encoded")
    ),
    "GET": frozenset(("response",)),
    "HEAD": frozenset(("response",)),
    "DELETE": frozenset(("ttl", "deleted", "modified_deleted", "replicate")),
}
"""Parameters that mean something to each method."""


@frozen
class Parameters:
    """The parameters of one request; None where one was not given.

    Attributes:
        ttl: seconds to live; negative is allowed.
        modified: stamp of the data.
        deleted: unix seconds of the expiry.
        modified_deleted: stamp of the expiry.
        replicate: where the change should travel on to ("all" when not given).
        encoded: the name in the path is a stored name already.
        response: "data" or "info".
    """

    ttl: int | None = None
    modified: int | None = None
    deleted: int | None = None
    modified_deleted: int | None = None
    replicate: str = "all"
    encoded: bool = False
    response: str = "data"

    @property
    def fanout(self) -> int:
        """Where the change should travel on to; unknown words mean nowhere."""
        return _FANOUTS.get(self.replicate, 0)


_NONE = Parameters()


def split(query: bytes) -> dict[str, str | None]:
    """Return the pairs of a query; the value of a key without "=" is None."""
    pairs: dict[str, str | None] = {}
    for piece in query.decode("utf-8", "replace").split("&"):
        key, equals, value = piece.partition("=")
        if key.strip():
            pairs[key.strip()] = value.strip() if equals else None
    return pairs


def integer(key: str, value: str | None) -> int:
    """Return a whole number.  Raises InvalidRequest."""
    if value is None or len(value) > 21 or not _INTEGER.match(value):
        raise InvalidRequest(f"Invalid int value for {key}: {value}")
    return int(value)


def boolean(key: str, value: str | None) -> bool:
    """Return a truth value.  Raises InvalidRequest."""
    found = _BOOLEANS.get(value.lower()) if value is not None else None
    if found is None:
        shown = value.lower() if value is not None else None
        raise InvalidRequest(f"Invalid boolean value for {key}: {shown}")
    return found


@lru_cache(256)
def parse(method: str, query: bytes) -> Parameters:
    """Return the parameters of a request of that method.  Raises InvalidRequest.

    Values are judged before the method, as the original does: a bad number is
    refused even where the parameter itself would be.
    """
    if not query:
        return _NONE
    given: dict[str, int | bool | str] = {}
    for key, value in split(query).items():
        if key in INTEGERS:
            number = integer(key, value)
            if key in ("ttl", "deleted") and not MIN_TIME <= number <= MAX_TIME:
                raise InvalidRequest(f"Invalid int value for {key}: {value}")
            given[key] = number
        elif key in BOOLEANS:
            given[key] = boolean(key, value)
        elif key in STRINGS:
            given[key] = str(value)
    allowed = ALLOWED.get(method)
    for key in given:
        if allowed is not None and key not in allowed:
            raise InvalidRequest(f"Parameter not known to {method}: {key}")
    if given.get("response", "data") not in ("data", "info"):
        raise InvalidRequest(f"Unknown response option: {given['response']}")
    return Parameters(**given)  # type: ignore[arg-type]  # checked by kind above
