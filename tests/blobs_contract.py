"""The exam that every `IBlobs` passes, whatever keeps its blobs.

Coroutines over real time and real disks or sockets; `test_wire_blobs` holds each kind
of store to all of them.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from zope.interface.verify import verifyObject

from clinfra.errors import InvalidRequest, NotFound
from clinfra.interfaces import BlobInfo, IBlobs

LARGE = bytes(range(256)) * (32 << 12)
"""32 MB."""

HOSTILE = ("", "_x", "a\nb", "\x00", "../../x", "a/../../x", "..", "x" * 1025)
"""Plain names that are none."""

HOSTILE_STORED = ("10000_x", "../x", "/etc/passwd", "000_a/../../x", "000_a\r\nb", "x")
"""Stored names that are none."""


async def fails(kind: type[Exception], work: Awaitable[Any]) -> None:
    """Hold something to failing so."""
    try:
        result = await work
    except kind:
        return
    raise AssertionError(f"gave {result!r}")


async def gone(blobs: IBlobs, stored: str) -> bool:
    """Say whether a blob is not served any more."""
    try:
        await blobs.get(stored)
    except NotFound:
        pass
    else:
        return False
    try:
        info = await blobs.info(stored)
    except NotFound:
        return True
    assert 0 < info.deleted <= time.time(), info
    return True


async def has_the_interface(blobs: IBlobs) -> None:
    """It has everything the interface says."""
    assert verifyObject(IBlobs, blobs)


async def gives_back(blobs: IBlobs) -> None:
    """What was put comes back, with what is known of it."""
    before = int(time.time())
    stored = await blobs.encode("ü ?&#%2F+~.jpg")
    put = await blobs.put(
        "ü ?&#%2F+~.jpg", b"hello", ttl_seconds=60, content_type="a/b"
    )
    info, body = await blobs.get(stored)

    assert body == b"hello"
    assert put == info == await blobs.info(stored)
    assert info.name == stored
    assert (info.size, info.content_type) == (5, "a/b")
    assert info.sha256 == hashlib.sha256(b"hello").hexdigest()
    assert before + 60 <= info.deleted <= time.time() + 62
    assert info.modified is not None
    assert before <= info.modified >> 32 <= time.time() + 1


async def takes_stored_names(blobs: IBlobs) -> None:
    """A plain name is encoded once; names made of a stored one are kept as they are."""
    stored = await blobs.encode("4Fk0cJ1tNtM")
    for name in (stored, f"{stored}.json", f"{stored}_300x300c_webp.webp"):
        put = await blobs.put(name, name.encode(), encoded=True)
        assert put.name == name
        assert (await blobs.get(name))[1] == name.encode()
    plain = await blobs.put("4Fk0cJ1tNtM", b"1")
    assert plain.name == stored


async def guesses_types(blobs: IBlobs) -> None:
    """Without a type it is what the name says."""
    stored = await blobs.encode("x")
    for ending, kind in ((".json", "application/json"), ("_1x1.jpg", "image/jpeg")):
        info = await blobs.put(stored + ending, b"1", encoded=True)
        assert info.content_type == kind
        assert (await blobs.info(stored + ending)).content_type == kind


async def keeps_nothing_too(blobs: IBlobs) -> None:
    """A blob may have no bytes, and no end."""
    await blobs.put("nothing", b"")
    info, body = await blobs.get(await blobs.encode("nothing"))

    assert (body, info.size, info.deleted) == (b"", 0, 0)
    assert info.sha256 == hashlib.sha256(b"").hexdigest()


async def replaces(blobs: IBlobs) -> None:
    """A later put takes the place of an earlier: bytes, type and time to live."""
    stored = await blobs.encode("twice")
    first = await blobs.put("twice", b"first", ttl_seconds=1, content_type="a/a")
    await deferLater(reactor, 0.01)
    second = await blobs.put("twice", b"second", content_type="b/b")
    info, body = await blobs.get(stored)

    assert body == b"second"
    assert (info.content_type, info.size) == ("b/b", 6)
    assert first.modified is not None and info.modified is not None
    assert info.modified > first.modified
    assert info == await blobs.info(stored)
    assert second.sha256 == info.sha256


async def ends(blobs: IBlobs) -> None:
    """What has a time to live is gone after it, and can be put again."""
    stored = await blobs.encode("mayfly")
    await blobs.put("mayfly", b"1", ttl_seconds=1)
    for _ in range(60):
        if await gone(blobs, stored):
            break
        await deferLater(reactor, 0.1)
    else:
        raise AssertionError("still there")
    await blobs.put("mayfly", b"2", ttl_seconds=60)
    assert (await blobs.get(stored))[1] == b"2"


async def deletes(blobs: IBlobs) -> None:
    """A deleted blob is gone; deleting nothing is no error; it can come back."""
    stored = await blobs.encode("away")
    await blobs.put("away", b"1")
    told: BlobInfo = await blobs.delete(stored)
    never = await blobs.delete(await blobs.encode("never"))

    assert told.name == stored
    assert 0 < told.deleted <= time.time() + 1
    assert never.modified is None
    assert await gone(blobs, stored)
    await deferLater(reactor, 0.01)
    await blobs.put("away", b"2")
    assert (await blobs.get(stored))[1] == b"2"


async def misses(blobs: IBlobs) -> None:
    """What was never put is not found."""
    stored = await blobs.encode("missing")
    await fails(NotFound, blobs.get(stored))
    await fails(NotFound, blobs.info(stored))


async def keeps_much(blobs: IBlobs) -> None:
    """32 MB come back as they were."""
    put = await blobs.put("large", LARGE)
    info, body = await blobs.get(await blobs.encode("large"))

    assert body == LARGE
    assert info.size == put.size == len(LARGE)


async def many_at_once(blobs: IBlobs) -> None:
    """Many at a time, also of the same name, do not mix."""

    async def one(number: int) -> None:
        name, body = f"n{number % 10}", b"%d" % (number % 10) * (number * 1000)
        await blobs.put(name, body, encoded=False, content_type="a/b")
        info, got = await blobs.get(await blobs.encode(name))
        assert set(got) <= {ord(str(number % 10))}
        assert info.size == len(got)
        assert info.sha256 == hashlib.sha256(got).hexdigest()

    await gatherResults([Deferred.fromCoroutine(one(number)) for number in range(40)])


async def refuses_names(blobs: IBlobs) -> None:
    """What can be no name is refused, and harms nothing."""
    for name in HOSTILE:
        await fails(InvalidRequest, blobs.put(name, b"1"))
    for name in HOSTILE_STORED:
        await fails(InvalidRequest, blobs.put(name, b"1", encoded=True))
    for name in HOSTILE_STORED:
        await fails(InvalidRequest, blobs.get(name))


EXAM = (
    has_the_interface,
    gives_back,
    takes_stored_names,
    guesses_types,
    keeps_nothing_too,
    replaces,
    ends,
    deletes,
    misses,
    keeps_much,
    many_at_once,
    refuses_names,
)
