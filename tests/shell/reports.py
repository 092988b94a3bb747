"""What /status may tell, for tests."""

from __future__ import annotations

from typing import Any

MEMBER = {
    "state": "up",
    "confidence": 1.0,
    "requests": 40,
    "failed_requests": 2,
    "under_way": 1,
}


def status(**products: Any) -> dict[str, Any]:
    """Return a status of these products."""
    listener = {"connections": 3, "most_connections": 100, "requests": 50}
    return {
        "version": "1.0",
        "state": "running",
        "uptime_seconds": 3700.0,
        "listeners": {name: dict(listener) for name in products},
        "products": products,
    }


def proxy(**member: Any) -> dict[str, Any]:
    """Return a proxy's report with a member that differs so from the usual one."""
    return {
        "requests": 50,
        "active": 1,
        "modules": {
            "DirectCache": {
                "entries": 2,
                "bytes": 2048,
                "max_bytes": 4096,
                "hits": 25,
                "evicted": 0,
                "memcached": {"10.0.0.1:11211": True},
            },
            "Forwarder": {
                "pools": {"web": {"members": {"10.0.0.2:80": {**MEMBER, **member}}}}
            },
        },
    }
