"""The last minutes: what the charts of the console begin with.

Every two seconds the counters that are drawn are written down.  They only ever grow,
but for those of a product whose workers were replaced: whoever draws them makes rates
of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from attrs import define, field

PERIOD_SECONDS: Final = 2.0
MOST_MOMENTS: Final = 150

Totals = Mapping[str, Mapping[str, int]]
"""Numbers by what they are called, by product."""


def totals(reports: Mapping[str, Mapping[str, Any]]) -> Totals:
    """Return what is drawn of the products' reports."""
    return {
        name: drawn(reports[name]) for name, drawn in _DRAWN.items() if name in reports
    }


def _of_proxy(report: Mapping[str, Any]) -> Mapping[str, int]:
    cache = report.get("modules", {}).get("DirectCache", {})
    return {
        "all": report.get("requests", 0),
        "hits": cache.get("hits", 0),
        "misses": cache.get("miss", 0) + cache.get("stale", 0),
    }


def _of_blob(report: Mapping[str, Any]) -> Mapping[str, int]:
    events = report.get("events", {})
    kinds = {"reads": "get", "writes": "put", "deletes": "delete"}
    return {word: events.get(kind, {}).get("total", 0) for word, kind in kinds.items()}


def _of_image(report: Mapping[str, Any]) -> Mapping[str, int]:
    kinds = report.get("kinds", {})
    words = {"uploads": "upload", "on demand": "demand"}
    return {
        word: kinds.get(kind, {}).get("rendered", 0) for word, kind in words.items()
    }


_DRAWN: Final = {"proxy": _of_proxy, "blob": _of_blob, "image": _of_image}


@define(eq=False)
class History:
    """Remembers the last five minutes.

    Args:
        reports: returns the products' reports by name.
        now: returns seconds.
    """

    _reports: Callable[[], Mapping[str, Mapping[str, Any]]]
    _now: Callable[[], float]
    _moments: deque[tuple[float, Totals]] = field(
        factory=lambda: deque(maxlen=MOST_MOMENTS), init=False
    )

    def look(self) -> None:
        """Write down how it is now; to be called every PERIOD_SECONDS."""
        self._moments.append((self._now(), totals(self._reports())))

    def told(self) -> Mapping[str, Any]:
        """Return the moments from the oldest on, as JSON-able values."""
        now = self._now()
        return {
            "period_seconds": PERIOD_SECONDS,
            "moments": [
                {"seconds_ago": round(now - at, 3), "totals": known}
                for at, known in self._moments
            ],
        }
