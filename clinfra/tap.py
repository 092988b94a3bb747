"""`twistd clinfra`: where options, reactor and products meet.

The only module that imports the reactor, and the only one that knows every product.
Products are imported when they are configured: a proxy needs no image library.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from attrs import define
from twisted.logger import Logger
from twisted.python import usage

from clinfra import config
from clinfra.admin.service import make_admin_service
from clinfra.daemon import Daemon, Listener, Part
from clinfra.errors import ConfigProblems, StartupFailed, Trouble
from clinfra.interfaces import IBlobs, IMaintenance, IProduct, IPurge
from clinfra.logs import AccessLog, LineWriter, make_event_log
from clinfra.settings import load
from clinfra.web.site import Site

if TYPE_CHECKING:
    from clinfra.blob.topology import Topology

log = Logger()

Locate = Callable[[str], Sequence[str]]
_Section = (
    config.BlobConfig | config.ImageConfig | config.ProxyConfig | config.AdminConfig
)


_EXAMPLES = """
Examples:
  twistd -n clinfra
  twistd -n clinfra --set proxy.listen='["tcp:80"]' --set blob.ttl=30d
  twistd -n --reactor=clinfra clinfra --config /etc/clinfra --data-dir /srv/clinfra
"""


class Options(usage.Options):
    """The command line of `twistd clinfra`."""

    synopsis = "[--config FILE|DIR]... [--set SECTION.KEY=VALUE]... [--data-dir DIR]"
    longdesc = (
        "Runs the blob store, the image service and the caching reverse proxy. With no "
        "file everything runs, on 127.0.0.1: proxy 8080, blob 8081, image 8082, admin "
        "8090. Once a file is given, only the sections it has are started: [blob] "
        "[image] [proxy] [admin]. `clinfra config` prints every key with its default."
    )

    def __init__(self) -> None:
        super().__init__()
        self.files: list[Path] = []
        self.assignments: list[str] = []
        self.data_dir: str | None = None
        self.configuration = config.Config()

    def getUsage(self, width: int | None = None) -> str:
        """Return the help, with examples as they are typed."""
        return str(super().getUsage(width)) + _EXAMPLES

    def opt_config(self, path: str) -> None:
        """A TOML file or a directory of them; repeatable, later ones win."""
        self.files.append(Path(path))

    def opt_set(self, assignment: str) -> None:
        """One value, section.key=value, on top of the files; repeatable."""
        self.assignments.append(assignment)

    def opt_data_dir(self, path: str) -> None:
        """Where everything that must last is kept (default: clinfra-data)."""
        self.data_dir = path

    def opt_version(self) -> None:
        """Print the version and exit."""
        print(f"clinfra {version('clinfra')}")
        raise SystemExit(0)

    opt_c = opt_config
    opt_d = opt_data_dir

    def postOptions(self) -> None:
        """Read and check the configuration: all that is wrong, before anything runs."""
        try:
            self.configuration = load(
                self.files,
                assignments=self.assignments,
                data_dir=self.data_dir,
                check=check,
            )
        except ConfigProblems as problems:
            # Not a UsageError: twistd would hide the lines that matter under its help.
            print(f"clinfra: the configuration is wrong\n{problems}", file=sys.stderr)
            raise SystemExit(1) from None


def check(configuration: config.Config) -> None:
    """Check what only the products themselves know.  Raises ConfigProblems."""
    problems: list[str] = []
    for look in (_check_blob, _check_image, _check_proxy):
        try:
            look(configuration)
        except ConfigProblems as more:
            problems += more.problems
    if problems:
        raise ConfigProblems(problems)


def _check_blob(configuration: config.Config) -> None:
    if configuration.blob is not None:
        from clinfra.blob.cluster_file import read_topology

        read_topology(configuration.blob)


def _check_image(configuration: config.Config) -> None:
    if configuration.image is not None:
        from clinfra.image.service import check as check_image
        from clinfra.image.stores import check_url

        problems = check_url(configuration.image.blob_url)
        try:
            check_image(configuration.image)
        except ConfigProblems as more:
            problems += more.problems
        if problems:
            raise ConfigProblems(problems)


def _check_proxy(configuration: config.Config) -> None:
    if configuration.proxy is not None:
        from clinfra.proxy.loading import check_modules

        check_modules(configuration.proxy)


def rehearse_proxy(section: config.ProxyConfig, reactor: Any, connect: Any) -> Any:
    """Return the proxy with nothing behind it, to see what its rules do."""
    from clinfra.proxy.service import make_proxy_service

    return make_proxy_service(
        section,
        reactor=reactor,
        data_dir=Path(),
        builtin_pools=dict,
        locate=lambda name: (),
        connect=connect,
    )


def makeService(options: Options) -> Daemon:
    """Return the root service; called by twistd."""
    from twisted.internet import reactor

    twistd: Mapping[str, Any] = options.parent or {}
    foreground = bool(twistd.get("nodaemon", True))
    log_file = twistd.get("logfile") or ("" if foreground else "twistd.log")
    return compose(
        options.configuration,
        reactor=reactor,
        foreground=foreground,
        log_file="" if log_file == "-" else log_file,
    )


def compose(
    configuration: config.Config,
    *,
    reactor: Any,
    foreground: bool = True,
    log_file: str = "",
) -> Daemon:
    """Build everything that the configuration asks for; nothing runs yet.

    Args:
        reactor: Twisted's.
        foreground: whether somebody watches our standard output.
        log_file: where the log goes when the configuration names no file; empty
            means standard output.
    """
    try:
        return _compose(configuration, reactor, foreground, log_file)
    except (ConfigProblems, StartupFailed) as error:
        print(f"clinfra: {error}", file=sys.__stderr__, flush=True)
        raise SystemExit(1) from None


def _compose(
    configuration: config.Config, reactor: Any, foreground: bool, log_file: str
) -> Daemon:
    logging = configuration.logging
    writer = _open_log(logging.file or log_file)
    data_dir = Path(configuration.data_dir).absolute()
    shown = foreground and (logging.format == "text" or logging.file != "")
    daemon = Daemon(
        reactor=reactor,
        data_dir=data_dir,
        stop_timeout_seconds=configuration.stop_timeout,
        writer=writer,
        observer=make_event_log(logging, writer),
        announce=_print if shown else _log_line,
        refuse=lambda error: _refuse(error, writer, foreground),
        hints=lambda: _hints(daemon),
        handle_signal=signal.signal,
        terminal=foreground and os.isatty(0),
    )

    assembly = _Assembly(configuration, reactor, data_dir, writer, daemon)
    if configuration.blob is not None:
        assembly.add_blob(configuration.blob)
    if configuration.image is not None:
        assembly.add_image(configuration.image)
    if configuration.proxy is not None:
        assembly.add_proxy(configuration.proxy)
    if configuration.admin is not None:
        assembly.add_admin(configuration.admin)
    return daemon


@define(eq=False)
class _Assembly:
    """Adds parts to a daemon, each handed what it needs of those before it."""

    configuration: config.Config
    reactor: Any
    data_dir: Path
    writer: LineWriter
    daemon: Daemon
    blobs: IBlobs | None = None
    locate: Locate | None = None
    purge: IPurge | None = None
    maintenance: IMaintenance | None = None

    def _add(self, product: IProduct, section: _Section) -> None:
        logging = self.configuration.logging
        access_log = None
        if logging.access:
            access_log = AccessLog(
                self.writer.write, product.name, json_lines=logging.format == "json"
            )
        site = Site(
            product.resource,
            reactor=self.reactor,
            limits=section.limits,
            lane=product.lane,
            access_log=access_log,
        )
        site.noisy = False
        listeners = tuple(Listener(endpoint) for endpoint in section.listen)
        self.daemon.parts.append(Part(product, site, listeners))

    def add_blob(self, section: config.BlobConfig) -> None:
        """Add the blob store."""
        from clinfra.blob.service import make_blob_service

        blob = make_blob_service(section, reactor=self.reactor, data_dir=self.data_dir)
        self.blobs = blob.blobs
        if section.cluster_file:
            self.locate = _make_locate(blob.topology)
        self._add(blob, section)

    def add_image(self, section: config.ImageConfig) -> None:
        """Add the image service, over the blob store here or what is at `blob_url`."""
        from clinfra.image.service import make_image_service

        blobs = self._blobs_at(section.blob_url) if section.blob_url else self.blobs
        assert blobs is not None, "settings see to it"
        image = make_image_service(
            section, reactor=self.reactor, data_dir=self.data_dir, blobs=blobs
        )
        self._add(image, section)

    def _blobs_at(self, url: str) -> IBlobs:
        """Return the store of images at a URL, opened and closed with the daemon."""
        from clinfra.image.stores import make_store

        store = make_store(url, self.reactor)
        if store is not None:
            self.daemon.opening.append(store.open)
            self.daemon.closing.append(store.close)
            return store
        from clinfra.blob.client import BlobClient

        client = BlobClient(url, reactor=self.reactor)
        self.daemon.closing.append(client.close)
        return client

    def add_proxy(self, section: config.ProxyConfig) -> None:
        """Add the proxy, over the services here."""
        from clinfra.proxy.service import make_proxy_service

        proxy = make_proxy_service(
            section,
            reactor=self.reactor,
            data_dir=self.data_dir,
            builtin_pools=self.daemon.origins,
            locate=self.locate,
        )
        self.purge = self.maintenance = proxy
        self._add(proxy, section)

    def add_admin(self, section: config.AdminConfig) -> None:
        """Add the admin pages, over all parts before."""
        daemon, seconds = self.daemon, self.reactor.seconds
        began = seconds()
        proxy = self.configuration.proxy or config.ProxyConfig()
        admin = make_admin_service(
            products=[part.product for part in daemon.parts],
            purge=self.purge,
            maintenance=self.maintenance,
            state=lambda: daemon.state.value,
            uptime_seconds=lambda: seconds() - began,
            version=version("clinfra"),
            proxy_ports=lambda: daemon.ports("proxy"),
            default_port=proxy.default_port,
            listeners=lambda: {part.name: part.site.report() for part in daemon.parts},
        )
        self._add(admin, section)


def _make_locate(topology: Topology) -> Locate:
    """Return what tells the proxy where a stored blob is: "host:port" of its replicas.

    It raises ValueError for what cannot be a stored name.
    """

    def locate(name: str) -> Sequence[str]:
        try:
            replicas = topology.replicas_of(topology.place(name, encoded=True))
        except Trouble as trouble:
            raise ValueError(trouble.sentence) from None
        peers = [topology.peers[replica] for replica in replicas]
        return [f"{peer.ip}:{peer.port}" for peer in peers]

    return locate


def _open_log(file: str) -> LineWriter:
    writer = LineWriter(Path(file).absolute() if file else None)
    try:
        writer.open()
    except OSError as error:
        raise StartupFailed(f"cannot write {writer.path}: {error.strerror}") from error
    return writer


def _refuse(error: Exception, writer: LineWriter, foreground: bool) -> NoReturn:
    """End the process with status 1 and one plain sentence.

    By an exception, since only then twistd removes its pid file, and tells the process
    that waits for a daemon; the sentence has been said, so no traceback is shown.
    """
    if not foreground:
        log.critical("cannot start: {reason}", reason=str(error))
    writer.close()
    if foreground:
        print(f"clinfra: {error}", file=sys.__stderr__, flush=True)
    sys.excepthook = lambda kind, value, traceback: None
    raise error


def _print(line: str) -> None:
    # Whoever has closed our standard output, or filled its disk, need not know.
    with contextlib.suppress(OSError):
        print(line, file=sys.__stdout__, flush=True)


def _log_line(line: str) -> None:
    log.info("{line}", line=line)


def _hints(daemon: Daemon) -> Sequence[str]:
    """Return how to try what runs here."""
    addresses = {part.name: part.listeners[0].address for part in daemon.parts}
    if {"proxy", "image", "blob"} <= addresses.keys():
        place = addresses["proxy"] + "image/"
    elif "image" in addresses:
        place = addresses["image"]
    else:
        return []
    return [f"try    curl --data-binary @photo.jpg {place}"]
