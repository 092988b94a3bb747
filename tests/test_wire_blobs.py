"""Every kind of store passes the one exam: `tests.blobs_contract`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from botocore.session import Session
from twisted.internet import reactor

from clinfra.blob.client import BlobClient
from clinfra.blob.service import make_blob_service
from clinfra.config import BlobConfig
from clinfra.image.store_directory import Directory, DirectoryStore
from clinfra.image.store_s3 import S3Store
from clinfra.image.store_s3_signer import Signer
from clinfra.interfaces import IBlobs
from tests.blobs_contract import EXAM
from tests.image.live import in_reactor
from tests.image.s3_server import S3Server, s3_server
from tests.image.support import MemoryBlobs
from tests.support import ClinfraProcess

Make = Callable[[Path], AbstractAsyncContextManager[IBlobs]]


@asynccontextmanager
async def memory(directory: Path) -> AsyncIterator[IBlobs]:
    """Those of other tests."""
    yield MemoryBlobs(now=time.time)


@asynccontextmanager
async def replica(directory: Path) -> AsyncIterator[IBlobs]:
    """The blob store in this process."""
    service = make_blob_service(BlobConfig(), reactor=reactor, data_dir=directory)
    service.open()
    service.startService()
    try:
        yield service.blobs
    finally:
        await service.stopService()


@asynccontextmanager
async def in_directory(directory: Path) -> AsyncIterator[IBlobs]:
    """Files."""
    store = DirectoryStore(Directory(directory / "blobs"), reactor=reactor)
    store.open()
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture(scope="module")
def server() -> Iterator[ClinfraProcess]:
    """Run a blob store in a process of its own."""
    with ClinfraProcess({"blob": {}}) as process:
        yield process


@pytest.fixture(scope="module")
def bucket() -> Iterator[S3Server]:
    """Run an S3 server."""
    with s3_server() as running:
        yield running


@pytest.mark.parametrize("exam", EXAM)
@pytest.mark.parametrize("make", [memory, replica, in_directory])
@in_reactor
async def test_here(exam: Any, make: Make, tmp_path: Path) -> None:
    """Blobs that this process keeps."""
    async with make(tmp_path) as blobs:
        await exam(blobs)


@pytest.mark.parametrize("exam", EXAM)
@in_reactor
async def test_client(exam: Any, server: ClinfraProcess) -> None:
    """Blobs of another process, over HTTP."""
    client = BlobClient(server.url("blob", ""), reactor=reactor)
    try:
        await client.learn()
        await exam(client)
    finally:
        await client.close()


def s3_store(bucket: S3Server, prefix: str) -> S3Store:
    """Return a store in a bucket, with the right credentials."""
    session = Session()
    session.set_credentials(*bucket.environment.values())
    signer = Signer(reactor, session)
    return S3Store(bucket.url(prefix), reactor=reactor, signer=signer)


@pytest.mark.parametrize("exam", EXAM)
@in_reactor
async def test_s3(exam: Any, bucket: S3Server) -> None:
    """Objects of a bucket."""
    store = s3_store(bucket, f"{exam.__name__}/")
    try:
        await exam(store)
    finally:
        await store.close()
