"""The `clinfra` command: what one does beside running `twistd clinfra`.

`check` says whether a configuration is good, `config` prints the reference, `explain`
what the proxy's rules make of a request; `status`, `top`, `doctor`, `bench` and
`completion` are in `shell`.  `clinfra blob rebuild-index` makes the blob store's index
anew, `clinfra blob cluster` runs a whole cluster to try (`blob.playground`), and the
other `clinfra blob` commands work with a running store (`blob.command_line`); `clinfra
image` works with pictures; `clinfra proxy check URL` is `explain`, `clinfra proxy
modules` tells what rule modules can be told.

Exit status: 0 done, and all is well; 1 refused, or something is wrong (with one line
per reason on standard error); 2 bad usage; 3 there is no such blob; 4 nobody could be
reached; 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import attrs

from clinfra import config
from clinfra.errors import ConfigProblems, StartupFailed
from clinfra.reference import Key, keys, module_reference, reference
from clinfra.schema import parse_seconds
from clinfra.settings import load

INTERRUPTED = 130
EXIT_STATUS = (
    "Exit status: 0 all is well; 1 something is wrong, or was refused; 2 bad usage; 3"
    " no such blob; 4 nobody could be reached; 130 interrupted."
)


def make_parser() -> argparse.ArgumentParser:
    """Return the whole command line."""
    parser = argparse.ArgumentParser(
        prog="clinfra",
        description="Blob store, image service and caching reverse proxy.",
        epilog=f"The services themselves are run by: twistd -n clinfra. {EXIT_STATUS}",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    check = commands.add_parser("check", help="say whether a configuration is good")
    _add_configuration(check)
    _add_json(check)
    check.set_defaults(run=_check)

    show = commands.add_parser("config", help="print every key with its default")
    _add_json(show)
    show.set_defaults(run=_show_reference)

    from clinfra.proxy.command_line import add_check, add_modules

    explain = add_check(commands, "explain")
    _add_configuration(explain)
    explain.set_defaults(run=_explain)

    from clinfra.shell import command_line as shell_command_line

    shell_command_line.add_running(explain)
    shell_command_line.add_commands(commands, _add_configuration, _read, make_parser)

    from clinfra.blob import command_line as blob_command_line
    from clinfra.blob.playground import add_command

    blob = commands.add_parser(
        "blob", help="work with a blob store", epilog=blob_command_line.EXIT_STATUS
    )
    blob_commands = blob.add_subparsers(required=True, metavar="COMMAND")
    blob_command_line.add_commands(blob_commands)
    add_command(blob_commands)
    rebuild = blob_commands.add_parser(
        "rebuild-index", help="make a stopped store's index anew from its volumes"
    )
    rebuild.add_argument(
        "--data-dir",
        metavar="DIR",
        type=Path,
        default=Path(config.Config().data_dir),
        help="the data directory of the stopped process (default: %(default)s)",
    )
    _add_json(rebuild)
    rebuild.set_defaults(run=_rebuild_index)

    proxy = commands.add_parser("proxy", help="look at the proxy's rules")
    proxy_commands = proxy.add_subparsers(required=True, metavar="COMMAND")
    add_modules(proxy_commands).set_defaults(run=_show_modules)
    proxy_check = add_check(proxy_commands, "check")
    _add_configuration(proxy_check)
    proxy_check.set_defaults(run=_explain)

    from clinfra.image import command_line, command_sign

    image = commands.add_parser(
        "image",
        help="work with pictures",
        description="clinfra image FILE… stands for: clinfra image render FILE…",
    )
    image_commands = image.add_subparsers(required=True, metavar="COMMAND")
    command_line.add_commands(image_commands)
    sign = image_commands.add_parser("sign", help="print a signed address of a picture")
    command_sign.add_arguments(sign, parse_seconds)
    _add_json(sign)
    _add_configuration(sign)
    sign.set_defaults(run=_sign)
    return parser


def _add_configuration(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        metavar="FILE|DIR",
        action="append",
        default=[],
        type=Path,
        help="configuration, or a directory of *.toml; repeatable",
    )
    parser.add_argument(
        "--set",
        metavar="SECTION.KEY=VALUE",
        action="append",
        default=[],
        help="one value on top of the files; repeatable",
    )


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="answer in JSON")


def _read(arguments: argparse.Namespace) -> config.Config:
    """Read and check the configuration of a command line.  Raises ConfigProblems."""
    from clinfra.tap import check

    return load(
        arguments.config,
        assignments=arguments.set,
        data_dir=getattr(arguments, "data_dir", None),
        check=check,
    )


def _sign(arguments: argparse.Namespace) -> int:
    from clinfra.image.command_sign import run

    return run(arguments, load(arguments.config, assignments=arguments.set))


def _show_modules(arguments: argparse.Namespace) -> None:
    from clinfra.proxy.command_line import about, describe, options
    from clinfra.proxy.loading import BUILT_IN

    names = arguments.name or BUILT_IN
    if not arguments.json:
        print("\n".join(describe(name, module_reference) for name in names), end="")
        return
    told = {
        name: {
            "about": about(name),
            "options": [attrs.asdict(each) for each in _keys_of(options(name))],
        }
        for name in names
    }
    print(json.dumps(told, indent=1, ensure_ascii=False))


def _keys_of(cls: type | None) -> Iterable[Key]:
    return () if cls is None else keys(cls)


def _explain(arguments: argparse.Namespace) -> int:
    from clinfra.proxy.command_line import check, question

    if getattr(arguments, "admin", None) is not None:
        from clinfra.shell.command_line import explain_running

        return explain_running(arguments, question(arguments))
    from clinfra.tap import rehearse_proxy

    whole = load(arguments.config, assignments=arguments.set)
    section = whole.proxy
    if section is None:
        raise ConfigProblems(["proxy: there is no such section"])
    return check(arguments, section, partial(rehearse_proxy, section))


def _check(arguments: argparse.Namespace) -> int:
    problems: Sequence[str] = ()
    try:
        _read(arguments)
    except ConfigProblems as found:
        if not arguments.json:
            raise
        problems = found.problems
    if arguments.json:
        print(json.dumps({"good": not problems, "problems": list(problems)}))
    else:
        print("The configuration is good.")
    return 1 if problems else 0


def _show_reference(arguments: argparse.Namespace) -> None:
    if arguments.json:
        told = [attrs.asdict(each) for each in keys()]
        print(json.dumps(told, indent=1, ensure_ascii=False))
    else:
        print(reference(), end="")


def _rebuild_index(arguments: argparse.Namespace) -> None:
    from clinfra.blob.rebuild import rebuild_index

    terminal = sys.stderr if sys.stderr.isatty() else None
    rebuilt = rebuild_index(arguments.data_dir, terminal)
    print(json.dumps(rebuilt.told()) if arguments.json else rebuilt)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    from clinfra.image.command_line import with_command

    typed = sys.argv[1:] if argv is None else argv
    arguments = make_parser().parse_args(with_command(typed))
    try:
        status = arguments.run(arguments) or 0
        sys.stdout.flush()
        return int(status)
    except (ConfigProblems, StartupFailed) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever reads has seen enough; nothing is to be flushed to it at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
