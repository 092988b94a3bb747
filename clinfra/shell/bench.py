"""`clinfra bench URL`: how fast a server is, clinfra or any other."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
import time
from collections.abc import Iterator
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import LoopingCall, react

from clinfra.progress import BETWEEN_SECONDS, Progress
from clinfra.shell.load import BadTarget, Load, Outcome, Target, Work
from clinfra.shell.words import amount, plain, plural
from clinfra.web.pool import Pool, PoolSettings
from clinfra.web.tls import TlsSettings, tls_connector

OK, WRONG, USAGE, UNREACHED, INTERRUPTED = 0, 1, 2, 4, 130


def run_bench(arguments: argparse.Namespace) -> int:
    """Ask, and print the figures; return the exit status."""
    try:
        work = _work(arguments)
    except (BadTarget, OSError) as error:
        print(f"clinfra: {error}", file=sys.stderr)
        return USAGE
    outcomes: list[Outcome] = []
    interrupted = []

    async def main(reactor: Any) -> None:
        load = _load(arguments, work, reactor)
        outcomes.append(load.outcome)
        progress = _shown(load)
        try:
            await load.run(arguments.seconds)
        except CancelledError:
            interrupted.append(True)
        finally:
            progress.stop()
            await load.pool.close()

    def begin(reactor: Any) -> Deferred[None]:
        running = Deferred.fromCoroutine(main(reactor))
        reactor.addSystemEventTrigger("before", "shutdown", running.cancel)
        return running

    try:
        react(begin)
    except SystemExit as end:
        if end.code:
            return WRONG
    outcome = outcomes[0]
    if arguments.json:
        print(json.dumps(as_json(arguments, outcome), indent=2, ensure_ascii=False))
    else:
        print("\n".join(outcome_lines(arguments, outcome)))
    if interrupted:
        return INTERRUPTED
    if not outcome.answered:
        return UNREACHED
    return WRONG if outcome.errors else OK


def _work(arguments: argparse.Namespace) -> Work:
    """Return what a command line asks for.  Raises BadTarget, OSError."""
    body: bytes | None = None
    if arguments.put_bytes is not None:
        body = os.urandom(arguments.put_bytes)
    elif arguments.put_file is not None:
        body = arguments.put_file.read_bytes()
    return Work(
        Target.parse(arguments.url),
        body,
        tuple(arguments.header),
        b"GET" if body is None else b"PUT",
        "" if body is None else secrets.token_hex(4),
    )


def _load(arguments: argparse.Namespace, work: Work, reactor: Any) -> Load:
    connections = arguments.connections
    settings = PoolSettings(
        connect_timeout=min(3.0, arguments.timeout),
        response_timeout=arguments.timeout,
        read_timeout=arguments.timeout,
        idle_connections=connections,
        max_connections=connections,
    )
    connect = None
    if work.target.secure:
        connect = tls_connector(reactor, settings=TlsSettings())
    pool = Pool(reactor, settings, connect)
    return Load(reactor, pool, work, connections, time.perf_counter)


def _shown(load: Load) -> LoopingCall:
    """Return what shows on a terminal how it goes."""
    stream = sys.stderr if sys.stderr.isatty() else None

    def asked(number: float) -> str:
        return plural(round(number), "request")

    progress = Progress(stream, "bench", None, time.monotonic, asked)
    looking = LoopingCall(lambda: progress.tell(load.outcome.answered))
    looking.start(BETWEEN_SECONDS, now=False).addBoth(lambda _: progress.end())
    return looking


def outcome_lines(arguments: argparse.Namespace, outcome: Outcome) -> Iterator[str]:
    """Yield the figures for people."""
    what = "GET" if outcome_body(arguments) is None else "PUT"
    yield (
        f"{what} {plain(arguments.url)}, {plural(arguments.connections, 'connection')}"
        f" for {outcome.seconds:.1f} s"
    )
    if outcome.answered:
        yield from _figures(outcome)
    for sentence, count in outcome.failures.most_common(5):
        yield f"failed    {count} times: {plain(sentence)}"


def _figures(outcome: Outcome) -> Iterator[str]:
    speed = amount(outcome.body_bytes / outcome.seconds)
    yield f"rate      {outcome.per_second:.1f} requests/s, {speed}/s taken in"
    times = outcome.latencies
    told = ", ".join(
        f"{name} {milliseconds(times.percentile(share))}"
        for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))
    )
    yield f"latency   {told}, longest {milliseconds(times.longest)}"
    statuses = ", ".join(f"{n} times {s}" for s, n in sorted(outcome.statuses.items()))
    yield f"answers   {statuses}"


def outcome_body(arguments: argparse.Namespace) -> object:
    """Return what was put; None when nothing was."""
    return arguments.put_file if arguments.put_bytes is None else arguments.put_bytes


def milliseconds(seconds: float) -> str:
    """Return a time as benchmarks tell it."""
    value = seconds * 1000
    return f"{value:.2f} ms" if value < 10 else f"{value:.0f} ms"


def as_json(arguments: argparse.Namespace, outcome: Outcome) -> dict[str, Any]:
    """Return the figures for programs; times in milliseconds."""
    times = outcome.latencies
    return {
        "url": arguments.url,
        "method": "GET" if outcome_body(arguments) is None else "PUT",
        "connections": arguments.connections,
        "seconds": round(outcome.seconds, 3),
        "requests": outcome.answered,
        "requests_per_second": round(outcome.per_second, 2),
        "body_bytes": outcome.body_bytes,
        "latency_ms": {
            "mean": round(times.mean * 1000, 4),
            **{
                f"p{100 * share:g}": round(times.percentile(share) * 1000, 4)
                for share in (0.5, 0.9, 0.99, 0.999)
            },
            "longest": round(times.longest * 1000, 4),
        },
        "statuses": {str(s): n for s, n in sorted(outcome.statuses.items())},
        "failures": dict(outcome.failures),
        "errors": outcome.errors,
    }
