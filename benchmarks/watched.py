"""twistd, with a thread beside it that watches how late its reactor is.

    python -m benchmarks.watched FIGURES twistd's own words…

Every 5 ms the thread asks the reactor for a call, and writes to FIGURES when that was
(seconds of the system's monotonic clock), how many seconds it took until the call was
made, and for how many of them the reactor's thread was computing something else: what
is left of the delay is the kernel's, or the disk's.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

from attrs import frozen

_PAUSE_SECONDS = 0.005


@frozen
class Delay:
    """How late the reactor was once; all in seconds.

    Attributes:
        at: when the call was asked for, monotonic.
        wall: until it was made.
        busy: how much of that the reactor's thread was computing.
    """

    at: float
    wall: float
    busy: float


def read(path: Path) -> list[Delay]:
    """Return what has been written so far."""
    lines = path.read_text().splitlines()
    return [Delay(*map(float, line.split())) for line in lines if line.count(" ") == 2]


def _watch(path: Path) -> None:
    main = threading.main_thread().ident
    assert main is not None
    clock = time.pthread_getcpuclockid(main)
    reactor = _wait_for_reactor()
    made = threading.Event()
    moment = [0.0, 0.0]

    def mark() -> None:
        moment[:] = time.monotonic(), time.clock_gettime(clock)
        made.set()

    with path.open("w", buffering=1) as file:
        while True:
            time.sleep(_PAUSE_SECONDS)
            made.clear()
            began, computed = time.monotonic(), time.clock_gettime(clock)
            reactor.callFromThread(mark)
            made.wait()
            wall, busy = moment[0] - began, moment[1] - computed
            file.write(f"{began:.6f} {wall:.6f} {busy:.6f}\n")


def _wait_for_reactor() -> Any:
    """Return the reactor when it runs; importing it here would choose one."""
    while True:
        reactor: Any = sys.modules.get("twisted.internet.reactor")
        if reactor is not None and getattr(reactor, "running", False):
            return reactor
        time.sleep(0.05)


def main(path: Path, words: list[str]) -> None:
    """Watch, and be twistd."""
    from twisted.scripts.twistd import run

    threading.Thread(target=_watch, args=(path,), daemon=True).start()
    sys.argv = ["twistd", *words]
    run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
