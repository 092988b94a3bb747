"""`clinfra completion SHELL`: a script that completes what is typed."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import shtab

SHELLS = ("bash", "zsh", "fish")

_FILES = re.compile(r"FILE|DIR")


def completion(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the script for one of SHELLS, made of the whole command line."""
    for each in _parsers(parser):
        for action in each._actions:
            metavar = action.metavar if isinstance(action.metavar, str) else ""
            if action.type is Path or _FILES.search(metavar):
                # The only way shtab knows to be told.
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    return str(shtab.complete(parser, shell))


def _parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from _parsers(each)
