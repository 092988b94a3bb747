"""What `clinfra doctor` reads from a process that runs.  Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from clinfra.shell.findings import Finding, advice, good, wrong
from clinfra.shell.status_page import Told, members, number, table_of, whole
from clinfra.shell.words import duration

_MANY_SECONDS = 3600
_CROWDED = 0.9

_ORIGIN_REMEDIES: Mapping[str, str] = {
    "down": "see whether it runs, and what its check asks for (proxy.pools.*.check)",
    "open": "see whether it runs: it failed several times in a row",
    "maintenance": "DELETE /maintenance/POOL/MEMBER at the admin listener when it is"
    " back",
}


def readiness(unready: Sequence[str]) -> Iterator[Finding]:
    """It can serve."""
    for reason in unready:
        yield wrong(f"not ready: {reason}", "the log says more; see the findings below")
    if not unready:
        yield good("it is ready")


def running(status: Told, installed: str) -> Iterator[Finding]:
    """Everything that /status tells of trouble."""
    version = str(status.get("version", "?"))
    if version != installed:
        yield advice(
            f"clinfra {version} runs, {installed} is installed",
            "restart it, or send SIGUSR2 to have its workers started anew",
        )
    yield from _crowded(table_of(status, "listeners"))
    products = table_of(status, "products")
    for name in ("proxy", "image", "blob"):
        if name in products:
            report = table_of(products, name)
            yield from _crew(name, table_of(report, "crew"))
            yield from _READ[name](report)


def _crowded(listeners: Told) -> Iterator[Finding]:
    for name in listeners:
        listener = table_of(listeners, name)
        used, most = whole(listener, "connections"), whole(listener, "most_connections")
        if most and used >= most * _CROWDED:
            yield wrong(
                f"{name} has {used} of {most} connections in use",
                f"raise {name}.limits.connections and the limit of open files",
            )


def _crew(name: str, crew: Told) -> Iterator[Finding]:
    ready, wanted = whole(crew, "ready"), whole(crew, "wanted")
    if crew and ready < wanted:
        yield wrong(
            f"{ready} of {wanted} workers of {name} are ready",
            "the log says why the others ended; they are started again",
        )
    if falls := whole(crew, "falls"):
        yield advice(
            f"workers of {name} have fallen {falls} times",
            "the log says how each of them ended",
        )


def _proxy(report: Told) -> Iterator[Finding]:
    modules = table_of(report, "modules")
    for node, here in table_of(table_of(modules, "DirectCache"), "memcached").items():
        if not here:
            yield wrong(
                f"the proxy does not reach memcached {node}",
                "start it, or take it out of proxy.cache.memcached",
            )
    for pool, name, member in members(report):
        state = str(member.get("state", ""))
        if state in _ORIGIN_REMEDIES:
            why = member.get("last_failure")
            told = f": {why}" if why and state != "maintenance" else ""
            finding = advice if state == "maintenance" else wrong
            yield finding(
                f"origin {name} of {pool} is {_WORDS.get(state, state)}{told}",
                _ORIGIN_REMEDIES[state],
            )
    spool = table_of(report, "spool")
    if whole(spool, "refusals"):
        yield advice(
            f"{whole(spool, 'refusals')} bodies found no room in the spool",
            "raise proxy.spool.max_bytes, or make room on its disk",
        )
    rules = table_of(report, "rules")
    for problem in rules.get("problems", ()):
        yield wrong(
            f"new rules in {rules.get('directory')} are not in use: {problem}",
            "correct the file: it is read again when it changes",
        )


_WORDS = {"open": "asked only now and then", "maintenance": "kept from being asked"}


def _image(report: Told) -> Iterator[Finding]:
    if died := whole(report, "died"):
        yield advice(
            f"{died} image workers died of a picture",
            "set image.save_bad_path to keep such pictures, and look at the log",
        )
    if report.get("simd") is False:
        yield advice(
            "pictures are scaled without SIMD, several times slower",
            "use a machine with SSE4.1, AVX2 or NEON, or another wheel of the resizer",
        )


def _blob(report: Told) -> Iterator[Finding]:
    if told := table_of(report, "clock").get("trouble"):
        yield wrong(f"clock: {told}", "set it right; run chrony or systemd-timesyncd")
    scrub = table_of(report, "scrub")
    lost = whole(scrub, "quarantined") - whole(scrub, "healed")
    if lost > 0:
        yield wrong(
            f"{lost} damaged blobs were put in quarantine and not healed",
            "clinfra blob quarantine lists them; restore them from a backup",
        )
    if whole(scrub, "damaged"):
        yield advice(
            f"{whole(scrub, 'damaged')} blobs were damaged on the disk",
            "look at the disk's own errors (smartctl, dmesg)",
        )
    handoff = table_of(report, "handoff")
    oldest = number(handoff, "oldest_seconds")
    if oldest > _MANY_SECONDS:
        yield wrong(
            f"{whole(handoff, 'waiting')} changes wait for replicas that are away, the"
            f" oldest for {duration(oldest)}",
            "bring the replicas back, or take them out of the cluster file",
        )
    if unreadable := whole(handoff, "unreadable"):
        yield wrong(
            f"{unreadable} kept changes cannot be read",
            "have the replicas compare themselves: clinfra blob sync",
        )
    for name, about in table_of(report, "replicas").items():
        if isinstance(about, Mapping) and "last_failed" in about:
            yield advice(
                f"replica {name} failed {duration(number(about, 'last_failed'))} ago",
                f"clinfra blob status {name} tells how it is",
            )
        if isinstance(about, Mapping) and whole(about, "parked"):
            yield wrong(
                f"replica {name} refused {whole(about, 'parked')} changes",
                "see its log, then: clinfra blob buffer",
            )
    if table_of(report, "rejoin").get("fenced"):
        yield wrong(
            "this replica was away for too long and serves nothing it cannot prove",
            "bring another replica of its bucket back, or: clinfra blob trust",
        )
    if table_of(report, "refill").get("filling"):
        yield advice("this replica is being filled from its peers", "wait for its end")


_READ = {"proxy": _proxy, "image": _image, "blob": _blob}
