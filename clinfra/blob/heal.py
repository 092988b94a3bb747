"""Bringing back, from other replicas, bytes that should be here and are not.

A read that found nothing, or damage, was answered from elsewhere; meanwhile this puts
things right, a few blobs at a time.  What does not get its turn is left to repair.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from clinfra.blob.digests import Announced
from clinfra.blob.info import from_json, guess_type
from clinfra.blob.intake import Intake
from clinfra.blob.peers import HOP, MAX_ANSWER_BYTES
from clinfra.blob.records import PEERS, Expiry
from clinfra.blob.replica import Replica, Write
from clinfra.blob.router import Router
from clinfra.blob.store import ISpool
from clinfra.blob.sync import FetchedBody
from clinfra.blob.topology import Placement
from clinfra.errors import NotFound, StorageDamaged, Trouble
from clinfra.web.responses import OriginResponse

AT_A_TIME = 4
MAX_WAITING = 256


@define(eq=False)
class Healer:
    """Fetches blobs that a read missed.

    Attributes:
        healed: how many came back.
        failed: how many did not.
    """

    log = Logger()

    _router: Router
    _replica: Replica
    _intake: Intake
    healed: int = field(init=False, default=0)
    failed: int = field(init=False, default=0)
    _waiting: deque[Placement] = field(init=False, factory=deque)
    _running: dict[str, Deferred[None]] = field(init=False, factory=dict)
    _stopped: bool = field(init=False, default=False)

    def heal_soon(self, placement: Placement) -> None:
        """Bring a blob back in the background, if there is room to remember it."""
        if (
            self._stopped
            or len(self._waiting) >= MAX_WAITING
            or placement.stored in self._running
            or placement in self._waiting
        ):
            return
        self._waiting.append(placement)
        self._next()

    def stop(self) -> None:
        """Give up what is under way."""
        self._stopped = True
        self._waiting.clear()
        for running in list(self._running.values()):
            running.cancel()

    def report(self) -> dict[str, int]:
        """Return what status pages show."""
        return {
            "healed": self.healed,
            "failed": self.failed,
            "waiting": len(self._waiting) + len(self._running),
        }

    def _next(self) -> None:
        while self._waiting and len(self._running) < AT_A_TIME:
            placement = self._waiting.popleft()
            running = Deferred.fromCoroutine(self.heal(placement))
            self._running[placement.stored] = running
            running.addErrback(self._went_wrong, placement)
            running.addCallback(self._over, placement)

    def _went_wrong(self, failure: Any, placement: Placement) -> None:
        self.failed += 1
        if self._stopped:
            return
        self.log.warn(
            "cannot bring {name} back: {error}",
            name=placement.stored,
            error=failure.value,
        )

    def _over(self, result: object, placement: Placement) -> None:
        self._running.pop(placement.stored, None)
        if not self._stopped:
            self._next()

    async def heal(self, placement: Placement) -> None:
        """Fetch a blob from whoever has it, and keep it here.

        Raises:
            errors.Trouble: nobody has it, or it is not what it is said to be.
        """
        name = placement.stored
        peers = self._router.peers

        async def ask(peer: str) -> OriginResponse:
            target = peers.path(peer, name) + b"?response=info"
            return await peers.call(peer, b"GET", target, (HOP,))

        found = await self._router.rescue(placement, ask)
        async with found.response as response:
            try:
                info = from_json(await response.read_all(MAX_ANSWER_BYTES))
            except ValueError:
                raise NotFound(f"{found.peer} makes no sense") from None
        expiry = Expiry(info.modified_deleted, info.deleted)
        if info.modified is None:
            return
        announced = Announced(
            {"sha256": bytes.fromhex(info.sha256)} if info.sha256 else {}
        )
        told = info.content_type
        content_type = "" if told == guess_type(name) else told
        async with await peers.get(found.peer, name) as response:
            self._replica.check_space(response.head.content_length or 0)
            body = await self._intake.take(
                FetchedBody(response), name, content_type, announced
            )
        if info.sha256 is None:
            await self._check_unchanged(found.peer, name, info.modified, body)
        write = Write(
            modified=info.modified,
            deleted=expiry.deleted,
            modified_deleted=expiry.modified_deleted,
            content_type=content_type,
            fanout=self._fanout(placement, found.peer),
        )
        await self._replica.put(name, body, write, announced=announced, mend=True)
        self.healed += 1
        self.log.info("brought {name} back from {peer}", name=name, peer=found.peer)

    def _fanout(self, placement: Placement, source: str) -> int:
        """Return whom a blob that came back is to be sent to.

        No peer had what came from another cluster.  When that cluster delivers it to
        us, it is nothing new any more and goes no further: so it has to from here.
        """
        return 0 if source in self._router.nearest(placement) else PEERS

    async def _check_unchanged(
        self, peer: str, name: str, modified: int, body: bytes | ISpool
    ) -> None:
        """Make sure that bytes and stamps belong together: originals tell no digest."""
        try:
            again = await self._router.peers.info(peer, name)
            if again.modified != modified:
                raise StorageDamaged("It has changed meanwhile")
        except Trouble:
            if not isinstance(body, bytes):
                self._intake.workers.run(body.discard)
            raise
