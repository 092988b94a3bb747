"""`clinfra doctor`: what is wrong, and what to do about it.

It reads the configuration, looks at this machine, and asks the process that runs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

from clinfra.config import Config
from clinfra.errors import ConfigProblems
from clinfra.shell import checks_here, checks_running
from clinfra.shell.asking import Unreached, find_admin
from clinfra.shell.findings import (
    Finding,
    Grade,
    as_json,
    finding_lines,
    good,
    wrong,
)

Read = Callable[[], Config]
"""Reads and checks the configuration; raises ConfigProblems."""


def run_doctor(arguments: argparse.Namespace, read: Read) -> int:
    """Print the findings, what is wrong at the end; return the exit status."""
    found = list(examine(arguments, read))
    order = list(Grade)
    found.sort(key=lambda each: order.index(each.grade))
    bad = sum(each.grade is Grade.WRONG for each in found)
    if arguments.json:
        print(json.dumps(as_json(found), indent=2, ensure_ascii=False))
    else:
        shown = [each for each in found if arguments.all or each.grade != Grade.GOOD]
        print("\n".join(finding_lines(shown)), end="\n" * bool(shown))
        fine = sum(each.grade is Grade.GOOD for each in found)
        print(f"{bad} wrong, {len(found) - fine - bad} to think about, {fine} good")
    return 1 if bad else 0


def examine(arguments: argparse.Namespace, read: Read) -> Iterator[Finding]:
    """Yield what is found."""
    yield from checks_here.packages()
    configuration: Config | None = None
    try:
        configuration = read()
    except ConfigProblems as problems:
        for problem in problems.problems:
            yield wrong(problem, "correct it; clinfra config prints every key")
    else:
        yield good("the configuration can be read")
    running = False
    try:
        admin = find_admin(arguments.admin, configuration, arguments.timeout)
        status, unready = admin.status(), admin.unready()
    except Unreached as unreached:
        yield wrong(
            str(unreached),
            "start clinfra (twistd -n clinfra), or say where it is: --admin URL",
        )
    else:
        running = True
        yield good(f"clinfra runs, and answers at {admin.url}")
        yield from checks_running.readiness(unready)
        yield from checks_running.running(status, version("clinfra"))
    if configuration is not None:
        yield from _configured(arguments, configuration, running)


def _configured(
    arguments: argparse.Namespace, configuration: Config, running: bool
) -> Iterator[Finding]:
    """Yield what is found of what the configuration names."""
    blob, image, proxy = configuration.blob, configuration.image, configuration.proxy
    least = blob.min_free_bytes if blob is not None else 1 << 20
    yield from checks_here.data_dir(Path(configuration.data_dir), least)
    yield from checks_here.ports(configuration, running)
    yield from checks_here.descriptors(configuration)
    yield from checks_here.memory(configuration)
    if proxy is not None:
        nodes = proxy.cache.memcached
        yield from checks_here.memcached(nodes, arguments.timeout)
    if image is not None:
        yield from checks_here.heic(image.formats)
    yield from checks_here.secrets(list(_secret_files(arguments, configuration)))
    yield from checks_here.clock(blob is not None and bool(blob.cluster_file))


def _secret_files(
    arguments: argparse.Namespace, configuration: Config
) -> Iterator[Path]:
    """Yield the files that have secrets in them."""
    image, admin = configuration.image, configuration.admin
    inside = bool(image is not None and image.signing_keys)
    inside = inside or bool(admin is not None and admin.token)
    if inside:
        for path in arguments.config:
            yield from sorted(path.glob("*.toml")) if path.is_dir() else (path,)
    if image is not None and image.signing_keys_file:
        yield Path(image.signing_keys_file)
    if admin is not None and admin.token_file:
        yield Path(admin.token_file)
