"""`clinfra proxy …`: look at the proxy's rules from the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module
from typing import Any

from clinfra.config import ProxyConfig
from clinfra.proxy.explaining import Question, Rehearse, explain
from clinfra.proxy.loading import BUILT_IN
from clinfra.web.headers import is_token
from clinfra.web.heads import BadHead, Field


def add_check(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
) -> argparse.ArgumentParser:
    """Add `clinfra proxy check`; return its parser."""
    check = commands.add_parser(
        "check",
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
    return check


def add_modules(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
) -> argparse.ArgumentParser:
    """Add `clinfra proxy modules`; return its parser."""
    modules = commands.add_parser(
        "modules", help="print what the built-in rule modules are told, with defaults"
    )
    modules.add_argument("name", metavar="NAME", nargs="*", choices=[[], *BUILT_IN])
    return modules


def describe(name: str, reference: Callable[[str, Any], str]) -> str:
    """Return what a built-in module is for and what it is told.

    Args:
        reference: returns the options of a module as they stand in a file.
    """
    module = import_module(BUILT_IN[name])
    about = (module.__doc__ or "").partition("\n\n")[0].replace("\n", " ")
    options = getattr(getattr(module, name), "Config", None)
    return f"# {about}\n{reference(name, options)}"


def check(
    arguments: argparse.Namespace, config: ProxyConfig, rehearse: Rehearse
) -> int:
    """Print what would happen; return the exit status.

    Raises errors.ConfigProblems.
    """
    question = Question(
        arguments.url,
        arguments.method.upper(),
        tuple(arguments.header),
        arguments.client,
        arguments.status,
        tuple(arguments.answer),
    )
    try:
        for line in explain(rehearse, config, question):
            print(line)
    except BadHead as bad:
        print(f"answered {bad.status} before any rule: {bad.sentence}")
    except ValueError as error:
        print(f"clinfra: {error}")
        return 1
    return 0


def _field(text: str) -> Field:
    name, colon, value = text.partition(":")
    raw = name.encode("latin-1", "replace")
    if not colon or not is_token(raw) or set(value) & set("\r\n\0"):
        raise argparse.ArgumentTypeError("what is needed is 'NAME: VALUE'")
    return raw, value.strip().encode("latin-1", "replace")
