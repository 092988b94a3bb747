"""`twistd clinfra`: where options, reactor and products meet.

The only module that imports the reactor; what is composed of what is in `assembly`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from twisted.internet.defer import Deferred
from twisted.logger import Logger, LogLevel
from twisted.python import usage

from clinfra import config
from clinfra.admin.access import check as check_access
from clinfra.assembly import Assembly, configured
from clinfra.assembly import rehearse_proxy as rehearse_proxy
from clinfra.daemon import Daemon
from clinfra.errors import ConfigProblems, StartupFailed
from clinfra.logs import LineWriter, make_event_log
from clinfra.reloading import Reloading
from clinfra.settings import load
from clinfra.syslog import SyslogWriter
from clinfra.systemd import Notifier
from clinfra.workers.orders import Orders
from clinfra.workers.worker import Line, read_orders

log = Logger()


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
        self.worker: int | None = None
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

    def opt_worker(self, descriptor: str) -> None:
        """Be a worker of a clinfra that runs; started by it, never by hand."""
        self.worker = int(descriptor)

    def read(self) -> config.Config:
        """Read and check the configuration.  Raises ConfigProblems."""
        return load(
            self.files,
            assignments=self.assignments,
            data_dir=self.data_dir,
            check=check,
        )

    def postOptions(self) -> None:
        """Read and check the configuration: all that is wrong, before anything runs."""
        if self.worker is not None:
            return  # it is told on its line to the main process
        try:
            self.configuration = self.read()
        except ConfigProblems as problems:
            # Not a UsageError: twistd would hide the lines that matter under its help.
            print(f"clinfra: the configuration is wrong\n{problems}", file=sys.stderr)
            raise SystemExit(1) from None


def check(configuration: config.Config) -> None:
    """Check what only the products themselves know.  Raises ConfigProblems."""
    problems: list[str] = []
    for look in (_check_blob, _check_image, _check_proxy, _check_admin):
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


def _check_admin(configuration: config.Config) -> None:
    if configuration.admin is not None and (
        problems := check_access(configuration.admin)
    ):
        raise ConfigProblems(problems)


def makeService(options: Options) -> Daemon:
    """Return the root service; called by twistd."""
    from twisted.internet import reactor

    if options.worker is not None:
        return compose_worker(options.worker, reactor=reactor)
    twistd: Mapping[str, Any] = options.parent or {}
    foreground = bool(twistd.get("nodaemon", True))
    log_file = twistd.get("logfile") or ("" if foreground else "twistd.log")
    return compose(
        options.configuration,
        reactor=reactor,
        foreground=foreground,
        log_file="" if log_file == "-" else log_file,
        reactor_name=twistd.get("reactor") or "",
        read_again=options.read,
    )


def compose(
    configuration: config.Config,
    *,
    reactor: Any,
    foreground: bool = True,
    log_file: str = "",
    reactor_name: str = "",
    read_again: Callable[[], config.Config] | None = None,
) -> Daemon:
    """Build everything that the configuration asks for; nothing runs yet.

    Args:
        reactor: Twisted's.
        foreground: whether somebody watches our standard output.
        log_file: where the log goes when the configuration names no file; empty
            means standard output.
        reactor_name: as twistd's --reactor has it.
        read_again: reads and checks the configuration anew; raises ConfigProblems.
    """
    try:
        logging = configuration.logging
        writer = _open_log(logging, logging.file or log_file)
        elsewhere = logging.file or logging.syslog
        shown = foreground and (logging.format == "text" or elsewhere != "")
        daemon = Daemon(
            reactor=reactor,
            data_dir=Path(configuration.data_dir).absolute(),
            stop_timeout_seconds=configuration.stop_timeout,
            writer=writer,
            observer=make_event_log(logging, writer),
            announce=_print if shown else _log_line,
            refuse=lambda error: _refuse(error, writer, foreground),
            hints=lambda: _hints(daemon),
            handle_signal=signal.signal,
            terminal=foreground and os.isatty(0),
            notifier=Notifier.take(os.environ),
        )
        assembly = Assembly(
            configuration,
            reactor,
            daemon.data_dir,
            writer,
            daemon,
            reactor_name=reactor_name,
            log_file=str(writer.path or ""),
        )
        assembly.add_all()
    except (ConfigProblems, StartupFailed) as error:
        print(f"clinfra: {error}", file=sys.__stderr__, flush=True)
        raise SystemExit(1) from None
    reloading = Reloading(assembly, read_again or (lambda: configuration))
    daemon.on_signal = {
        signal.SIGHUP: reloading.reload,
        signal.SIGUSR1: reloading.reopen_logs,
        signal.SIGUSR2: reloading.renew,
    }
    return daemon


def compose_worker(descriptor: int, *, reactor: Any) -> Daemon:
    """Build a worker's process, as it is told on its line to the main process."""
    orders: Orders = read_orders(descriptor)
    configuration = configured(orders)
    logging = configuration.logging
    writer = _open_log(logging, orders.log_file)
    daemon = Daemon(
        reactor=reactor,
        data_dir=Path(configuration.data_dir).absolute(),
        stop_timeout_seconds=configuration.stop_timeout,
        writer=writer,
        observer=make_event_log(logging, writer),
        announce=lambda line: None,
        refuse=lambda error: _refuse(error, writer, foreground=False),
        handle_signal=signal.signal,
        life_level=LogLevel.debug,
    )
    assembly = Assembly(
        configuration, reactor, daemon.data_dir, writer, daemon, orders=orders
    )
    assembly.add_all()
    handlers: dict[str, Callable[..., Any]] = {"reopen_logs": writer.reopen}
    handlers.update(assembly.handlers)
    purge, maintenance = assembly.purge, assembly.maintenance
    if purge is not None and maintenance is not None:
        handlers["purge"] = lambda urls, prefixes, tags, soft: purge.purge(
            urls, prefixes=prefixes, tags=tags, soft=soft
        )
        handlers["look_up"] = purge.look_up
        handlers["maintain"] = maintenance.maintain
        handlers["maintained"] = maintenance.maintained
    line = Line(
        reactor,
        descriptor,
        lambda: assembly.told(daemon.parts[0]),
        lambda seconds: Deferred.fromCoroutine(daemon.retire(seconds)),
        handlers,
        orders.calls,
    )
    if assembly.to_main is not None:
        assembly.to_main.line = line
    daemon.ready.append(line.open)
    daemon.closing.append(line.close)
    # What a terminal sends to all of its processes is the main process's to obey.
    ignored = (signal.SIGHUP, signal.SIGINT, signal.SIGUSR2)
    daemon.on_signal = {
        **dict.fromkeys(ignored, lambda: None),
        signal.SIGUSR1: writer.reopen,
    }
    return daemon


def _open_log(logging: config.LoggingConfig, file: str) -> LineWriter:
    if logging.syslog:
        return SyslogWriter.of(logging.syslog, logging.syslog_facility)
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
    addresses = {
        part.name: part.listeners[0].address for part in daemon.parts if part.listeners
    }
    if {"proxy", "image", "blob"} <= addresses.keys():
        place = addresses["proxy"] + "image/"
    elif "image" in addresses:
        place = addresses["image"]
    else:
        return []
    return [f"try    curl --data-binary @photo.jpg {place}"]
