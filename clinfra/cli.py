"""The `clinfra` command: what one does beside running `twistd clinfra`.

`clinfra check` says whether a configuration is good, `clinfra config` prints the
reference, `clinfra blob rebuild-index` makes the blob store's index anew, `clinfra blob
cluster` runs a whole cluster to try (`blob.playground`), and the other `clinfra blob`
commands work with a running store (`blob.command_line`); `clinfra image sign` signs
addresses of pictures; `clinfra proxy check URL` says what the proxy's rules make of a
request, `clinfra proxy modules` what they can be told.  Exit status: 0 done, 1 refused
(with one line per reason on standard error), 2 bad usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from clinfra import config
from clinfra.errors import ConfigProblems, StartupFailed
from clinfra.reference import module_reference, reference
from clinfra.schema import parse_seconds
from clinfra.settings import load


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="clinfra",
        description="Blob store, image service and caching reverse proxy.",
        epilog="The services themselves are run by: twistd -n clinfra",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    check = commands.add_parser("check", help="say whether a configuration is good")
    _add_configuration(check)
    check.set_defaults(run=_check)

    show = commands.add_parser("config", help="print every key with its default")
    show.set_defaults(run=_show_reference)

    from clinfra.blob.command_line import EXIT_STATUS, add_commands
    from clinfra.blob.playground import add_command

    blob = commands.add_parser(
        "blob", help="work with a blob store", epilog=EXIT_STATUS
    )
    blob_commands = blob.add_subparsers(required=True, metavar="COMMAND")
    add_commands(blob_commands)
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
    rebuild.set_defaults(run=_rebuild_index)

    from clinfra.proxy.command_line import add_check, add_modules

    proxy = commands.add_parser("proxy", help="look at the proxy's rules")
    proxy_commands = proxy.add_subparsers(required=True, metavar="COMMAND")
    add_modules(proxy_commands).set_defaults(run=_show_modules)
    explain = add_check(proxy_commands)
    _add_configuration(explain)
    explain.set_defaults(run=_explain)

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


def _sign(arguments: argparse.Namespace) -> int:
    from clinfra.image.command_sign import run

    return run(arguments, load(arguments.config, assignments=arguments.set))


def _show_modules(arguments: argparse.Namespace) -> None:
    from clinfra.proxy.command_line import describe
    from clinfra.proxy.loading import BUILT_IN

    names = arguments.name or BUILT_IN
    print("\n".join(describe(name, module_reference) for name in names), end="")


def _explain(arguments: argparse.Namespace) -> int:
    from clinfra.proxy.command_line import check
    from clinfra.tap import rehearse_proxy

    whole = load(arguments.config, assignments=arguments.set)
    section = whole.proxy
    if section is None:
        raise ConfigProblems(["proxy: there is no such section"])
    return check(arguments, section, partial(rehearse_proxy, section))


def _check(arguments: argparse.Namespace) -> None:
    from clinfra.tap import check

    load(arguments.config, assignments=arguments.set, check=check)
    print("The configuration is good.")


def _show_reference(arguments: argparse.Namespace) -> None:
    print(reference(), end="")


def _rebuild_index(arguments: argparse.Namespace) -> None:
    from clinfra.blob.rebuild import rebuild_index

    print(rebuild_index(arguments.data_dir))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    from clinfra.image.command_line import with_command

    typed = sys.argv[1:] if argv is None else argv
    arguments = _make_parser().parse_args(with_command(typed))
    try:
        return arguments.run(arguments) or 0
    except (ConfigProblems, StartupFailed) as error:
        print(error, file=sys.stderr)
        return 1
