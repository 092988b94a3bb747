"""What /status tells, as a page for a terminal.  Pure.

Reports differ from version to version: what is missing is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from clinfra.shell.words import amount, columns, duration, plain, plural

Told = Mapping[str, Any]
"""A JSON object."""

_MOST = 1e18
_MEMBER_HEAD = (
    *("    pool", "origin", "state", "confidence"),
    *("requests", "failed", "under way"),
)
_NUMBERS = frozenset((3, 4, 5, 6))


def status_lines(status: Told, unready: Sequence[str] = ()) -> list[str]:
    """Return the page: a line for the process, then a few for each product.

    Args:
        unready: why it cannot serve.
    """
    lines = [headline(status, unready)]
    lines += [f"  {plain(reason)}" for reason in unready]
    products = table_of(status, "products")
    listeners = table_of(status, "listeners")
    for name in ("proxy", "image", "blob"):
        if name in products:
            report = table_of(products, name)
            lines += ["", *_product(name, report, table_of(listeners, name))]
    return lines


def headline(status: Told, unready: Sequence[str]) -> str:
    """Return what runs, for how long, and how it is."""
    version = plain(status.get("version", "?"))
    state = plain(status.get("state", "?"))
    uptime = duration(number(status, "uptime_seconds"))
    ready = "not ready" if unready else "ready"
    if state != "running":
        ready = state
    return f"clinfra {version}  up {uptime}  {ready}"


def _product(name: str, report: Told, listener: Told) -> Iterator[str]:
    parts = []
    counting = report if "requests" in report else listener
    if "requests" in counting:
        parts.append(plural(whole(counting, "requests"), "request"))
    if "active" in report:
        parts.append(f"{whole(report, 'active')} under way")
    if listener:
        most = whole(listener, "most_connections")
        parts.append(f"{whole(listener, 'connections')} of {most} connections")
    if crew := table_of(report, "crew"):
        parts.append(
            f"{whole(crew, 'ready')} of {plural(whole(crew, 'wanted'), 'worker')} ready"
        )
        if falls := whole(crew, "falls"):
            parts.append(f"{plural(falls, 'fall')}")
    yield f"{name:7}{', '.join(parts) or 'runs'}"
    refused = table_of(listener, "refused")
    if refused:
        told = ", ".join(f"{plain(why)}: {count}" for why, count in refused.items())
        yield f"  refused      {told}"
    yield from _PAGES[name](report)


def _proxy(report: Told) -> Iterator[str]:
    modules = table_of(report, "modules")
    if cache := table_of(modules, "DirectCache"):
        size = amount(number(cache, "bytes"))
        most = amount(number(cache, "max_bytes"))
        yield (
            f"  cache        {plural(whole(cache, 'entries'), 'page')}, {size} of"
            f" {most}, {plural(whole(cache, 'hits'), 'hit')},"
            f" {whole(cache, 'evicted')} evicted"
        )
        for node, here in table_of(cache, "memcached").items():
            yield f"  memcached    {plain(node)} {'answers' if here else 'is away'}"
    if spool := table_of(report, "spool"):
        yield (
            f"  spool        {amount(number(spool, 'bytes'))} of"
            f" {amount(number(spool, 'max_bytes'))} in"
            f" {plural(whole(spool, 'files'), 'file')}"
        )
    rows = [
        ("    " + plain(pool), *_member(name, member))
        for pool, name, member in members(report)
    ]
    if rows:
        yield from columns([_MEMBER_HEAD, *rows], right=_NUMBERS)


def members(report: Told) -> Iterator[tuple[str, str, Told]]:
    """Yield pool, name and report of each origin that a proxy knows."""
    forwarder = table_of(table_of(report, "modules"), "Forwarder")
    for pool, about in table_of(forwarder, "pools").items():
        if isinstance(about, Mapping):
            for name in table_of(about, "members"):
                yield pool, name, table_of(table_of(about, "members"), name)


def _member(name: str, member: Told) -> Sequence[str]:
    return (
        plain(name),
        plain(member.get("state", "?")),
        f"{number(member, 'confidence'):.2f}",
        str(whole(member, "requests")),
        str(whole(member, "failed_requests")),
        str(whole(member, "under_way")),
    )


def _image(report: Told) -> Iterator[str]:
    yield (
        f"  made         {whole(report, 'rendered')} rendered, {whole(report, 'bad')}"
        f" unreadable, {whole(report, 'refused')} refused,"
        f" {whole(report, 'timed_out')} timed out"
    )
    yield (
        f"  makers       {whole(report, 'busy')} of {whole(report, 'workers')} busy,"
        f" {whole(report, 'waiting')} waiting, {whole(report, 'died')} died"
    )


def _blob(report: Told) -> Iterator[str]:
    place = table_of(report, "store_disk")
    if place:
        free, total = number(place, "free_space"), number(place, "total_space")
        yield (
            f"  store        {plain(place.get('path', ''))}: {amount(free)} free of"
            f" {amount(total)}"
        )
    scrub = table_of(report, "scrub")
    if scrub:
        yield (
            f"  scrub        {whole(scrub, 'checked')} checked,"
            f" {whole(scrub, 'damaged')} damaged, {whole(scrub, 'healed')} healed,"
            f" {whole(scrub, 'quarantined')} in quarantine"
        )
    handoff = table_of(report, "handoff")
    if whole(handoff, "waiting") or whole(handoff, "aside"):
        oldest = duration(number(handoff, "oldest_seconds"))
        yield (
            f"  handoff      {whole(handoff, 'waiting')} waiting for replicas, the"
            f" oldest for {oldest}; {whole(handoff, 'aside')} refused by them"
        )
    for name, about in table_of(report, "replicas").items():
        if isinstance(about, Mapping):
            yield f"  replica      {plain(name)}: {_standing(about)}"


def _standing(about: Told) -> str:
    """Return how another replica is, as far as this one knows."""
    lacks = plural(whole(about, "events"), "change")
    if "last_failed" in about:
        failed = duration(number(about, "last_failed"))
        return f"lacks {lacks}, failed {failed} ago"
    return f"lacks {lacks}"


_PAGES = {"proxy": _proxy, "image": _image, "blob": _blob}


def table_of(told: Told, name: str) -> Told:
    """Return an object in a report; an empty one when it is not there."""
    value = told.get(name)
    return value if isinstance(value, Mapping) else {}


def number(told: Told, name: str) -> float:
    """Return a number in a report; 0 when it is not there."""
    value = told.get(name)
    if isinstance(value, int | float) and -_MOST < value < _MOST:
        return float(value)
    return 0.0


def whole(told: Told, name: str) -> int:
    """Return a count in a report; 0 when it is not there."""
    return int(number(told, name))
