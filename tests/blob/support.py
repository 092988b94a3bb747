"""A blob store to test: a whole service in one thread, on a clock, asked over HTTP."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock

from clinfra.blob.index import IBlobIndex
from clinfra.blob.index_memory import MemoryIndex
from clinfra.blob.service import BlobService
from clinfra.blob.store import IBlobStore
from clinfra.blob.store_memory import MemoryStore
from clinfra.config import BlobConfig, Bytes, Limits
from clinfra.web.site import Site
from tests.sim.network import Network
from tests.web.clients import Answer, Client

NOW = 1_800_000_000.25
"""When tests begin, unix seconds."""

LIMITS = Limits(head_bytes=Bytes(65536))


class Rig:
    """A blob store and a client.

    Args:
        config: keys of `[blob]`.
        directory: where its files are; none keeps everything in memory.
        kept: which store it has there.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        clock: Clock | None = None,
        index: IBlobIndex | None = None,
        store: IBlobStore | None = None,
        kept: str = "volume",
        **config: Any,
    ) -> None:
        if clock is None:
            clock = Clock()
            clock.advance(NOW)
        self.clock = clock
        self._own = Path(tempfile.mkdtemp(prefix="clinfra-blob-"))
        if directory is None:
            index = index or MemoryIndex()
            store = store or MemoryStore()
        self.service = BlobService(
            BlobConfig(**{"min_free_bytes": Bytes(0), "store": kept, **config}),
            reactor=clock,
            data_dir=directory or self._own,
            threads=False,
            index=index,
            store=store,
            rng=random.Random(1),
            connect=Network(clock, random.Random(1)).connector("127.0.0.1"),
        )
        try:
            self.service.open()
            self.service.startService()
        except BaseException:
            shutil.rmtree(self._own)
            raise
        self.site = Site(
            self.service.resource,
            reactor=clock,
            limits=LIMITS,
            lane=self.service.lane,
        )
        self.client = Client(self.site, clock)

    def close(self) -> None:
        """Stop in order."""
        self.client.hang_up()
        self.service.stopService()
        shutil.rmtree(self._own)

    def crash(self) -> None:
        """Let go of everything without finishing anything."""
        if self.service._measuring.running:
            self.service._measuring.stop()
        self.service.purging.stop()
        self.client.hang_up()
        self.service.close()
        shutil.rmtree(self._own)

    def ask(
        self,
        method: str,
        target: str | bytes,
        body: bytes | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request and return its answer."""
        if isinstance(target, str):
            target = target.encode("latin-1")
        lines = [method.encode() + b" " + target + b" HTTP/1.1", b"Host: blob"]
        if body is not None:
            lines.append(b"Content-Length: %d" % len(body))
        lines += [f"{name}: {value}".encode() for name, value in (fields or {}).items()]
        if self.client.closed:
            self.client = Client(self.site, self.clock)
        self.client.received.clear()
        self.client.send(b"\r\n".join(lines) + b"\r\n\r\n" + (body or b""))
        for _ in range(1000):
            if self.client.received:
                break
            self.clock.advance(0)
        (answer,) = self.client.answers(method.upper())
        if answer.fields["Connection"] == "close":
            self.client.hang_up()
        return answer

    def put(self, target: str, body: bytes = b"x", **fields: str) -> dict[str, Any]:
        """PUT, and return the info JSON."""
        answer = self.ask("PUT", target, body, fields)
        assert answer.status == 200, answer
        told: dict[str, Any] = json.loads(answer.body)
        return told

    def delete(self, target: str) -> dict[str, Any]:
        """DELETE, and return the info JSON."""
        answer = self.ask("DELETE", target)
        assert answer.status == 200, answer
        told: dict[str, Any] = json.loads(answer.body)
        return told

    def get(self, target: str) -> bytes | None:
        """GET, and return the body; None for a 404."""
        answer = self.ask("GET", target)
        if answer.status == 404:
            return None
        assert answer.status == 200, answer
        return answer.body

    def info(self, target: str) -> dict[str, Any] | None:
        """GET the info JSON; None for a 404."""
        answer = self.ask("GET", f"{target}?response=info")
        if answer.status == 404:
            return None
        assert answer.status == 200, answer
        told: dict[str, Any] = json.loads(answer.body)
        return told

    def purge(self) -> int:
        """Purge and tidy now; return how many blobs were purged."""
        self._let_reaper_end()
        before = self.service.reaper.purged
        self.service.purging.soon()
        self._let_reaper_end()
        return self.service.reaper.purged - before

    def _let_reaper_end(self) -> None:
        for _ in range(1000):
            busy = self.service.purging._running is not None
            if not busy and not self.service.reaper.dropper.is_running:
                break
            self.clock.advance(0.1)
