"""Active checks: every member of a pool is asked now and then whether it is well.

A check uses a connection of its own, so that it sees what a new client would see.  Its
results go to `Member.checked`, which decides what they mean.
"""

from __future__ import annotations

from random import Random
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IConnector, IDelayedCall
from twisted.internet.protocol import ClientFactory, Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from clinfra.errors import Trouble
from clinfra.proxy.member import Member
from clinfra.proxy.origin_pool import OriginPool
from clinfra.web.heads import Fields
from clinfra.web.pool import Connect, Origin, Pool, PoolSettings

log = Logger()

_MOST_BODY_BYTES = 65536


class Prober:
    """Checks the members of one pool.

    Args:
        reactor: tells the time.
        connect: as the pool's requests do.
        origin_of: returns the address of a member.
        rng: spreads the checks.
    """

    def __init__(
        self,
        pool: OriginPool,
        *,
        reactor: Any,
        connect: Connect,
        origin_of: Any,
        rng: Random,
    ) -> None:
        self._pool = pool
        self._config = config = pool.config.check
        self._reactor = reactor
        self._connect = connect
        self._origin_of = origin_of
        self._rng = rng
        self._under_way: dict[Member, Deferred[str]] = {}
        self._next: IDelayedCall | None = None
        timeout = config.timeout
        self._client = Pool(
            reactor,
            PoolSettings(
                connect_timeout=timeout,
                response_timeout=timeout,
                read_timeout=timeout,
                idle_connections=0,
            ),
            connect,
        )

    def start(self) -> None:
        """Check everybody, and again after each interval."""
        # Not all processes at once.
        wait = self._config.interval * self._rng.uniform(0.9, 1.1)
        self._next = self._reactor.callLater(wait, self.start)
        for member in self._pool.members:
            if member not in self._under_way:
                self._check(member)

    def stop(self) -> Deferred[None]:
        """Check no more."""
        if self._next is not None:
            self._next.cancel()
            self._next = None
        for check in list(self._under_way.values()):
            check.cancel()
        return self._client.close()

    def _check(self, member: Member) -> None:
        origin = self._origin_of(member)
        if self._config.kind == "tcp":
            check = self._knock(origin)
        else:
            check = Deferred.fromCoroutine(self._ask(member, origin))
        self._under_way[member] = check
        check.addTimeout(self._config.timeout, self._reactor, _too_late)
        check.addErrback(_reason)
        check.addCallback(self._checked, member)

    def _checked(self, why: str, member: Member) -> None:
        del self._under_way[member]
        if self._next is not None and member.checked(not why, why):
            log.warn(
                "{pool}: {member} is {state}{why}",
                pool=self._pool.name,
                member=member.name,
                state="up" if member.up else "down: ",
                why=why,
            )

    async def _ask(self, member: Member, origin: Origin) -> str:
        """Return why the check failed; "" when it did not."""
        config = self._config
        said = config.host or self._pool.config.host
        fields: Fields = ((b"User-Agent", b"clinfra check"),)
        if said or not member.place.path:
            host = (said or member.place.name).encode("idna")
            fields = ((b"Host", host), *fields)
        path = config.path.encode("latin-1")
        response = await self._client.request(origin, b"GET", path, fields)
        async with response:
            status = response.head.status
            if status not in config.statuses:
                return f"the check was answered {status}"
            body = await response.read_all(_MOST_BODY_BYTES)
        if config.text.encode() not in body:
            return "the answer to the check is not what it should be"
        return ""

    def _knock(self, origin: Origin) -> Deferred[str]:
        """Connect, and nothing else."""
        knock = _Knock()
        connector = self._connect(origin, knock, self._config.timeout)
        knock.connector = connector
        return knock.answered


class _Knock(ClientFactory):
    """A connection that is closed when it is made."""

    noisy = False

    def __init__(self) -> None:
        self.connector: IConnector | None = None
        self.answered: Deferred[str] = Deferred(self._give_up)

    def buildProtocol(self, addr: object) -> Protocol:
        return _Closing(self)

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        if not self.answered.called:
            self.answered.errback(reason)

    def _give_up(self, answered: Deferred[str]) -> None:
        if self.connector is not None:
            self.connector.disconnect()


class _Closing(Protocol):
    def __init__(self, knock: _Knock) -> None:
        self._knock = knock

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.loseConnection()
        if not self._knock.answered.called:
            self._knock.answered.callback("")


def _too_late(result: object, seconds: float) -> str:
    return f"no answer within {seconds:g} s"


def _reason(failure: Failure) -> str:
    """Return what went wrong, in words."""
    error = failure.value
    if isinstance(error, Trouble):
        return str(error.__cause__ or "") or str(error)
    if failure.check(CancelledError):
        return "it was given up"
    return failure.getErrorMessage() or type(failure.value).__name__
