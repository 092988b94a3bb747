"""The image service put together: its parts, its start and its end."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from secrets import token_urlsafe
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from zope.interface import implementer

from clinfra.config import ImageConfig
from clinfra.errors import ConfigProblems, StartupFailed, Trouble
from clinfra.image import sniff
from clinfra.image.allowed import Allowed
from clinfra.image.badfiles import BadFiles
from clinfra.image.child import Child, command
from clinfra.image.gallery import Gallery
from clinfra.image.ondemand import OnDemand
from clinfra.image.params import parse_params
from clinfra.image.render import OnGone, OnMessage, Renderer
from clinfra.image.resource import ImageResource
from clinfra.image.sizes import parse_recipe
from clinfra.image.storing import Storing
from clinfra.image.uploads import Uploads
from clinfra.interfaces import IBlobs, IProduct
from clinfra.web.streams import Threads


def make_image_service(
    config: ImageConfig, *, reactor: Any, data_dir: Path, blobs: IBlobs
) -> ImageService:
    """Assemble the image service.

    Args:
        data_dir: of the whole process; uploads on their way are kept below it.
        blobs: where results go.

    Raises:
        ConfigProblems: values that no type can catch.
    """
    allowed, gallery = check(config), None
    if config.gallery != "off":
        key = token_urlsafe(32)
        allowed = allowed.and_signed_by(key)
        gallery = Gallery(config, allowed=allowed, key=key, now=time.time)
    threads = Threads(reactor, reactor.getThreadPool())
    start = command(config.worker_bytes, int(config.worker_timeout) + 1)

    def hire(on_message: OnMessage, on_gone: OnGone) -> Child:
        return Child(reactor, start, on_message, on_gone)

    renderer = Renderer(
        reactor,
        hire,
        places=config.workers or len(os.sched_getaffinity(0)),
        timeout_seconds=config.worker_timeout,
        jobs_per_worker=config.worker_jobs,
        queue=config.queue,
    )
    bad_files = None
    if config.save_bad_path:
        bad_files = BadFiles(Path(config.save_bad_path), config.save_bad_bytes, threads)
    storing = Storing(blobs, threads)
    spool_directory = data_dir / "image"
    uploads = Uploads(
        config,
        renderer=renderer,
        storing=storing,
        spool_directory=spool_directory,
        bad_files=bad_files,
        threads=threads,
        now=time.time,
    )
    on_demand = OnDemand(
        config,
        allowed=allowed,
        blobs=blobs,
        renderer=renderer,
        storing=storing,
        spool_directory=spool_directory,
        threads=threads,
        now=time.time,
    )
    routes = on_demand.routes()
    if gallery is not None:
        routes = (*gallery.routes(), *routes)
    resource = ImageResource(uploads, routes)
    return ImageService(
        resource, renderer, storing, on_demand, spool_directory, bad_files
    )


def check(config: ImageConfig) -> Allowed:
    """Check what types and bounds cannot; return what may be asked for.

    Raises ConfigProblems with everything.
    """
    problems = [
        f"image.formats: {name!r} is not one of {', '.join(sniff.FORMATS)}"
        for name in config.formats
        if name not in sniff.FORMATS
    ]
    try:
        parse_params(b"", config)
    except Trouble as trouble:
        problems.append(f"image: {trouble.sentence}")
    try:
        mezzanine = parse_recipe(config.mezzanine)
        if mezzanine.format != "jpeg" or mezzanine.mode != "fit":
            problems.append("image.mezzanine: it is a JPEG, and the whole picture")
        width, height = mezzanine.width or 0, mezzanine.height or 0
        if not 0 < width * height <= config.max_size_pixels:
            problems.append(
                "image.mezzanine: both sides are given, and have no more pixels"
                " together than image.max_size_pixels"
            )
    except Trouble as trouble:
        problems.append(f"image.mezzanine: {trouble.sentence}")
    keys: tuple[str, ...] = ()
    try:
        keys = read_keys(config)
    except OSError as error:
        problems.append(f"image.signing_keys_file: {error.strerror or error}")
    except UnicodeDecodeError:
        problems.append("image.signing_keys_file: it is not text in UTF-8")
    allowed = None
    try:
        allowed = Allowed.of(config, keys)
    except ConfigProblems as more:
        problems += more.problems
    if problems or allowed is None:
        raise ConfigProblems(problems)
    return allowed


def read_keys(config: ImageConfig) -> tuple[str, ...]:
    """Return the secrets of `signing_keys_file`.

    Raises OSError, UnicodeDecodeError.
    """
    if not config.signing_keys_file:
        return ()
    text = Path(config.signing_keys_file).read_text(encoding="utf-8")
    return tuple(filter(None, map(str.strip, text.splitlines())))


@implementer(IProduct)
class ImageService(Service):
    """The image service; see IProduct."""

    name = "image"
    lane = None

    def __init__(
        self,
        resource: ImageResource,
        renderer: Renderer,
        storing: Storing,
        on_demand: OnDemand,
        spool_directory: Path,
        bad_files: BadFiles | None,
    ) -> None:
        self.resource = resource
        self._renderer = renderer
        self._storing = storing
        self._on_demand = on_demand
        self._spool_directory = spool_directory
        self._bad_files = bad_files

    def open(self) -> None:
        """Make the spool directory.  Raises StartupFailed."""
        try:
            self._spool_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StartupFailed(
                f"The image service needs its directory: {error}"
            ) from error
        if not os.access(self._spool_directory, os.W_OK):
            raise StartupFailed(f"{self._spool_directory} cannot be written to.")
        if self._bad_files is not None:
            self._bad_files.open()

    def startService(self) -> None:
        """Start the workers."""
        super().startService()
        self._renderer.start()

    def stopService(self) -> Deferred[None]:
        """Let what is being stored finish, then end the workers."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        stopped = self._renderer.stop()
        await self._storing.idle()
        await stopped

    def report(self) -> Mapping[str, Any]:
        """Return what the admin pages show."""
        return {**self._renderer.report(), "on_demand": self._on_demand.report()}
