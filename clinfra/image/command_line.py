"""`clinfra image …`: what may be typed.

What does the work is imported when it is wanted: it takes a while.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from clinfra.config import ImageConfig
from clinfra.errors import Trouble
from clinfra.image.sizes import Recipe, parse_size

EXIT_STATUS: Final = (
    "Exit status: 0 all done; 1 some failed, with a line for each on standard error;"
    " 2 bad usage; 130 interrupted."
)

_CONFIG = ImageConfig()


def add_commands(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
) -> None:
    """Add the commands to `clinfra image`."""
    render = commands.add_parser(
        "render",
        help="make sizes of pictures; may be left out",
        description="Make sizes of pictures, as the image service does.",
        epilog=EXIT_STATUS,
    )
    render.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="a picture, a directory of them, or a pattern such as 'in/**/*.jpg'",
    )
    render.add_argument(
        "--sizes",
        metavar="SIZE,…",
        type=_sizes,
        default=_sizes(",".join(_CONFIG.sizes)),
        help="sizes or recipes such as 300x300,600x450c_webp"
        f" (default: {','.join(_CONFIG.sizes)})",
    )
    render.add_argument(
        "--quality",
        metavar="1-100",
        type=_quality,
        default=_CONFIG.quality,
        help="where a size names none (default: %(default)s)",
    )
    render.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        help="where results go (default: beside their pictures)",
    )
    render.add_argument(
        "--workers",
        metavar="N",
        type=_workers,
        default=len(os.sched_getaffinity(0)),
        help="processes (default: one for each core, %(default)s)",
    )
    render.add_argument(
        "--json", action="store_true", help="tell of each picture in a line of JSON"
    )
    render.set_defaults(run=_render)

    info = commands.add_parser(
        "info",
        help="tell what is known of pictures",
        description="Print the info JSON of pictures, as the image service stores it.",
        epilog=EXIT_STATUS,
    )
    info.add_argument("files", nargs="+", metavar="FILE", help="a picture")
    info.set_defaults(run=_info)


def _render(arguments: argparse.Namespace) -> int:
    from clinfra.image.command_render import run_render

    return run_render(arguments)


def _info(arguments: argparse.Namespace) -> int:
    from clinfra.image.command_render import run_info

    return run_info(arguments)


def with_command(argv: Sequence[str]) -> list[str]:
    """Return a command line with "render" where `clinfra image FILE…` leaves it out."""
    known = ("render", "info", "sign", "-h", "--help")
    if argv[:1] != ["image"] or len(argv) < 2 or argv[1] in known:
        return list(argv)
    return ["image", "render", *argv[1:]]


def _sizes(text: str) -> tuple[Recipe, ...]:
    try:
        return tuple(dict.fromkeys(map(parse_size, text.split(","))))
    except Trouble as trouble:
        raise argparse.ArgumentTypeError(trouble.sentence) from None


def _quality(text: str) -> int:
    return _whole(text, 1, 100)


def _workers(text: str) -> int:
    return _whole(text, 1, 256)


def _whole(text: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
        raise argparse.ArgumentTypeError(f"not a number from {least} to {most}")
    return int(text)
