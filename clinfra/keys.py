"""What keys of the configuration are made of: their kinds, bounds and sentences.

Everybody takes these from `config`.
"""

from __future__ import annotations

from typing import Any, NewType

import attrs
from attrs import frozen

Seconds = NewType("Seconds", float)
"""A duration; in files a number of seconds or text: "500ms", "30s", "2h", "7d"."""

Bytes = NewType("Bytes", int)
"""A size; in files a number of bytes or text such as "16KiB", "1GiB", "2MB"."""

Pattern = NewType("Pattern", str)
"""A regular expression (see `patterns`), compiled when the configuration is read."""

Processes = NewType("Processes", int)
"""How many processes; in files a number or "auto", which is one for each core."""

Endpoint = NewType("Endpoint", str)
"""A Twisted server endpoint string, e.g. "tcp:8080:interface=127.0.0.1"."""


def key(
    default: Any,
    doc: str,
    *,
    choices: tuple[str, ...] = (),
    least: float = 0,
    most: float | None = None,
    secret: bool = False,
) -> Any:
    """Return an attrs field for one configuration key.

    Args:
        default: what holds when the key is absent; lists are given as tuples.
        doc: the one sentence of `etc/clinfra.toml`.
        choices: the only texts allowed; none means any.
        least: smallest number allowed.
        most: largest number allowed, if any.
        secret: never shown.
    """
    metadata = {"doc": doc, "choices": choices, "least": least, "most": most}
    return attrs.field(default=default, metadata=metadata, repr=not secret)


def table(factory: type[Any], doc: str) -> Any:
    """Return an attrs field for a sub-table whose class has defaults for every key."""
    return attrs.field(factory=factory, metadata={"doc": doc})


@frozen
class Limits:
    """What one listener accepts; a slow or hostile client costs no more than this."""

    head_bytes: Bytes = key(
        Bytes(16384), "Longest request line plus header fields.", least=1024
    )
    header_count: int = key(100, "Most header fields in a request.", least=1)
    body_bytes: Bytes = key(Bytes(5 << 30), "Largest request body.")
    buffer_bytes: Bytes = key(
        Bytes(262144),
        "Bytes kept in memory for a slow reader or writer, each way.",
        least=1024,
    )
    pipeline_depth: int = key(16, "Most requests waiting on one connection.", least=1)
    connections: int = key(10000, "Most client connections at a time.", least=1)
    head_timeout: Seconds = key(Seconds(20), "From first byte to end of the head.")
    body_timeout: Seconds = key(Seconds(60), "Longest silence inside a request body.")
    body_rate: Bytes = key(
        Bytes(128),
        "Bytes of a body that make good for a second of silence; 0: one does for all.",
    )
    idle_timeout: Seconds = key(Seconds(75), "Longest wait for the next request.")
    write_timeout: Seconds = key(
        Seconds(60), "Longest time a client may take no bytes of its answer."
    )
