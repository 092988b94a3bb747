"""`clinfra image render` and `clinfra image info`: the same workers, without a server.

Results lie beside their pictures, or below ``--out``, as NAME_SIZE.EXTENSION.  A file
that cannot be rendered costs a line on standard error and the exit status, never the
others.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredList
from twisted.python.failure import Failure

from clinfra.config import ImageConfig
from clinfra.image.command_files import Picture, Results, WouldOverwrite, find_pictures
from clinfra.image.command_work import (
    DONE,
    FAILED,
    TROUBLES,
    render_file,
    run_with_workers,
    sentence_of,
)
from clinfra.image.job import Bounds, Job
from clinfra.image.render import Renderer
from clinfra.progress import Progress, files

_CONFIG = ImageConfig()


def run_render(arguments: argparse.Namespace) -> int:
    """Render what a command line asks for; return the exit status."""
    pictures = list(find_pictures(arguments.files, arguments.sizes, arguments.out))
    if not pictures:
        print("There are no pictures.", file=sys.stderr)
        return FAILED
    batch = _Batch(pictures, arguments, sys.stdout, sys.stderr)
    workers = min(arguments.workers, len(pictures))
    return run_with_workers(workers, _CONFIG, batch.render_all)


@define(eq=False)
class _Batch:
    """Many pictures, a few at a time."""

    _pictures: Sequence[Picture]
    _arguments: argparse.Namespace
    _out: TextIO
    _err: TextIO
    _job: Job = field(init=False)
    _results: Results = field(init=False)
    _progress: Progress = field(init=False)
    _claims: dict[Path, Path] = field(init=False, factory=dict)
    _done: int = field(init=False, default=0)
    _status: int = field(init=False, default=DONE)

    def __attrs_post_init__(self) -> None:
        arguments = self._arguments
        self._job = Job(arguments.sizes, arguments.quality, Bounds.of(_CONFIG))
        self._results = Results(self._pictures)
        stream = self._err if self._err.isatty() else None
        total = len(self._pictures)
        self._progress = Progress(stream, "image", total, time.monotonic, files)

    async def render_all(self, renderer: Renderer) -> int:
        """Render all; return the exit status."""
        queue = iter(self._pictures)
        # One more than workers: so none of them waits for the next picture.
        hands = min(self._arguments.workers, len(self._pictures)) + 1
        working = [
            Deferred.fromCoroutine(self._work(renderer, queue)) for _ in range(hands)
        ]
        try:
            # All of them, also when they are cancelled: none goes on behind our back.
            for succeeded, result in await DeferredList(working, consumeErrors=True):
                if not succeeded:
                    assert isinstance(result, Failure)
                    result.raiseException()
        finally:
            self._progress.end()
        return self._status

    async def _work(self, renderer: Renderer, queue: Iterator[Picture]) -> None:
        for picture in queue:
            told: dict[str, Any] = {"file": str(picture.path)}
            try:
                told.update(await self._render(renderer, picture))
            except TROUBLES as error:
                told["error"] = sentence_of(error)
                self._status = FAILED
            self._tell(told)

    async def _render(self, renderer: Renderer, picture: Picture) -> dict[str, Any]:
        other = self._claims.setdefault(picture.claim, picture.path)
        if other != picture.path:
            raise WouldOverwrite(f"its results would be called as those of {other}")
        rendered = await render_file(renderer, picture.path, self._job)
        results = []
        for recipe in self._job.recipes:
            rendition = rendered.renditions[recipe.name]
            path = self._results.write(picture, recipe, rendition)
            results.append(
                {
                    "size": recipe.name,
                    "file": str(path),
                    "content_type": rendition.content_type,
                    "width": rendition.width,
                    "height": rendition.height,
                    "bytes": len(rendition.body),
                }
            )
        return {"info": rendered.info, "results": results}

    def _tell(self, told: dict[str, Any]) -> None:
        self._done += 1
        self._progress.end()
        if "error" in told:
            print(f"{told['file']}: {told['error']}", file=self._err, flush=True)
        if self._arguments.json:
            print(json.dumps(told), file=self._out, flush=True)
        else:
            for result in told.get("results", ()):
                print(result["file"], file=self._out, flush=True)
        self._progress.tell(self._done)


def run_info(arguments: argparse.Namespace) -> int:
    """Print the info of pictures; return the exit status."""
    job = Job((), _CONFIG.quality, Bounds.of(_CONFIG))

    async def tell_all(renderer: Renderer) -> int:
        status = DONE
        for name in arguments.files:
            try:
                rendered = await render_file(renderer, Path(name), job)
            except TROUBLES as error:
                print(f"{name}: {sentence_of(error)}", file=sys.stderr)
                status = FAILED
            else:
                print(json.dumps(rendered.info, indent=2), flush=True)
        return status

    return run_with_workers(1, _CONFIG, tell_all)
