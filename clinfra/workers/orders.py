"""What a worker is told before it starts.  Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import asdict, frozen


@frozen
class Orders:
    """All that a worker needs to know; JSON on its way, so that either side may be of
    a newer version than the other.

    Attributes:
        product: which one it runs.
        number: which of the workers of this product it is, from 1.
        workers: how many there are.
        configuration: the whole of it, as a table of a configuration file.
        listening: endpoint string, or what else is inherited → descriptor in the
            worker.
        origins: where the other products in the main process are reached, by name.
        log_file: where the log goes when the configuration names no file.
        calls: what operators have asked of those before it that still holds, as names
            and arguments.
        cluster: the blob cluster file, as the main process has read it.
        main: the main process's id.
    """

    product: str
    number: int
    workers: int
    configuration: Mapping[str, Any]
    listening: Mapping[str, int]
    origins: Mapping[str, str]
    log_file: str = ""
    calls: Sequence[tuple[str, Sequence[Any]]] = ()
    cluster: str = ""
    main: int = 0

    def encode(self) -> bytes:
        """Return them as they are sent."""
        return json.dumps(asdict(self, recurse=False)).encode("ascii")

    @classmethod
    def decode(cls, raw: bytes) -> Orders:
        """Read what `encode` made; what this version does not know is left out."""
        told = json.loads(raw)
        calls = tuple((name, arguments) for name, arguments in told.pop("calls", ()))
        known = {name: told[name] for name in cls.__annotations__ if name in told}
        return cls(**known, calls=calls)
