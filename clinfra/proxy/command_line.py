"""`clinfra proxy …`: look at the proxy's rules from the command line.

The rules are imported when they are wanted: it takes a while.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from clinfra.config import ProxyConfig
from clinfra.web.headers import is_token
from clinfra.web.heads import BadHead, Field

if TYPE_CHECKING:
    from clinfra.proxy.explaining import Rehearse


def add_check(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str
) -> argparse.ArgumentParser:
    """Add `clinfra explain` or `clinfra proxy check`; return its parser."""
    check = commands.add_parser(
        name,
        help="say what would happen to a request, phase by phase",
        description="No origin and no memcached is asked: the answer is made up.",
    )
    check.add_argument("url", metavar="URL")
    check.add_argument("--method", default="GET", help="(default: %(default)s)")
    check.add_argument(
        "--header",
        metavar="'NAME: VALUE'",
        action="append",
        default=[],
        type=_field,
        help="a field of the request; repeatable",
    )
    check.add_argument(
        "--client",
        metavar="ADDRESS",
        default="127.0.0.1",
        help="who asks (default: %(default)s)",
    )
    check.add_argument(
        "--status",
        type=int,
        default=200,
        help="of the origin's answer (default: %(default)s)",
    )
    check.add_argument(
        "--answer",
        metavar="'NAME: VALUE'",
        action="append",
        default=[],
        type=_field,
        help="a field of the origin's answer; repeatable",
    )
    check.add_argument("--json", action="store_true", help="answer in JSON")
    return check


def add_modules(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
) -> argparse.ArgumentParser:
    """Add `clinfra proxy modules`; return its parser."""
    modules = commands.add_parser(
        "modules", help="print what the built-in rule modules are told, with defaults"
    )
    modules.add_argument("name", metavar="NAME", nargs="*", type=_built_in)
    modules.add_argument("--json", action="store_true", help="answer in JSON")
    return modules


def describe(name: str, reference: Callable[[str, Any], str]) -> str:
    """Return what a built-in module is for and what it is told.

    Args:
        reference: returns the options of a module as they stand in a file.
    """
    return f"# {about(name)}\n{reference(name, options(name))}"


def about(name: str) -> str:
    """Return what a built-in module is for."""
    doc = _module(name).__doc__ or ""
    return doc.partition("\n\n")[0].replace("\n", " ")


def options(name: str) -> type | None:
    """Return the class of what a built-in module is told; None when that is nothing."""
    config: type | None = getattr(getattr(_module(name), name), "Config", None)
    return config


def _module(name: str) -> ModuleType:
    from clinfra.proxy.loading import BUILT_IN

    return import_module(BUILT_IN[name])


def check(
    arguments: argparse.Namespace, config: ProxyConfig, rehearse: Rehearse
) -> int:
    """Print what would happen; return the exit status.

    Raises errors.ConfigProblems.
    """
    from clinfra.proxy.explaining import Question, explain

    question = Question(
        arguments.url,
        arguments.method.upper(),
        tuple(arguments.header),
        arguments.client,
        arguments.status,
        tuple(arguments.answer),
    )
    lines = []
    try:
        for line in explain(rehearse, config, question):
            lines.append(line)
            if not arguments.json:
                print(line)
    except BadHead as bad:
        lines.append(f"answered {bad.status} before any rule: {bad.sentence}")
        if not arguments.json:
            print(lines[-1])
    except ValueError as error:
        print(f"clinfra: {error}", file=sys.stderr)
        return 2
    if arguments.json:
        told = {"method": question.method, "url": question.url, "lines": lines}
        print(json.dumps(told, indent=1, ensure_ascii=False))
    return 0


def question(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what a command line asks, as the admin listener is asked it."""
    return {
        "url": arguments.url,
        "method": arguments.method.upper(),
        "client": arguments.client,
        "fields": [_line(each) for each in arguments.header],
        "status": arguments.status,
        "answer": [_line(each) for each in arguments.answer],
    }


def _line(pair: Field) -> str:
    return b": ".join(pair).decode("latin-1")


def _built_in(name: str) -> str:
    from clinfra.proxy.loading import BUILT_IN

    if name not in BUILT_IN:
        raise argparse.ArgumentTypeError(f"none of {', '.join(BUILT_IN)}")
    return name


def _field(text: str) -> Field:
    name, colon, value = text.partition(":")
    raw = name.encode("latin-1", "replace")
    if not colon or not is_token(raw) or set(value) & set("\r\n\0"):
        raise argparse.ArgumentTypeError("what is needed is 'NAME: VALUE'")
    return raw, value.strip().encode("latin-1", "replace")
