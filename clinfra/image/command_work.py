"""Worker processes for a command, in a reactor of its own."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import react

from clinfra.config import ImageConfig
from clinfra.errors import Trouble
from clinfra.image import sniff
from clinfra.image.child import Child, command
from clinfra.image.command_files import WouldOverwrite, opened
from clinfra.image.job import BadImage, Job, NoSuchFrame, Rendered, ResultTooLarge
from clinfra.image.render import OnGone, OnMessage, Renderer

DONE, FAILED, INTERRUPTED = 0, 1, 130
"""Exit statuses; 2 is bad usage."""

TROUBLES: Final = (
    *(BadImage, ResultTooLarge, NoSuchFrame),
    *(WouldOverwrite, Trouble, OSError),
)
"""What one file may fail with."""


def sentence_of(error: BaseException) -> str:
    """Return what to say of a file that failed."""
    if isinstance(error, ResultTooLarge):
        return f"size too large: {error.size_name}"
    if isinstance(error, NoSuchFrame):
        return f"no such frame: {error.size_name}"
    if isinstance(error, BadImage):
        return f"bad image: {error.reason}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return error.sentence if isinstance(error, Trouble) else str(error)


async def render_file(renderer: Renderer, path: Path, job: Job) -> Rendered:
    """Render one file.  Raises `TROUBLES`."""
    with opened(path) as descriptor:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BadImage("not a file")
        kind = sniff.sniff(os.pread(descriptor, sniff.HEAD_BYTES, 0))
        if kind is None or kind.format not in job.bounds.formats:
            raise BadImage("not a known format" if kind is None else kind.format)
        return await renderer.render(descriptor, job, sniff.cost(kind, status.st_size))


def give_up_output(error: OSError) -> None:
    """Write nothing more to standard output; say why unless its reader went."""
    if not isinstance(error, BrokenPipeError):
        print(f"clinfra: {sentence_of(error)}", file=sys.stderr)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)


def run_with_workers(
    workers: int, config: ImageConfig, main: Callable[[Renderer], Awaitable[int]]
) -> int:
    """Run a command with so many workers; return its exit status."""
    status = [INTERRUPTED]
    ended: Deferred[None] = Deferred()
    start = command(config.worker_bytes, int(config.worker_timeout) + 1)

    async def work(reactor: Any) -> None:
        def hire(on_message: OnMessage, on_gone: OnGone) -> Child:
            return Child(reactor, start, on_message, on_gone)

        renderer = Renderer(
            reactor,
            hire,
            places=workers,
            timeout_seconds=config.worker_timeout,
            jobs_per_worker=config.worker_jobs,
            # Whoever calls `main` takes care that not too much waits.
            queue=1_000_000,
        )
        renderer.start()
        try:
            status[0] = await main(renderer)
        except CancelledError:
            pass
        except OSError as error:
            # What is told cannot be written, e.g. its reader has seen enough.
            give_up_output(error)
            status[0] = FAILED
        finally:
            await renderer.stop()
            ended.callback(None)

    def begin(reactor: Any) -> Deferred[None]:
        running = Deferred.fromCoroutine(work(reactor))

        def interrupt() -> Deferred[None]:
            running.cancel()
            return ended

        reactor.addSystemEventTrigger("before", "shutdown", interrupt)
        return running

    try:
        react(begin)
    except SystemExit as end:
        if end.code:
            return FAILED
    return status[0]
