"""`clinfra status` and `clinfra top`: /status, once or again and again."""

from __future__ import annotations

import argparse
import json
import select
import shutil
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from clinfra.shell.asking import Admin
from clinfra.shell.rates import Change, Look, as_json, top_lines
from clinfra.shell.status_page import status_lines

_HOME = "\x1b[H"
_CLEAR_LINE = "\x1b[K"
_CLEAR_BELOW = "\x1b[J"
_OTHER_SCREEN, _USUAL_SCREEN = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"

FIRST_SECONDS = 1.0
"""Until `top` has something to compare with."""


def look(admin: Admin, now: Callable[[], float] = time.monotonic) -> Look:
    """Ask once.  Raises Unreached."""
    status = admin.status()
    at = now()
    return Look(at, status, admin.unready())


def run_status(arguments: argparse.Namespace, admin: Admin) -> int:
    """Print how everything is; return the exit status.  Raises Unreached."""
    if arguments.watch is None:
        seen = look(admin)
        if arguments.json:
            print(json.dumps(seen.status, indent=2, ensure_ascii=False))
        else:
            print("\n".join(status_lines(seen.status, seen.unready)))
        return 1 if seen.unready else 0
    with _screen(arguments.json) as show:
        while True:
            seen = look(admin)
            if arguments.json:
                print(json.dumps(seen.status, ensure_ascii=False), flush=True)
            else:
                show(status_lines(seen.status, seen.unready))
            if _wait(arguments.watch):
                return 0


def run_top(arguments: argparse.Namespace, admin: Admin) -> int:
    """Show what is busy until one has seen enough; return the exit status.

    Raises Unreached.
    """
    before = look(admin)
    with _screen(arguments.json or arguments.once) as show:
        seconds = min(FIRST_SECONDS, arguments.interval)
        while not _wait(seconds):
            after = look(admin)
            change = Change(before, after)
            if arguments.json:
                print(json.dumps(as_json(change), ensure_ascii=False), flush=True)
            else:
                show(top_lines(change, time.strftime("%H:%M:%S")))
            if arguments.once:
                return 0
            before, seconds = after, arguments.interval
    return 0


@contextmanager
def _screen(plain: bool) -> Iterator[Callable[[Sequence[str]], None]]:
    """Yield what shows a page: in place on a terminal, else below the last one."""
    out = sys.stdout
    if plain or not out.isatty():
        yield lambda lines: print("\n".join(lines), flush=True)
        return
    with _keys(sys.stdin):
        # Whoever is told to end still has to give the terminal back.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        out.write(_OTHER_SCREEN)
        try:
            yield lambda lines: _redraw(out, lines)
        finally:
            out.write(_USUAL_SCREEN)
            out.flush()


def _redraw(out: TextIO, lines: Sequence[str]) -> None:
    width, height = shutil.get_terminal_size()
    shown = [*(line[:width] for line in lines[: height - 2]), "", "q ends"]
    body = "\r\n".join(f"{line}{_CLEAR_LINE}" for line in shown)
    out.write(f"{_HOME}{body}{_CLEAR_BELOW}")
    out.flush()


@contextmanager
def _keys(stream: TextIO) -> Iterator[None]:
    """Have keys come at once and unseen, where they are typed."""
    if not stream.isatty():
        yield
        return
    before = termios.tcgetattr(stream)
    tty.setcbreak(stream)
    try:
        yield
    finally:
        termios.tcsetattr(stream, termios.TCSADRAIN, before)


def _wait(seconds: float) -> bool:
    """Wait; return whether it was told to end, by the key q on a terminal."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        time.sleep(seconds)
        return False
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if select.select([sys.stdin], [], [], left)[0]:
            key = sys.stdin.read(1)
            if key in ("q", "Q", ""):
                return True
    return False
