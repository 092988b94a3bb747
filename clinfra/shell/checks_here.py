"""What `clinfra doctor` looks at on this machine: files, limits, ports, packages.

Nothing is changed; of a directory that is not there its parent is looked at.
"""

from __future__ import annotations

import ctypes
import os
import re
import resource
import shutil
import socket
import stat
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from clinfra.config import Config
from clinfra.shell.asking import place_of
from clinfra.shell.findings import Finding, advice, good, wrong
from clinfra.shell.words import amount
from clinfra.web.pool import Origin

_SPARE_DESCRIPTORS = 256
"""Files, logs, kept connections to peers and memcached."""

_LOW_SHARE = 0.05
_NEEDED = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])? *>= *([0-9.]+)$")
_NOT_SYNCHRONISED = 5
"""What adjtimex returns then (TIME_ERROR)."""


def packages() -> Iterator[Finding]:
    """Python, and what clinfra stands on, are new enough."""
    old = []
    for line in requires("clinfra") or ():
        if found := _NEEDED.match(line):
            try:
                here = version(found[1])
            except PackageNotFoundError:
                here = "none"
            if _numbers(here) < _numbers(found[2]):
                old.append(f"{found[1]} {found[2]} is needed, there is {here}")
    python = ".".join(map(str, sys.version_info[:3]))
    for sentence in old:
        yield wrong(sentence, "install clinfra again with pip, which brings it")
    if not old:
        yield good(f"clinfra {version('clinfra')}, Python {python} and its packages")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", text)))


def data_dir(path: Path, min_free_bytes: int) -> Iterator[Finding]:
    """The data directory is ours alone, writable, and has room."""
    place = path.absolute()
    there = next(each for each in (place, *place.parents) if each.exists())
    if not there.is_dir():
        yield wrong(f"{there} is no directory", "set data_dir to one")
        return
    if not os.access(there, os.W_OK | os.X_OK):
        owner = there.stat().st_uid
        yield wrong(
            f"{there} cannot be written by user {os.getuid()}",
            f"run clinfra as its owner (user {owner}), or chown it",
        )
    elif there != place:
        yield good(f"{place} will be made when clinfra starts")
    elif place.stat().st_mode & stat.S_IRWXO:
        yield advice(f"{place} is open to other users", f"chmod o-rwx {place}")
    else:
        yield good(f"{place} is writable")
    yield from _room(there, min_free_bytes)


def _room(place: Path, min_free_bytes: int) -> Iterator[Finding]:
    use = shutil.disk_usage(place)
    facts = os.statvfs(place)
    left = f"{amount(use.free)} of {amount(use.total)} free in {place}"
    if use.free < min_free_bytes:
        yield wrong(
            f"{left}: blobs are refused below {amount(min_free_bytes)}",
            "make room, or move data_dir to a larger disk",
        )
    elif use.free < use.total * _LOW_SHARE:
        yield advice(left, "make room soon: writes end at blob.min_free_bytes")
    else:
        yield good(left)
    if facts.f_files and facts.f_favail < max(1000, facts.f_files * 0.01):
        yield wrong(
            f"{facts.f_favail} inodes are left in {place}",
            "remove small files from this disk, or make its file system anew with more",
        )


def descriptors(configuration: Config) -> Iterator[Finding]:
    """As many files may be open as connections are allowed."""
    sections = (
        configuration.blob,
        configuration.image,
        configuration.proxy,
        configuration.admin,
    )
    clients = sum(each.limits.connections for each in sections if each is not None)
    # Whoever is passed on has a connection on the other side, too.
    if configuration.proxy is not None:
        clients += configuration.proxy.limits.connections
    wanted = clients + _SPARE_DESCRIPTORS
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        yield good(f"{soft} files may be open in this shell, {wanted} may be needed")
        return
    yield advice(
        f"{soft} files may be open in this shell; with all connections in use"
        f" {wanted} are needed",
        f"ulimit -n {wanted} before the start (systemd: LimitNOFILE={wanted}), or lower"
        " limits.connections of the sections",
    )


def memory(configuration: Config) -> Iterator[Finding]:
    """What the configuration lets be used fits into the machine."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    wanted = 0
    if configuration.proxy is not None:
        processes = max(1, configuration.proxy.workers)
        wanted += configuration.proxy.cache.hot_bytes * processes
    if configuration.blob is not None:
        wanted += configuration.blob.cache_bytes
    if configuration.image is not None:
        makers = configuration.image.workers or os.cpu_count() or 1
        wanted += configuration.image.worker_bytes * makers
    told = f"caches and image workers may use {amount(wanted)} of {amount(total)}"
    if wanted > total:
        yield advice(
            told,
            "lower image.workers, image.worker_bytes or proxy.cache.hot_bytes, or the"
            " kernel may end processes when memory is short",
        )
    else:
        yield good(told)


def ports(configuration: Config, running: bool) -> Iterator[Finding]:
    """Where it listens somebody answers; or, before it runs, nobody is."""
    for name in ("proxy", "image", "blob", "admin"):
        section = getattr(configuration, name)
        for endpoint in () if section is None else section.listen:
            place = place_of(endpoint)
            if place is None or not place.startswith("http://"):
                continue
            origin = Origin.parse(place.removeprefix("http://"))
            yield _answered(name, origin) if running else _free(name, origin)


def _answered(name: str, origin: Origin) -> Finding:
    try:
        socket.create_connection((origin.host, origin.port), 3).close()
    except OSError as error:
        return wrong(
            f"{name} at {origin} takes no connections: {error.strerror or error}",
            "compare its listen with that of the process that runs, and read its log",
        )
    return good(f"{name} takes connections at {origin}")


def _free(name: str, origin: Origin) -> Finding:
    family = socket.AF_INET6 if ":" in origin.host else socket.AF_INET
    with socket.socket(family) as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind((origin.host, origin.port))
        except PermissionError:
            return wrong(
                f"{name} may not listen at {origin}: ports below 1024 are not for all",
                "use systemd's sockets (etc/clinfra.socket), or give the process"
                " CAP_NET_BIND_SERVICE",
            )
        except OSError as error:
            return wrong(
                f"{name} cannot listen at {origin}: {error.strerror or error}",
                f"see who does (ss -ltnp 'sport = :{origin.port}'), or change"
                f" {name}.listen",
            )
    return good(f"{origin} is free for {name}")


def memcached(nodes: Sequence[str], timeout: float) -> Iterator[Finding]:
    """Each memcached answers."""
    for node in nodes:
        remedy = "start it, or take it out of proxy.cache.memcached"
        try:
            answer = _version_of(Origin.parse(node), timeout)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error) or "no answer"
            yield wrong(f"memcached {node} cannot be reached: {why}", remedy)
            continue
        if answer.startswith("VERSION "):
            yield good(f"memcached {node} answers: {answer.removeprefix('VERSION ')}")
        else:
            yield wrong(f"{node} is no memcached: it says {answer[:60]!r}", remedy)


def _version_of(origin: Origin, timeout: float) -> str:
    if origin.unix_path:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(timeout)
        connection.connect(origin.unix_path)
    else:
        connection = socket.create_connection((origin.host, origin.port), timeout)
    with connection:
        connection.settimeout(timeout)
        connection.sendall(b"version\r\n")
        return connection.recv(200).decode("latin-1").strip()


def secrets(files: Sequence[Path]) -> Iterator[Finding]:
    """Files with secrets are not for everybody."""
    for path in files:
        try:
            mode = path.stat().st_mode
        except OSError as error:
            yield wrong(f"{path} cannot be read: {error.strerror}", "make it readable")
            continue
        if mode & stat.S_IROTH:
            yield wrong(f"{path} has secrets and everybody may read it", "chmod o-r it")
        else:
            yield good(f"{path} is not readable for everybody")


def heic(formats: Sequence[str]) -> Iterator[Finding]:
    """HEIC is accepted only where it can be read."""
    if "HEIC" not in formats:
        return
    try:
        version("pillow-heif")
    except PackageNotFoundError:
        yield advice(
            "HEIC pictures are refused: pillow-heif is not installed",
            "pip install 'clinfra[heic]', or take HEIC out of image.formats",
        )


def clock(clustered: bool) -> Iterator[Finding]:
    """The kernel's clock is set by others, as replicas need it."""
    structure = ctypes.create_string_buffer(512)  # all of it zero: only asks
    state = ctypes.CDLL(None, use_errno=True).adjtimex(structure)
    if state < 0:
        return
    if state != _NOT_SYNCHRONISED:
        yield good("the clock is kept right by others (NTP)")
    elif clustered:
        yield wrong(
            "the clock is not kept right: replicas order changes by their clocks",
            "run chrony or systemd-timesyncd on every host",
        )
    else:
        yield advice(
            "the clock is not kept right: times to live depend on it",
            "run chrony or systemd-timesyncd",
        )
