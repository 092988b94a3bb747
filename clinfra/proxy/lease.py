"""Leases in memcached: one of several processes asks an origin, the others wait.

Who wants to fetch a page adds a key of it, which only one can.  The holder renews the
lease while it fetches, so one that dies blocks the others for no longer than the lease.
They look for the answer in memcached every few milliseconds meanwhile, and whoever has
won the lease looks once more: it may have come in late.

A memcached that is away costs the sharing, never the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from clinfra.proxy.entry import Entry
from clinfra.proxy.memcached import Memcached

_HELD = b"held "
_UNSHARED = b"unshared"

_UNSHARED_SECONDS = 2
"""How long the key says that an answer is for nobody else."""

_FIRST_PAUSE_SECONDS = 0.005
_LONGEST_PAUSE_SECONDS = 0.1
ALONE = object()
"""Nobody knows: fetch, and share with this process only."""

UNSHARED = object()
"""Another process has found that the answer is for nobody else: do not wait for it."""

Look = Callable[[Callable[[Entry | None], None]], None]
"""Looks for the answer in memcached; calls back once, with None when there is none."""


def lease_key(key: bytes) -> bytes:
    """Return the key of the lease for what is kept under `key`."""
    return key + b":lease"


@define(eq=False)
class Lease:
    """The right to fetch, until it is released."""

    _leases: Leases
    key: bytes
    _value: bytes
    _renewal: IDelayedCall | None = field(default=None, init=False)

    def hold(self) -> None:
        """Renew it from time to time."""
        pause = self._leases.seconds / 3
        self._renewal = self._leases.reactor.callLater(pause, self._renew)

    def check(self, checked: Callable[[bool], None]) -> None:
        """Ask whether it still holds: a purge ends it, in whichever process.

        Args:
            checked: called once; False also when nobody knows.
        """
        self._leases.memcached.get(
            self.key, lambda value: checked(value == self._value)
        )

    def unshared(self) -> None:
        """The answer cannot be shared."""
        if self._stop_renewing():
            self._leases.memcached.set(self.key, _UNSHARED, _UNSHARED_SECONDS)

    def end(self) -> None:
        """The answer is in memcached, or there is none and another may try."""
        if self._stop_renewing():
            self._leases.memcached.delete(self.key, lambda known: None)

    def _renew(self) -> None:
        # Not if it is gone: a purge has ended it, and must not be undone.
        leases = self._leases
        self.hold()

        def checked(holds: bool) -> None:
            if holds and self._renewal is not None:
                leases.memcached.set(self.key, self._value, leases.seconds)

        self.check(checked)

    def _stop_renewing(self) -> bool:
        """Whether it had not ended before."""
        renewal, self._renewal = self._renewal, None
        if renewal is None:
            return False
        renewal.cancel()
        return True


@define(eq=False)
class Leases:
    """Takes leases.

    Args:
        seconds: after which a lease that is not renewed lapses; memcached counts whole
            ones.
        patience_seconds: longest wait for another process.
    """

    memcached: Memcached
    reactor: IReactorTime
    seconds: float
    patience_seconds: float
    rng: Random

    def take(self, key: bytes, look: Look, settled: Callable[[Any], None]) -> None:
        """Take the lease for what is kept under `key`, or wait for who has it.

        Args:
            settled: called once, perhaps at once: with the Lease; with the Entry that
                another process has fetched meanwhile; with UNSHARED or ALONE.
        """
        _Contest(self, lease_key(key), look, settled).ask()

    def try_to_take(
        self, key: bytes, settled: Callable[[Lease | None, bool], None]
    ) -> None:
        """Take the lease, or leave it to whoever has it.

        Args:
            settled: called once, perhaps at once, with the lease if it is ours, and
                whether nobody knows whose it is.
        """
        value = self._value()

        def answered(stored: bool | None) -> None:
            lease = self._held(lease_key(key), value) if stored else None
            settled(lease, stored is None)

        self.memcached.add(lease_key(key), value, self.seconds, answered)

    def _value(self) -> bytes:
        return _HELD + b"%016x" % self.rng.getrandbits(64)

    def _held(self, key: bytes, value: bytes) -> Lease:
        lease = Lease(self, key, value)
        lease.hold()
        return lease


@define(eq=False)
class _Contest:
    """One process that wants a lease."""

    leases: Leases
    key: bytes
    look: Look
    settled: Callable[[Any], None]
    _began: float = field(init=False)
    _pause: float = field(default=_FIRST_PAUSE_SECONDS, init=False)

    def __attrs_post_init__(self) -> None:
        self._began = self.leases.reactor.seconds()

    def ask(self) -> None:
        """Add the key."""
        leases = self.leases
        value = leases._value()

        def answered(stored: bool | None) -> None:
            if stored is None:
                self.settled(ALONE)
            elif stored:
                self._won(leases._held(self.key, value))
            else:
                self._see()

        leases.memcached.add(self.key, value, leases.seconds, answered)

    def _won(self, lease: Lease) -> None:
        """Fetch, unless the answer has come in since it was looked for."""

        def looked(entry: Entry | None) -> None:
            if entry is None:
                self.settled(lease)
            else:
                lease.end()
                self.settled(entry)

        self.look(looked)

    def _see(self) -> None:
        """See what the holder says, and then whether the answer is there."""
        self.leases.memcached.get(
            self.key, lambda word: self.look(lambda entry: self._seen(word, entry))
        )

    def _seen(self, word: bytes | None, entry: Entry | None) -> None:
        now = self.leases.reactor.seconds()
        if entry is not None:
            self.settled(entry)
        elif word == _UNSHARED:
            self.settled(UNSHARED)
        elif now - self._began > self.leases.patience_seconds:
            self.settled(ALONE)
        else:
            self._pause_and(self.ask if word is None else self._see)

    def _pause_and(self, then: Callable[[], None]) -> None:
        self.leases.reactor.callLater(self._pause, then)
        self._pause = min(_LONGEST_PAUSE_SECONDS, self._pause * 2)
