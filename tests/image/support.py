"""Stand-ins for what the image service needs around it."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredLock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from clinfra.config import ImageConfig
from clinfra.errors import NotFound, OriginFailed, StorageFull
from clinfra.image import store_names, worker
from clinfra.image.job import Bounds, Job
from clinfra.image.params import parse_params
from clinfra.image.render import OnGone, OnMessage
from clinfra.interfaces import BlobInfo, IBlobs


def job(query: str = "", **changes: Any) -> Job:
    """Return the job of a query string, under a changed default configuration."""
    config = ImageConfig(**changes)
    params = parse_params(query.encode(), config)
    return Job(
        recipes=params.sizes,
        quality=params.quality,
        bounds=Bounds.of(config),
        filename=params.filename,
        publish_exif=config.publish_exif,
    )


def new_directory(case: SynchronousTestCase) -> Path:
    """Return a new directory that is gone after the test."""
    path = Path(tempfile.mkdtemp(prefix="clinfra-test-"))
    case.addCleanup(shutil.rmtree, path)
    return path


@implementer(IBlobs)
@define(eq=False)
class MemoryBlobs:
    """Blobs in a dict, in a cluster of one bucket.

    Attributes:
        kept: name → body, content type and time to live.
        order: names as they were put.
        full_after: so many puts succeed, then there is no room.
        gate: when set, every put waits for it.
        originals_gate: when set, whoever reads an original waits for it.
        broken: names of the methods that fail.
        deleted: what is still known of blobs that were deleted.
        asked: names as they were read.
        now: unix seconds; with it, blobs end when their time is over.
    """

    kept: dict[str, tuple[bytes, str | None, int | None]] = field(factory=dict)
    order: list[str] = field(factory=list)
    full_after: int | None = None
    gate: Deferred[None] | None = None
    originals_gate: DeferredLock | None = None
    broken: set[str] = field(factory=set)
    deleted: dict[str, BlobInfo] = field(factory=dict)
    asked: list[str] = field(factory=list)
    now: Callable[[], float] | None = None
    _ends: dict[str, int] = field(init=False, factory=dict)
    _stamps: dict[str, int] = field(init=False, factory=dict)

    async def encode(self, name: str) -> str:
        return store_names.encode(name)

    async def put(
        self,
        name: str,
        body: bytes,
        *,
        ttl_seconds: int | None = None,
        content_type: str | None = None,
        encoded: bool = False,
    ) -> BlobInfo:
        name = store_names.check(name) if encoded else await self.encode(name)
        if self.gate is not None:
            await self.gate
        if self.full_after is not None and len(self.order) >= self.full_after:
            raise StorageFull("There is no room.")
        self.kept[name] = (body, content_type, ttl_seconds)
        self.order.append(name)
        self._ends.pop(name, None)
        if self.now is not None:
            self._stamps[name] = store_names.stamp_at(self.now())
        if self.now is not None and ttl_seconds is not None:
            self._ends[name] = math.ceil(self.now()) + ttl_seconds
        return await self.info(name)

    async def get(self, name: str) -> tuple[BlobInfo, bytes]:
        self._check("get")
        store_names.check(name)
        self.asked.append(name)
        if self.originals_gate is not None and name.endswith(".original"):
            await self.originals_gate.run(lambda: None)
        over = self.now is not None and 0 < self._ends.get(name, 0) <= self.now()
        if name not in self.kept or over:
            raise NotFound("There is no such blob.")
        return await self.info(name), self.kept[name][0]

    async def info(self, name: str) -> BlobInfo:
        if name not in self.kept:
            if name in self.deleted:
                return self.deleted[name]
            raise NotFound("There is no such blob.")
        body, content_type, _ = self.kept[name]
        return BlobInfo(
            name=name,
            modified=self._stamps.get(name, 1 << 32),
            deleted=self._ends.get(name, 0),
            modified_deleted=1 << 32,
            buckets={0: 0},
            size=len(body),
            sha256=hashlib.sha256(body).hexdigest(),
            content_type=content_type or store_names.guess_type(name),
        )

    async def delete(self, name: str) -> BlobInfo:
        self._check("delete")
        self.kept.pop(name, None)
        told = BlobInfo(name, None, 1, 1 << 32)
        self.deleted[name] = told
        return told

    def _check(self, method: str) -> None:
        if method in self.broken:
            raise OriginFailed("The blob service does not answer.")


@define(eq=False)
class FakeWorker:
    """A worker in this process: it does real work, when it is told to.

    Attributes:
        sent: messages it has and has not answered.
        patient: wait for `work` instead of answering at once.
        gone: nobody reads the socket any more.
    """

    on_message: OnMessage
    on_gone: OnGone
    patient: bool = False
    pid: int = 0
    dismissed: bool = False
    killed: bool = False
    gone: bool = False
    sent: list[tuple[bytes, list[int]]] = field(factory=list)

    def send(self, message: bytes, descriptors: Sequence[int]) -> None:
        if self.gone:
            raise BrokenPipeError
        self.sent.append((message, list(descriptors)))
        if not self.patient:
            self.work()

    def get_ready(self) -> None:
        self.on_message(self, {"ready": True, "simd": True})

    def work(self) -> None:
        """Answer the oldest message."""
        message, (upload, sink) = self.sent.pop(0)
        answer = worker.work(Job.from_json(json.loads(message)), upload, sink)
        self.answer(json.loads(json.dumps(answer)))

    def answer(self, message: Mapping[str, Any]) -> None:
        self.on_message(self, message)

    def dismiss(self) -> None:
        self.dismissed = True

    def kill(self) -> None:
        self.killed = True

    def end(self, status: int) -> None:
        """Be gone."""
        self.on_gone(self, status)


@define(eq=False)
class Agency:
    """Hires fake workers.

    Attributes:
        workers: all it has hired, in order.
        patient: what new workers are.
    """

    patient: bool = False
    workers: list[FakeWorker] = field(factory=list)

    def hire(self, on_message: OnMessage, on_gone: OnGone) -> FakeWorker:
        worker = FakeWorker(on_message, on_gone, patient=self.patient)
        self.workers.append(worker)
        return worker
