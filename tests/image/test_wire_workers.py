"""Real worker processes: hostile pictures, sudden death, and what is left behind."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import attrs
import pytest
from PIL import Image
from twisted.internet import reactor

from clinfra.config import ImageConfig
from clinfra.errors import Overloaded
from clinfra.image.child import Child, command
from clinfra.image.job import BadImage
from clinfra.image.render import Renderer
from clinfra.image.sources import ladder
from tests.image import corpus
from tests.image.live import alive, in_reactor, until
from tests.image.pictures import encode, jpeg, photograph, png_bomb, scan_bomb
from tests.image.support import job
from tests.support import Child as Process
from tests.support import wait_until

MEMORY_BYTES = 1 << 30


@asynccontextmanager
async def workers(
    count: int = 1,
    *,
    memory_bytes: int = MEMORY_BYTES,
    timeout_seconds: float = 10,
    jobs_per_worker: int = 1000,
) -> AsyncIterator[Renderer]:
    """Run real workers, and end them whatever happens."""
    start = command(memory_bytes, int(timeout_seconds) + 1)
    renderer = Renderer(
        reactor,
        lambda on_message, on_gone: Child(reactor, start, on_message, on_gone),
        places=count,
        timeout_seconds=timeout_seconds,
        jobs_per_worker=jobs_per_worker,
        queue=100,
    )
    renderer.start()
    try:
        await until(lambda: renderer.report()["workers"] == count)
        yield renderer
    finally:
        pids = renderer.pids()
        await renderer.stop()
        assert not [pid for pid in pids if alive(pid)]


@contextmanager
def uploaded(data: bytes) -> Iterator[int]:
    """Return a descriptor of some bytes."""
    with open(os.memfd_create("upload"), "w+b") as file:
        file.write(data)
        file.flush()
        yield file.fileno()


async def render(renderer: Renderer, data: bytes, query: str = "", **more: Any) -> Any:
    with uploaded(data) as upload:
        return await renderer.render(upload, job(query, **more), 1)


@in_reactor
async def test_render() -> None:
    """A real worker renders a picture, turned upright, in every size."""
    async with workers() as renderer:
        rendered = await render(renderer, jpeg(1200, 900))
        made = {
            name: Image.open(io.BytesIO(rendition.body)).size
            for name, rendition in rendered.renditions.items()
        }
        assert made == {
            "50x50c": (50, 50),
            "300x300": (300, 225),
            "600x450": (600, 450),
        }
        assert renderer.report()["simd"] is True


@in_reactor
async def test_all_formats() -> None:
    """Every format works within the worker's limits, and bad ones are told."""
    async with workers() as renderer:
        for name in ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "TIFF", "BMP"):
            rendered = await render(renderer, encode(photograph(640, 480), name))
            assert rendered.info["format"] == name
        for data in (b"", b"bad data", encode(photograph(64, 48), "PPM")):
            with pytest.raises(BadImage):
                await render(renderer, data)
        assert renderer.report()["died"] == 0


@in_reactor
async def test_killed_in_the_middle() -> None:
    """A worker killed from outside costs its picture, and is replaced."""
    async with workers() as renderer:
        (pid,) = renderer.pids()
        os.kill(pid, signal.SIGSTOP)
        with uploaded(jpeg(640, 480)) as upload:
            first = renderer.render(upload, job(), 1)
            second = renderer.render(upload, job(), 1)
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(Overloaded):
                await first
            assert len((await second).renditions) == 3
        assert renderer.pids() != [pid]


@in_reactor
async def test_scan_bomb() -> None:
    """A picture that would take too long is given up in time; others go on."""
    bomb = scan_bomb(3000, side=4000)
    async with workers(timeout_seconds=2) as renderer:
        with uploaded(bomb) as upload, uploaded(jpeg(64, 48)) as picture:
            slow = renderer.render(upload, job(max_scans=10000), 1)
            quick = renderer.render(picture, job(), 1)
            with pytest.raises(BadImage, match="2 s"):
                await slow
            assert (await quick).info["width"] == 64
        assert renderer.report()["timed_out"] == 1


@in_reactor
async def test_memory_bomb() -> None:
    """A picture that needs too much memory is bad, and nobody else's trouble."""
    bomb = encode(Image.new("RGB", (4000, 3000)), "WEBP", quality=1, method=0)
    async with workers(memory_bytes=192 << 20) as renderer:
        # Pillow says so; the fast resizer aborts the worker.
        with pytest.raises(BadImage, match=r"memory|signal 6"):
            await render(renderer, bomb)
        assert (await render(renderer, jpeg(64, 48))).info["width"] == 64
    async with workers() as renderer:
        assert (await render(renderer, bomb)).info["width"] == 4000
        assert renderer.report()["died"] == 0


@in_reactor
async def test_nice() -> None:
    """While workers render, whoever serves goes first."""
    async with workers() as renderer:
        await render(renderer, jpeg(64, 48))
        ours = os.getpriority(os.PRIO_PROCESS, 0)
        for pid in renderer.pids():
            assert os.getpriority(os.PRIO_PROCESS, pid) == min(ours + 5, 19)


@in_reactor
async def test_recycled() -> None:
    """Workers are replaced after their share of pictures, without losing one."""
    async with workers(2, jobs_per_worker=3) as renderer:
        before = renderer.pids()
        with uploaded(jpeg(64, 48)) as upload:
            waiting = [renderer.render(upload, job(), 1) for _ in range(14)]
            for each in waiting:
                assert (await each).info["width"] == 64
        report = renderer.report()
        assert (report["rendered"], report["died"]) == (14, 0)
        assert report["recycled"] >= 3
        assert not set(before) & set(renderer.pids())


@in_reactor
async def test_nothing_inherited() -> None:
    """A worker has its socket and nothing else of its parent's."""
    with open("/dev/null") as inheritable:
        os.set_inheritable(inheritable.fileno(), True)
        async with workers() as renderer:
            (pid,) = renderer.pids()
            links = {
                os.readlink(f"/proc/{pid}/fd/{number}")
                for number in os.listdir(f"/proc/{pid}/fd")
            }
            sockets = {link for link in links if link.startswith("socket:")}
            assert len(sockets) == 1
            assert links - sockets == {"/dev/null"}
            assert len(os.listdir(f"/proc/{pid}/fd")) == 4
            with open(f"/proc/{pid}/status") as status:
                assert "NoNewPrivs:\t1" in status.read()


def test_no_orphans() -> None:
    """Workers end with their parent, even when it is killed without a word."""
    command_line = [sys.executable, "-m", "tests.image.orphanage"]
    with Process(command_line) as parent:
        parent.wait_for("READY")
        line = parent.output.splitlines()[-1]
        pids = [int(word) for word in line.split()[1:]]
        assert len(pids) == 2 and all(map(alive, pids))
        # One of them is not even listening.
        os.kill(pids[0], signal.SIGSTOP)
        parent.signal(signal.SIGKILL)
        parent.wait()
        wait_until(lambda: not any(map(alive, pids)), "the workers end")


@in_reactor
async def test_corpus() -> None:
    """Bad and hostile files break no worker, and keep none from its next picture."""
    async with workers(2) as renderer:
        for files in (corpus.bad(), corpus.bombs()):
            for data in files.values():
                with pytest.raises(BadImage):
                    await render(renderer, data)
        for name, data in {**corpus.whole(), **corpus.odd()}.items():
            assert (await render(renderer, data)).info["width"] == corpus.WIDTH, name
        report = renderer.report()
        assert (report["died"], report["timed_out"]) == (0, 0)


@in_reactor
async def test_memory() -> None:
    """The largest pictures that are accepted take no worker more than 250 MB."""
    side = 7000
    grey = Image.new("L", (side, side), 90)
    smaller = Image.new("RGB", (6600, 6600), "grey")
    for data in (
        png_bomb(side, side),
        encode(smaller, "JPEG", progressive=True),
        encode(grey, "WEBP", method=0),
        encode(grey, "GIF"),
    ):
        async with workers(timeout_seconds=60) as renderer:
            with uploaded(data) as upload:
                asked = attrs.evolve(job(), mezzanines=ladder(ImageConfig().mezzanine))
                rendered = await renderer.render(upload, asked, 1)
            assert len(rendered.renditions) == 5
            assert 50e6 < _peak_bytes(*renderer.pids()) < 250e6


def _peak_bytes(pid: int) -> int:
    """Return the most memory that a process ever had."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        (line,) = (line for line in file if line.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])
