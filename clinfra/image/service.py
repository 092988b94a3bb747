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
from twisted.logger import Logger
from zope.interface import implementer

from clinfra.config import ImageConfig
from clinfra.errors import StartupFailed
from clinfra.image import deflating, heic
from clinfra.image.badfiles import BadFiles
from clinfra.image.checks import check
from clinfra.image.child import Child, command
from clinfra.image.elsewhere import Hosts
from clinfra.image.fetches import Fetches
from clinfra.image.fetching import Fetcher
from clinfra.image.gallery import Gallery
from clinfra.image.loading import Loading
from clinfra.image.ondemand import OnDemand
from clinfra.image.patience import Patience
from clinfra.image.render import OnGone, OnMessage, Renderer
from clinfra.image.resource import ImageResource
from clinfra.image.storing import Storing
from clinfra.image.uploads import Uploads
from clinfra.interfaces import IBlobs, IProduct
from clinfra.web.streams import Threads

__all__ = ["ImageService", "check", "make_image_service"]


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
    listed, gallery = check(config), None
    allowed = listed
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
    patience = Patience(reactor, config.worker_timeout)
    storing = Storing(blobs, threads, patience)
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
    loading = Loading(blobs, spool_directory, threads, patience, time.time)
    on_demand = OnDemand(
        config,
        allowed=allowed,
        blobs=blobs,
        loading=loading,
        renderer=renderer,
        storing=storing,
        now=time.time,
    )
    routes = on_demand.routes()
    if config.fetch_hosts:
        fetcher = Fetcher(
            reactor,
            Hosts.of(config.fetch_hosts),
            spool_directory,
            config.max_bytes,
            config.fetch_timeout,
        )
        fetches = Fetches(
            config, listed, fetcher, uploads, on_demand, loading, blobs, time.time
        )
        routes = (*fetches.routes(), *routes)
    if gallery is not None:
        routes = (*gallery.routes(), *routes)
    resource = ImageResource(uploads, routes)
    return ImageService(
        resource, renderer, storing, on_demand, spool_directory, bad_files
    )


@implementer(IProduct)
class ImageService(Service):
    """The image service; see IProduct."""

    log = Logger()

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
        if not deflating.is_fast():
            self.log.info("isal is not installed: PNG takes longer")
        if not heic.is_there():
            self.log.info("pillow-heif is not installed: HEIC is not accepted")

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
