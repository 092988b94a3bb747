"""`clinfra status`, `top`, `doctor`, `bench` and `completion`: what may be typed.

What does the work is imported when it is wanted.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from clinfra.config import Config
from clinfra.shell.asking import (
    DEFAULT_ADMIN,
    TOKEN_VARIABLE,
    URL_VARIABLE,
    Admin,
    Refused,
    Unreached,
    find_admin,
)
from clinfra.shell.words import plain
from clinfra.web.headers import is_token
from clinfra.web.heads import Field

EXIT_STATUS = (
    "Exit status: 0 all is well; 1 something is wrong; 2 bad usage; 4 nobody could be"
    " reached; 130 interrupted."
)
UNREACHED = 4

Commands = argparse._SubParsersAction
Question = Mapping[str, Any]
Read = Callable[[argparse.Namespace], Config]
"""Reads the configuration that a command line names; raises ConfigProblems."""


def add_commands(
    commands: Commands[argparse.ArgumentParser],
    add_configuration: Callable[[argparse.ArgumentParser], None],
    read: Read,
    parser: Callable[[], argparse.ArgumentParser],
) -> None:
    """Add the commands to `clinfra`.

    Args:
        add_configuration: adds the options that name a configuration.
        parser: returns the whole command line, to complete.
    """
    status = _add(commands, "status", "tell how a running clinfra is")
    status.add_argument(
        "--watch",
        metavar="SECONDS",
        nargs="?",
        type=_seconds,
        const=2.0,
        help="again and again, so far apart (default: %(const)g)",
    )
    _add_admin(status, add_configuration)
    status.set_defaults(run=lambda arguments: _status(arguments, read))

    top = _add(commands, "top", "show what a running clinfra is busy with")
    top.add_argument("--once", action="store_true", help="one page, then end")
    top.add_argument(
        "--interval",
        metavar="SECONDS",
        type=_seconds,
        default=2.0,
        help="between two pages (default: %(default)g)",
    )
    _add_admin(top, add_configuration)
    top.set_defaults(run=lambda arguments: _top(arguments, read))

    doctor = _add(commands, "doctor", "tell what is wrong and what to do about it")
    doctor.add_argument("--all", action="store_true", help="tell what is good, too")
    doctor.add_argument(
        "--data-dir", metavar="DIR", help="as twistd clinfra was given it"
    )
    _add_admin(doctor, add_configuration)
    doctor.set_defaults(run=lambda arguments: _doctor(arguments, read))

    _add_bench(commands)

    completing = _add(commands, "completion", "print a script that completes commands")
    completing.add_argument("shell", choices=("bash", "zsh", "fish"))
    completing.set_defaults(run=lambda arguments: _completion(arguments, parser))


def _add(
    commands: Commands[argparse.ArgumentParser], name: str, text: str
) -> argparse.ArgumentParser:
    description = text[0].upper() + text[1:] + "."
    return commands.add_parser(
        name, help=text, description=description, epilog=EXIT_STATUS
    )


def _add_admin(
    parser: argparse.ArgumentParser,
    add_configuration: Callable[[argparse.ArgumentParser], None],
) -> None:
    parser.add_argument("--json", action="store_true", help="answer in JSON")
    parser.add_argument(
        "--admin",
        metavar="URL",
        help="the admin listener, http://HOST:PORT or unix:/PATH (default: the"
        f" configuration's, the environment's {URL_VARIABLE}, {DEFAULT_ADMIN}); its"
        f" token may be in {TOKEN_VARIABLE}",
    )
    _add_timeout(parser)
    add_configuration(parser)


def _add_timeout(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_seconds,
        default=10.0,
        help="longest silence of a server (default: %(default)g)",
    )


def add_running(parser: argparse.ArgumentParser) -> None:
    """Add to `clinfra explain` what has it ask a proxy that runs."""
    parser.add_argument(
        "--admin",
        metavar="URL",
        help="ask the proxy that runs behind this admin listener, not a configuration;"
        f" its token may be in {TOKEN_VARIABLE}",
    )
    _add_timeout(parser)


def explain_running(arguments: argparse.Namespace, question: Question) -> int:
    """Print what a proxy that runs makes of a request; return the exit status."""
    try:
        admin = find_admin(arguments.admin, None, arguments.timeout)
        lines = admin.explain(question)
    except Unreached as unreached:
        return _told(unreached)
    except Refused as refused:
        print(f"clinfra: {refused}", file=sys.stderr)
        return 1
    if arguments.json:
        told = {"method": question["method"], "url": question["url"], "lines": lines}
        print(json.dumps(told, indent=1, ensure_ascii=False))
    else:
        print("\n".join(map(plain, lines)))
    return 0


def _add_bench(commands: Commands[argparse.ArgumentParser]) -> None:
    bench = _add(commands, "bench", "measure an HTTP server, clinfra or any other")
    bench.description = (
        "Ask for a URL over and over, each connection as soon as it has its answer; or"
        " put bytes there. Below a URL that ends with / each PUT has a name of its own:"
        " blobs go to http://HOST:8081/?ttl=60, pictures to http://HOST:8082/?ttl=60."
    )
    bench.add_argument("url", metavar="URL")
    what = bench.add_mutually_exclusive_group()
    what.add_argument(
        "--put-bytes", metavar="N", type=_count, help="PUT so many bytes, at random"
    )
    what.add_argument("--put-file", metavar="FILE", type=Path, help="PUT this file")
    bench.add_argument(
        "-c",
        "--connections",
        metavar="C",
        type=_count,
        default=16,
        help="requests at a time (default: %(default)s)",
    )
    bench.add_argument(
        "-s",
        "--seconds",
        metavar="S",
        type=_seconds,
        default=5.0,
        help="for so long (default: %(default)g)",
    )
    bench.add_argument(
        "--header",
        metavar="'NAME: VALUE'",
        action="append",
        default=[],
        type=_field,
        help="a further field; repeatable",
    )
    bench.add_argument("--json", action="store_true", help="answer in JSON")
    _add_timeout(bench)
    bench.set_defaults(run=_bench)


def _status(arguments: argparse.Namespace, read: Read) -> int:
    from clinfra.shell.watching import run_status

    try:
        return run_status(arguments, _admin(arguments, read))
    except Unreached as unreached:
        return _told(unreached)


def _top(arguments: argparse.Namespace, read: Read) -> int:
    from clinfra.shell.watching import run_top

    try:
        return run_top(arguments, _admin(arguments, read))
    except Unreached as unreached:
        return _told(unreached)


def _admin(arguments: argparse.Namespace, read: Read) -> Admin:
    named = bool(arguments.config or arguments.set)
    configuration = read(arguments) if named else None
    return find_admin(arguments.admin, configuration, arguments.timeout)


def _told(unreached: Unreached) -> int:
    print(f"clinfra: {unreached}", file=sys.stderr)
    return UNREACHED


def _doctor(arguments: argparse.Namespace, read: Read) -> int:
    from clinfra.shell.doctor import run_doctor

    return run_doctor(arguments, lambda: read(arguments))


def _bench(arguments: argparse.Namespace) -> int:
    from clinfra.shell.bench import run_bench

    return run_bench(arguments)


def _completion(
    arguments: argparse.Namespace, parser: Callable[[], argparse.ArgumentParser]
) -> None:
    from clinfra.shell.completion import completion

    print(completion(parser(), arguments.shell))


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.01 <= seconds <= 1e6:
        raise argparse.ArgumentTypeError("not a number of seconds from 0.01 up")
    return seconds


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= 1 << 30):
        raise argparse.ArgumentTypeError("not a number from 1 up")
    return int(text)


def _field(text: str) -> Field:
    name, colon, value = text.partition(":")
    raw = name.encode("latin-1", "replace")
    if not colon or not is_token(raw) or set(value) & set("\r\n\0"):
        raise argparse.ArgumentTypeError("what is needed is 'NAME: VALUE'")
    return raw, value.strip().encode("latin-1", "replace")
