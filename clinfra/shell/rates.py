"""Two answers of /status, and what happened between them.  Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import frozen

from clinfra.shell.status_page import Told, headline, members, number, table_of, whole
from clinfra.shell.words import amount, columns, plain, rate

_HEAD = ("", "requests/s", "connections", "under way", "")
_MEMBER_HEAD = ("origin", "requests/s", "failed/s", "under way", "state", "confidence")


@frozen
class Look:
    """What /status told at one moment.

    Attributes:
        at: seconds of a clock that only goes forward.
        unready: why the process cannot serve.
    """

    at: float
    status: Told
    unready: Sequence[str] = ()


@frozen
class Change:
    """What happened from one look to a later one."""

    before: Look
    after: Look

    def rate(self, *path: str) -> float:
        """Return by how much a count in /status grew, per second.

        A count that fell was begun anew: then it grew from nothing.
        """
        seconds = self.after.at - self.before.at
        earlier, later = (_count(look.status, path) for look in self)
        grown = later - earlier if later >= earlier else later
        return grown / seconds if seconds > 0 else 0.0

    def __iter__(self) -> Any:
        return iter((self.before, self.after))

    def requests(self, product: str) -> float:
        """Return requests per second of a product, its workers' too."""
        if "requests" in table_of(_products(self.after), product):
            return self.rate("products", product, "requests")
        return self.rate("listeners", product, "requests")

    def hit_share(self) -> float | None:
        """Return the part of the proxy's requests that was in memory; None of none."""
        requests = self.requests("proxy")
        hits = self.rate("products", "proxy", "modules", "DirectCache", "hits")
        return min(1.0, hits / requests) if requests else None


def _count(status: Told, path: Sequence[str]) -> float:
    """Return a count of /status, with what workers that have ended had counted."""
    kind, name, *inner = path
    report = table_of(table_of(status, "products"), name)
    bygone = table_of(table_of(report, "crew"), "bygone")
    if kind == "listeners":
        inner = ["listener", *inner]
    return _number_at(status, path) + _number_at(bygone, inner)


def _number_at(told: Told, path: Sequence[str]) -> float:
    for name in path[:-1]:
        told = table_of(told, name)
    return number(told, path[-1])


def _products(look: Look) -> Told:
    return table_of(look.status, "products")


def top_lines(change: Change, clock: str) -> list[str]:
    """Return a page: what is busy now.

    Args:
        clock: the time of day, as it is shown.
    """
    after = change.after
    head = headline(after.status, after.unready)
    lines = [f"{head}  {clock}".rstrip(), *(f"  {plain(r)}" for r in after.unready), ""]
    names = [n for n in ("proxy", "image", "blob") if n in _products(after)]
    names += ["admin"] * ("admin" in table_of(after.status, "listeners"))
    rows = [_HEAD, *(_row(change, name) for name in names)]
    lines += columns(rows, right=frozenset((1, 2, 3)))
    proxy = table_of(_products(after), "proxy")
    origins = [_origin(change, pool, name, told) for pool, name, told in members(proxy)]
    if origins:
        lines.append("")
        lines += columns([_MEMBER_HEAD, *origins], right=frozenset((1, 2, 3, 5)))
    return lines


def _row(change: Change, name: str) -> Sequence[str]:
    report = table_of(_products(change.after), name)
    listener = table_of(table_of(change.after.status, "listeners"), name)
    known = "requests" in report or listener
    under_way = {"proxy": "active", "image": "busy"}.get(name, "")
    return (
        name,
        rate(change.requests(name)) if known else "",
        str(whole(listener, "connections")) if listener else "",
        str(whole(report, under_way)) if under_way in report else "",
        _about(change, name, report),
    )


def _about(change: Change, name: str, report: Told) -> str:
    """Return what else there is to know of a product now."""
    if name == "proxy":
        cache = table_of(table_of(report, "modules"), "DirectCache")
        share = change.hit_share()
        told = [] if share is None else [f"{share:.0%} in memory"]
        told.append(f"{amount(number(cache, 'bytes'))} cached")
        return ", ".join(told if cache else [])
    if name == "image":
        made = rate(change.rate("products", "image", "rendered"))
        return f"{made} made/s, {whole(report, 'waiting')} waiting"
    if name == "blob":
        kinds = [
            f"{kind} {rate(speed)}/s"
            for kind in ("get", "put", "delete")
            if (speed := change.rate("products", "blob", "events", kind, "total"))
        ]
        return ", ".join(kinds)
    return ""


def _origin(change: Change, pool: str, name: str, member: Told) -> Sequence[str]:
    where = ("products", "proxy", "modules", "Forwarder", "pools", pool, "members")
    return (
        f"{plain(pool)} {plain(name)}",
        rate(change.rate(*where, name, "requests")),
        rate(change.rate(*where, name, "failed_requests")),
        str(whole(member, "under_way")),
        plain(member.get("state", "?")),
        f"{number(member, 'confidence'):.2f}",
    )


def as_json(change: Change) -> dict[str, Any]:
    """Return the same for programs."""
    proxy = table_of(_products(change.after), "proxy")
    where = ("products", "proxy", "modules", "Forwarder", "pools")
    return {
        "seconds": round(change.after.at - change.before.at, 3),
        "unready": list(change.after.unready),
        "requests_per_second": {
            name: round(change.requests(name), 2)
            for name in table_of(change.after.status, "products")
        },
        "hit_share": change.hit_share(),
        "pictures_per_second": round(change.rate("products", "image", "rendered"), 2),
        "origins": [
            {
                "pool": pool,
                "origin": name,
                "state": member.get("state"),
                "requests_per_second": round(
                    change.rate(*where, pool, "members", name, "requests"), 2
                ),
                "failed_per_second": round(
                    change.rate(*where, pool, "members", name, "failed_requests"), 2
                ),
            }
            for pool, name, member in members(proxy)
        ],
    }
