"""A progress bar for commands that take long, on a terminal.  Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import TextIO

from attrs import define, field

SHOWN_AFTER_SECONDS = 1.0
"""What is over sooner needs no bar."""

BETWEEN_SECONDS = 0.1

_WIDTH = 30


def amount(number: float) -> str:
    """Return bytes as people read them."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def files(number: float) -> str:
    """Return a number of files as people read it."""
    return f"{number:.0f} file{'s' * (f'{number:.0f}' != '1')}"


def bar(
    label: str,
    done: int,
    total: int | None,
    seconds: float,
    unit: Callable[[float], str] = amount,
) -> str:
    """Return one line: how much, how fast, and for how long still."""
    speed = done / seconds if seconds > 0 else 0.0
    line = f"{unit(done)}, {unit(speed)}/s"
    if total:
        full = min(_WIDTH, done * _WIDTH // total)
        left = (total - done) / speed if speed else 0.0
        line = (
            f"[{'#' * full}{'.' * (_WIDTH - full)}] {done * 100 // total:3d} %  {line},"
            f" {int(left) // 60}:{int(left) % 60:02d} left"
        )
    return f"{label}  {line}"


@define(eq=False)
class Progress:
    """Shows how far one transfer is, or one batch of files.

    Args:
        stream: the terminal; None shows nothing.
        total: bytes or files, when that is known.
        now: returns seconds.
        unit: writes an amount.
    """

    _stream: TextIO | None
    _label: str
    _total: int | None
    _now: Callable[[], float]
    _unit: Callable[[float], str] = amount
    _began: float = field(init=False)
    _shown_at: float = field(init=False)
    _width: int = field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        self._began = self._now()
        self._shown_at = self._began + SHOWN_AFTER_SECONDS - BETWEEN_SECONDS

    def tell(self, done: int, total: int | None = None) -> None:
        """So much has been done; of so much, where that is known only now."""
        if self._stream is None:
            return
        self._total = self._total if total is None else total
        now = self._now()
        if now - self._shown_at < BETWEEN_SECONDS:
            return
        self._shown_at = now
        line = bar(self._label, done, self._total, now - self._began, self._unit)
        self._stream.write(f"\r{line.ljust(self._width)}")
        self._stream.flush()
        self._width = len(line)

    def end(self) -> None:
        """Wipe the bar away."""
        if self._stream is not None and self._width:
            self._stream.write(f"\r{' ' * self._width}\r")
            self._stream.flush()
            self._width = 0
