"""Lists of values in files that operators or their programs write: one in each line.

Blank lines and what follows `#` at a line's begin or after a blank do not count.  A
list of networks has one network or address per line; any other texts, as rules have
them (`conditions`).  A file that was changed is read again, a little at a time, so that
nobody has to wait for a long one; when anything in it is wrong the list stays as it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from io import BytesIO
from pathlib import Path

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from clinfra.patterns import PatternSet
from clinfra.proxy.conditions import Text
from clinfra.proxy.networks import Networks

LOOK_SECONDS = 2.0
_LINES_A_TURN = 500
_MOST_BYTES = 64 << 20


class Values:
    """What one reading of a file says."""

    def __init__(self, of_networks: bool) -> None:
        self.networks = Networks() if of_networks else None
        self.literals: set[str] = set()
        self.patterns: list[str] = []
        self._set: PatternSet | None = None

    def add(self, entry: str) -> None:
        """Add an entry.  Raises ValueError."""
        if self.networks is not None:
            self.networks.add(entry)
            return
        text = Text.parse(entry)
        if text.literal is not None:
            self.literals.add(text.literal)
        else:
            self.patterns.append(text.pattern)

    def seal(self) -> None:
        """All have been added."""
        if self.patterns:
            self._set = PatternSet(self.patterns)

    def has(self, value: str) -> bool:
        """Whether a value is in the list.  Raises patterns.PatternTooSlow."""
        if self.networks is not None:
            return self.networks.find(value) is not None
        return value in self.literals or (
            self._set is not None and self._set.any(value)
        )

    def __len__(self) -> int:
        if self.networks is not None:
            return len(self.networks)
        return len(self.literals) + len(self.patterns)


class ListFile:
    """A list in a file, read again when it changes.

    Attributes:
        values: as last read.
        problem: what is wrong with the file as it is now; "" when nothing is.
    """

    log = Logger()

    def __init__(self, path: Path, of_networks: bool) -> None:
        self.path = path
        self.values = Values(of_networks)
        self.problem = ""
        self._of_networks = of_networks
        self._version: object = None

    def read(self) -> None:
        """Read it at once.  Raises ValueError with file and line."""
        self._version = self._look()
        self.values = self._finish(self._reading())

    def changed(self) -> bool:
        """Whether the file is another than was last read."""
        return self._look() != self._version

    def reread(self, reactor: IReactorTime, done: Callable[[], None]) -> None:
        """Read it a little in each turn of the reactor; keep the old if it is wrong."""
        version = self._version = self._look()
        reading = self._reading()

        def go_on() -> None:
            if self._version is not version:
                return  # it has changed again, and is being read again
            try:
                next(reading)
            except StopIteration as end:
                self.values = end.value
                self.problem = ""
                self.log.info(
                    "{path} was read again: {count} entries",
                    path=self.path,
                    count=len(self.values),
                )
                done()
            except ValueError as error:
                self.problem = str(error)
                self.log.warn(
                    "{problem}; the list stays as it was", problem=self.problem
                )
            else:
                reactor.callLater(0, go_on)

        go_on()

    def _finish(self, reading: Generator[None, None, Values]) -> Values:
        """Read to the end."""
        while True:
            try:
                next(reading)
            except StopIteration as end:
                values: Values = end.value
                return values

    def _look(self) -> object:
        try:
            status = os.stat(self.path)
        except OSError as error:
            return error.strerror
        return (status.st_mtime_ns, status.st_size, status.st_ino)

    def _reading(self) -> Generator[None, None, Values]:
        """Read; yield now and then; return the new values."""
        try:
            with self.path.open("rb") as file:
                raw = file.read(_MOST_BYTES + 1)
        except OSError as error:
            raise ValueError(f"{self.path}: {error.strerror}") from error
        if len(raw) > _MOST_BYTES:
            raise ValueError(f"{self.path}: is larger than {_MOST_BYTES} bytes")
        values = Values(self._of_networks)
        for number, read in enumerate(BytesIO(raw), start=1):
            line = read.decode("utf-8", "surrogateescape")
            entry = "" if line.startswith("#") else line.partition(" #")[0].strip()
            if entry:
                try:
                    values.add(entry)
                except ValueError as error:
                    raise ValueError(f"{self.path}:{number}: {error}") from error
            if number % _LINES_A_TURN == 0:
                yield
        values.seal()
        return values


class Watch:
    """Looks every few seconds whether something has changed.

    Args:
        look: called then; the next look is `seconds` after it returns.
    """

    log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        look: Callable[[], None],
        seconds: float = LOOK_SECONDS,
    ) -> None:
        self._reactor = reactor
        self._seconds = seconds
        self._look_now = look
        self._timer: IDelayedCall | None = None

    def start(self) -> None:
        """Begin to look."""
        self._timer = self._reactor.callLater(self._seconds, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _look(self) -> None:
        with self.log.failuresHandled("Looking for changes failed."):
            self._look_now()
        if self._timer is not None:
            self.start()
