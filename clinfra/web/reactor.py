"""An epoll reactor whose poll loop is lean: `twistd --reactor=clinfra`.

Twisted enters a logging context for every event of every descriptor.  For a server of
many small answers that costs as much as the answer.  Here the plain case, readable and
nothing else, calls `doRead` directly; every other case, and every trouble, is handled
by Twisted's own code.
"""

from __future__ import annotations

import errno
from select import EPOLLIN

from twisted.internet.epollreactor import EPollReactor
from twisted.internet.main import installReactor
from twisted.python import log


class LeanEPollReactor(EPollReactor):
    """`EPollReactor` without a logging context around plain reads."""

    def doPoll(self, timeout: float | None) -> None:
        """Wait for events, at most `timeout` seconds, and act on them."""
        selectables = self._selectables
        try:
            events = self._poller.poll(
                -1 if timeout is None else timeout, max(len(selectables), 1)
            )
        except OSError as trouble:
            if trouble.errno == errno.EINTR:
                return
            raise
        for fd, event in events:
            selectable = selectables.get(fd)
            if selectable is None:
                continue
            if event != EPOLLIN:
                log.callWithLogger(
                    selectable, self._doReadOrWrite, selectable, fd, event
                )
                continue
            try:
                why = selectable.doRead()
            except BaseException as trouble:
                # As Twisted does: log it, and drop the descriptor it came from.
                log.err()
                why = trouble
            if why:
                self._disconnectSelectable(selectable, why, True)

    doIteration = doPoll


def install() -> None:
    """Make this the process's reactor."""
    installReactor(LeanEPollReactor())
