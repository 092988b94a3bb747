"""One worker process, as the reactor sees it.

Started with `subprocess` (vfork: cheap however large this process is) with nothing
open but one end of a socket pair; the other end is read by the reactor.  That end
closes when the worker is gone, whatever killed it.  What goes wrong while it starts
is on this process's standard error.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.main import CONNECTION_LOST
from twisted.python.failure import Failure
from zope.interface import implementer

from clinfra.image.worker import MESSAGE_BYTES

_FIRST_REAP_SECONDS = 0.001
_KEPT_BYTES = str(16 << 20)
"""Of free memory, which a worker keeps at the end of its heap."""


def command(memory_bytes: int, job_seconds: int) -> Callable[[int], Sequence[str]]:
    """Return how to start a worker, given the descriptor of its socket."""

    def arguments(descriptor: int) -> Sequence[str]:
        numbers = (descriptor, os.getpid(), memory_bytes, job_seconds)
        # -P: what lies in the current directory is not for a worker to import.
        module = (sys.executable, "-P", "-m", "clinfra.image.worker")
        return [*module, *map(str, numbers)]

    return arguments


def environment() -> dict[str, str]:
    """Return the whole environment of a worker."""
    kept = ("LD_LIBRARY_PATH",)
    return {
        **{name: os.environ[name] for name in kept if name in os.environ},
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "PYTHONDONTWRITEBYTECODE": "1",
        # Keep two blocks of decoded pixels (32 MB) for the next picture; more of them
        # cost more than they save, fewer make large pictures a quarter slower.
        "PILLOW_BLOCKS_MAX": "2",
        # Nor have the kernel take back, and clear again, what the next picture needs:
        # without, some uploads take 20 % more CPU time.  The largest take 10 MB more.
        "MALLOC_MMAP_THRESHOLD_": _KEPT_BYTES,
        "MALLOC_TRIM_THRESHOLD_": _KEPT_BYTES,
    }


@contextmanager
def _deaf_to_stops() -> Iterator[None]:
    """Have what is started inside hear nothing of the signals that stop us.

    A terminal and systemd send them to every process.  The work in hand is still to
    be done; workers end when their parent hangs up.
    """
    stops = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, stops)  # inherited, also by exec
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@implementer(IReadDescriptor)
class Child:
    """A running worker.

    Args:
        on_message: called with each answer, decoded.
        on_gone: called once with the exit status, negative for a signal, when the
            process has ended and was waited for.
    """

    def __init__(
        self,
        reactor: Any,
        arguments: Callable[[int], Sequence[str]],
        on_message: Callable[[Child, Mapping[str, Any]], None],
        on_gone: Callable[[Child, int], None],
    ) -> None:
        self._reactor = reactor
        self._on_message = on_message
        self._on_gone = on_gone
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._socket.setblocking(False)
            try:
                with _deaf_to_stops():
                    self._process = subprocess.Popen(
                        arguments(theirs.fileno()),
                        pass_fds=(theirs.fileno(),),
                        env=environment(),
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                    )
            except BaseException:
                self._socket.close()
                raise
        reactor.addReader(self)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def send(self, message: bytes, descriptors: Sequence[int]) -> None:
        """Give it a job; it has copies of the descriptors when this returns.

        Raises OSError when it is gone, which `on_gone` will tell as well.
        """
        socket.send_fds(self._socket, [message], list(descriptors))

    def dismiss(self) -> None:
        """Let it end by itself: it has no job."""
        if self.fileno() >= 0:
            self._socket.shutdown(socket.SHUT_WR)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    # IReadDescriptor

    def fileno(self) -> int:
        """Return the descriptor the reactor watches; -1 when closed."""
        return self._socket.fileno()

    def logPrefix(self) -> str:
        """Return the name of this in the reactor's own log lines."""
        return "image worker"

    # Reactors know CONNECTION_LOST, an exception; the interface forgot it.
    def doRead(self) -> Exception | None:  # type: ignore[override]  # see above
        """Read one answer."""
        try:
            message = self._socket.recv(MESSAGE_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            return CONNECTION_LOST
        if not message:
            return CONNECTION_LOST
        self._on_message(self, json.loads(message))
        return None

    def connectionLost(self, reason: Failure) -> None:
        """The worker's end is closed: make sure it ends, and wait for it."""
        if self.fileno() < 0:
            return
        self._reactor.removeReader(self)
        self._socket.close()
        self._process.kill()
        self._reap(_FIRST_REAP_SECONDS)

    def _reap(self, pause_seconds: float) -> None:
        status = self._process.poll()
        if status is None:
            self._reactor.callLater(pause_seconds, self._reap, 2 * pause_seconds)
        else:
            self._on_gone(self, status)
