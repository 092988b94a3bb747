"""Stores that `image.blob_url` names, in whole processes and as they run."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import treq
from twisted.internet import reactor
from twisted.internet.task import deferLater

from clinfra.errors import InvalidRequest, StorageDamaged, StorageFull
from clinfra.image.store_directory import INCOMING, Directory, DirectoryStore
from tests.image.live import in_reactor, until
from tests.image.pictures import jpeg
from tests.support import ClinfraProcess

CLINFRA = str(Path(sys.executable).with_name("clinfra"))


def files(directory: Path) -> set[str]:
    """Return the names of all files in a directory and below."""
    return {each.name for each in directory.rglob("*") if each.is_file()}


@in_reactor
async def test_uploads(tmp_path: Path) -> None:
    """The image service keeps what it makes as files, and finds it after a restart."""
    directory = tmp_path / "made here"
    url = directory.as_uri()
    with ClinfraProcess({"image": {"blob_url": url, "sizes": ["30x30"]}}) as process:
        answer = await treq.put(
            process.url("image", "/x?response=info"), jpeg(80, 60), persistent=False
        )
        told = await answer.json()
        made = told["blob_names"]["30x30"]
        assert {made, told["blob_info_name"]} <= files(directory)
        assert process.running.terminate() == 0
        process.restart()
        stored = told["blob_info_name"].removesuffix(".json")
        answer = await treq.get(
            process.url("image", f"/{stored}/30x30"), persistent=False
        )
        assert (answer.code, (await answer.content())[:3]) == (200, b"\xff\xd8\xff")
        assert process.running.terminate() == 0
        assert "Traceback" not in process.running.output


def test_wrong_urls() -> None:
    """A URL that cannot be is told with everything else that is wrong."""
    ended = subprocess.run(
        [CLINFRA, "check", "--set", "image.blob_url=ftp://x/", "--set", "image.q=1"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    lines = ended.stderr.splitlines()
    assert any("image.blob_url: 'ftp://x/' is none of file:" in line for line in lines)
    assert any("image.q" in line for line in lines)


def test_unusable_directory(tmp_path: Path) -> None:
    """A directory that cannot be used ends the start with one sentence."""
    (tmp_path / "file").write_bytes(b"")
    url = (tmp_path / "file" / "below").as_uri()
    process = ClinfraProcess({"image": {"blob_url": url}})
    try:
        child = process.start(wait=False)
        assert child.wait() == 1
        assert "clinfra: image.blob_url: cannot use" in child.output
        assert "Traceback" not in child.output
    finally:
        process.close()


@in_reactor
async def test_troubles(tmp_path: Path, monkeypatch: Any) -> None:
    """A full disk and a broken one are told as what they are."""
    store = DirectoryStore(Directory(tmp_path), reactor=reactor)
    store.open()
    for number, kind in (
        (errno.ENOSPC, StorageFull),
        (errno.EDQUOT, StorageFull),
        (errno.EIO, StorageDamaged),
    ):

        def broken(_: int, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", broken)
            try:
                await store.put("x", b"1")
            except kind:
                pass
            else:
                raise AssertionError(kind)
    try:
        await store.put("x" * 300, b"1")
    except InvalidRequest:
        pass
    else:
        raise AssertionError("too long for a file")
    assert files(tmp_path) == set()
    await store.close()


@in_reactor
async def test_sweeps_while_it_runs(tmp_path: Path) -> None:
    """What has expired is removed by itself, and nothing goes on after the close."""
    before = DirectoryStore(Directory(tmp_path), reactor=reactor)
    before.open()
    for number in range(5):
        await before.put(f"{number}", b"1", ttl_seconds=0)
    await before.put("stays", b"1", ttl_seconds=60)
    await before.close()
    await deferLater(reactor, 1.1)  # ends are whole seconds
    store = DirectoryStore(Directory(tmp_path), reactor=reactor)
    store.open()
    await until(lambda: files(tmp_path) == {"000_stays"})
    await store.close()
    assert not list((tmp_path / INCOMING).iterdir())
