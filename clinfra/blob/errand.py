"""One change on its way to the replica that is to take it."""

from __future__ import annotations

from attrs import define, evolve

from clinfra.blob.digests import digest_value
from clinfra.blob.info import from_json
from clinfra.blob.peers import (
    HOP,
    MAX_ANSWER_BYTES,
    PeerFailed,
    change_target,
    fits_original,
)
from clinfra.blob.replay import Replay
from clinfra.blob.replica import Write
from clinfra.blob.router import Found, Router
from clinfra.blob.topology import Placement
from clinfra.errors import OriginFailed, Overloaded
from clinfra.interfaces import BlobInfo
from clinfra.web.exchange import IBody
from clinfra.web.heads import Fields
from clinfra.web.responses import OriginResponse


@define(eq=False)
class Errand:
    """A PUT or DELETE that somebody else is to carry out.

    Args:
        body: of a PUT; whoever made it closes it.
        fields: what the change depends on.
        wishes: more parameters.
        kept: what is told of a change that was kept for whoever gets it.
    """

    _router: Router
    method: bytes
    placement: Placement
    replicate: str
    body: Replay | None
    fields: Fields = ()
    wishes: bytes = b""
    kept: Fields = ()

    async def run(self, write: Write, settled: Write) -> tuple[Found, bytes]:
        """Send the change; return the answer, read whole.

        What our clock says may be behind what is there: then a change whose client left
        the stamp to us is sent once more, with a later one, and is the last after all.
        """
        found, answer = await self._send(settled)
        if found.response.head.status != 200:
            return found, answer
        info = info_in(found, answer)
        if self.method == b"PUT":
            if write.modified or not _is_after(info.modified, settled.modified):
                return found, answer
            stamp = self._router.stamps.next(info.modified or 0, info.modified_deleted)
            later = evolve(settled, modified=stamp)
            if not write.modified_deleted:
                later = evolve(later, modified_deleted=stamp)
        else:
            if write.modified_deleted or not _is_after(
                info.modified_deleted, settled.modified_deleted
            ):
                return found, answer
            stamp = self._router.stamps.next(info.modified_deleted)
            later = evolve(settled, modified_deleted=stamp)
        return await self._send(later)

    async def _send(self, settled: Write) -> tuple[Found, bytes]:
        found = await self._router.write(
            self.placement,
            lambda peer: self._ask(peer, settled),
            hurry=self.body is None or self.body.is_small,
            once=bool(self.fields),
        )
        async with found.response as response:
            try:
                return found, await response.read_all(MAX_ANSWER_BYTES)
            except OriginFailed as trouble:
                raise Overloaded(
                    f"{found.peer} did not say whether it kept the blob"
                ) from trouble

    async def _ask(self, peer: str, settled: Write) -> OriginResponse:
        peers = self._router.peers
        put = self.method == b"PUT"
        if not fits_original(self.placement.stored):
            if peers.is_ours(peer) is None:
                await peers.learn(peer)
            peers.check_fits(peer, self.placement.stored)
        target = change_target(
            peers.path(peer, self.placement.stored),
            modified=settled.modified if put else None,
            deleted=settled.deleted,
            modified_deleted=settled.modified_deleted,
            replicate=self.replicate,
            encoded=True if put else None,
        )
        fields = (HOP, *self.kept, *self.fields)
        body: bytes | IBody | None = None
        if self.body is not None:
            body = self.body.body()
            fields += ((b"Content-Digest", digest_value(self.body.sha256)),)
            if settled.content_type:
                fields += ((b"Content-Type", settled.content_type.encode("latin-1")),)
        return await peers.call(peer, self.method, target + self.wishes, fields, body)


def info_in(found: Found, answer: bytes) -> BlobInfo:
    """Return the info JSON in an answer.  Raises PeerFailed."""
    try:
        return from_json(answer)
    except ValueError as error:
        raise PeerFailed(found.peer, 200, "its answer makes no sense") from error


def _is_after(found: int | None, ours: int | None) -> bool:
    return found is not None and ours is not None and found > ours
