"""The clients of a cluster on bad days: what they write, read, and are promised."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from attrs import define, field

from clinfra.blob.stamps import stamp_at
from tests.sim.cluster import Answer, Host
from tests.sim.promises import Broken, Change, Name, Promise
from tests.sim.world import World


@define(eq=False)
class Clients:
    """All of them.

    Attributes:
        answered: how many changes were.
        strike: takes the disk of a host, and the power of all others.
        lose_index: kills a host, and takes its index.
    """

    _world: World
    answered: int = field(init=False, default=0)
    strike: Callable[[Host], None] = field(init=False, default=lambda host: None)
    lose_index: Callable[[Host], object] = field(init=False, default=lambda host: None)
    _struck: str = field(init=False, default="")

    def write(self) -> None:
        stored = self._stored()
        if stored == self._struck or self._put_older(stored):
            return
        chance = self._world.rng.random()
        if chance < 0.25:
            self._change(stored, None)
        elif chance < 0.3:
            # Somebody who chooses his own stamps gave one to two writes.
            stamp = stamp_at(
                self._world.cluster.clock.seconds(), self._world.rng.getrandbits(12)
            )
            self._change(stored, self._body(stored), f"&modified={stamp}", stamp)
            self._change(stored, self._body(stored), f"&modified={stamp}", stamp)
        else:
            queries = ("", "", "&copies=all", "&copies=1", "&ttl=1000000", "&ttl=15")
            self._change(stored, self._body(stored), self._world.rng.choice(queries))

    def read(self) -> None:
        stored = self._stored()
        self._read_from(stored, self._server(stored))

    def read_at(self, host: Host) -> None:
        """Read what a server may have to look for on its disk."""
        if host.service is not None:
            stored = self._stored()
            host.service.replica.hot.drop(stored)
            self._read_from(stored, host)

    # How

    def _running(self) -> list[Host]:
        return [host for host in self._world.cluster.hosts.values() if host.service]

    def _stored(self) -> str:
        plain = f"n{self._world.rng.randrange(6)}"
        return self._world.cluster.topology.place(plain, encoded=False).stored

    def _server(self, stored: str) -> Host | None:
        """Return somebody to be asked, most often one that keeps a name."""
        keepers = [host for host in self._world.cluster.keepers(stored) if host.service]
        others = self._running()
        if self._world.rng.random() < 0.15 or not keepers:
            keepers = others
        return self._world.rng.choice(keepers) if keepers else None

    def _body(self, stored: str) -> bytes:
        body = b"%s %d " % (stored.encode(), self._world.rng.getrandbits(64))
        chance = self._world.rng.random()
        if chance < 0.003:
            return body * 50_000
        if chance < 0.1:
            return body * 3000
        return body * 100 if chance < 0.35 else body

    def _change(
        self, stored: str, body: bytes | None, query: str = "", stamp: int | None = None
    ) -> None:
        host = self._server(stored)
        if host is None:
            return
        name = self._world.names.setdefault(stored, Name(stored))
        now = self._world.cluster.clock.seconds()
        if body is None:
            change = Change(None, None, now)
            asked = self._world.ask(host, "DELETE", f"/{stored}")
            self._world.note(f"DELETE at {host.name}", stored)
        else:
            digest = hashlib.sha256(body).digest()
            name.bodies[digest] = body
            ttl = int(query[5:]) if query.startswith("&ttl=") else None
            change = Change(digest, ttl, now, stamp)
            asked = self._world.ask(host, "PUT", f"/{stored}?encoded=1{query}", body)
            told = f"PUT {digest.hex()[:8]} {len(body)} bytes {query} at {host.name}"
            self._world.note(told, stored)
        name.changes.append(change)
        asked.addCallback(self._changed, name, change, host)

    def _changed(self, answer: Answer, name: Name, change: Change, host: Host) -> None:
        digest = change.sha256.hex()[:8] if change.sha256 else "DELETE"
        if answer.status != 200:
            # It may have been kept all the same.
            self._world.note(
                f"{host.name} answered {answer.status} to {digest}", name.stored
            )
            return
        self.answered += 1
        self._strike_after(answer, name, host)
        change.ended = self._world.cluster.clock.seconds()
        told, copies = answer.told, answer.fields.get(b"x-clblob-copies", b"1/1")
        self._world.note(
            f"{host.name} answered {digest}: {told['modified']},"
            f" ends {told['deleted']} by {told['modified_deleted']},"
            f" copies {copies.decode()}",
            name.stored,
        )
        data = None
        if told["modified"] is not None and told.get("sha256"):
            data = told["modified"], bytes.fromhex(told["sha256"])
        is_handed_off = b"x-clblob-handoff" in answer.fields
        answering = host.name
        if host not in self._world.cluster.keepers(name.stored) and not is_handed_off:
            answering = ""
        expiry = told["modified_deleted"], told["deleted"]
        name.promises.append(
            Promise(change, answering, int(copies.partition(b"/")[0]), data, expiry)
        )

    def _strike_after(self, answer: Answer, name: Name, host: Host) -> None:
        """Perhaps take the disk of who answered, and the power of all others.

        Once; and nobody writes that name any more, so that it is seen what is left.
        """
        copies = answer.fields.get(b"x-clblob-copies", b"1/1")
        if host.name != self._world.damaged or copies < b"2" or self._struck:
            return
        if self._world.shape.originals:
            # A copy that only an original has comes back when it is next pulled from.
            return
        if self._world.rng.random() > 0.1:
            return
        self._struck = name.stored
        self.strike(host)

    def _put_older(self, stored: str) -> bool:
        """Perhaps put what is older than all that was forgotten; the index is lost.

        Somebody brings blobs from elsewhere, stamps and all.  Once, and nobody writes
        that name any more.  (Only a replica that is alone: it can hear from nobody
        what it forgot.)
        """
        name = self._world.names.get(stored)
        if not self._world.is_alone or self._struck or name is None:
            return False
        (host,) = self._world.cluster.hosts.values()
        if host.service is None or stored in host.rows() or not name.buried:
            return False
        self._struck = stored
        stamp = max(name.buried)[0] - 1
        self._change(stored, self._body(stored), f"&modified={stamp}", stamp)
        self._world.later(self._world.rng.uniform(0, 3), self.lose_index, host)
        return True

    def _read_from(self, stored: str, host: Host | None) -> None:
        if host is not None:
            asked = self._world.ask(host, "GET", f"/{stored}")
            asked.addCallback(self._was_read, stored, host)

    def _was_read(self, answer: Answer, stored: str, host: Host) -> None:
        name = self._world.names.setdefault(stored, Name(stored))
        if answer.status != 200:
            return
        digest = hashlib.sha256(answer.body).digest()
        if digest not in name.bodies and not self._world.is_hurt(answer.body, name):
            said = f"{host.name} served {stored} as {answer.body[:60]!r}"
            self._world.broken = self._world.broken or Broken(said, stored)

    def delete_some(self) -> None:
        """Delete some of what is there."""
        for stored in sorted(self._world.names):
            if self._world.rng.random() < 0.7:
                self._change(stored, None)
