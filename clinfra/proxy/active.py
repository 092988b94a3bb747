"""What is told of the requests under way.

Requests that are answered from memory are over before they could be told of.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from clinfra.proxy.pipeline import Pipeline


def active(pipeline: Pipeline, now: float, most: int) -> list[Mapping[str, Any]]:
    """Return a row for each request under way, from the oldest on.

    Args:
        now: reactor seconds.
        most: rows.
    """
    return list(islice(_rows(pipeline, now), most))


def _rows(pipeline: Pipeline, now: float) -> Iterator[Mapping[str, Any]]:
    pid = os.getpid()
    for number, request in pipeline.under_way():
        exchange, relay = request.exchange, request.origin_request
        yield {
            "id": f"{pid}-{number}",
            "request": f"{request.method.decode('latin-1')} {request.host_path}",
            "milliseconds": round((now - exchange.started_at) * 1000),
            "status": exchange.status or "",
            "phase": request.place[0],
            "client": request.client_ip,
            "bytes_in": exchange.bytes_in,
            "bytes_out": exchange.bytes_out,
            "origin": request.origin,
            "origin_bytes_in": 0 if relay is None else relay.bytes_in,
            "origin_bytes_out": 0 if relay is None else relay.bytes_out,
        }
