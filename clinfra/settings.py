"""From TOML files and command-line options to one checked configuration.

Everything wrong is found before anything starts and told at once, one line each:
"FILE: section.key: sentence".  Only reading the files is I/O; nothing is bound or
created here.

Rules of merging: files in the order given, a directory stands for its `*.toml` in
order of name; later values win, tables merge, lists are replaced as a whole.  Once a
file is given, a product whose section is missing is not started.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import deepcopy
from ipaddress import ip_network
from pathlib import Path
from typing import Any, TypeVar

import attrs
from attrs import define, field

from clinfra import config
from clinfra.errors import ConfigProblems
from clinfra.schema import KeyPath, read_table

T = TypeVar("T")

SECTIONS = ("blob", "image", "proxy", "admin")
"""The sections that listen; once a file is given, only those it names are started."""


_ANY_PORT = re.compile(r"[a-z0-9:]+:(?:port=)?0+(?::|$)")
"""Endpoints that each get a port of their own."""

_SYSLOG = re.compile(r"/.+|udp:(\[[0-9a-fA-F:.]+\]|[^\s:\[\]]+):[0-9]{1,5}")


@define
class _Merger:
    """The tables of all files as one, and which file each value came from."""

    tree: dict[str, Any] = field(factory=dict)
    origins: dict[KeyPath, str] = field(factory=dict)
    problems: list[str] = field(factory=list)

    def merge(self, source: Mapping[str, Any], label: str) -> None:
        self._merge(self.tree, source, label, ())

    def _merge(
        self, into: dict[str, Any], source: Mapping[str, Any], label: str, path: KeyPath
    ) -> None:
        for name, value in source.items():
            here = (*path, name)
            if isinstance(value, dict):
                if not isinstance(into.get(name), dict):
                    into[name] = {}
                    self.origins[here] = label
                self._merge(into[name], value, label, here)
            else:
                into[name] = value
                self.origins[here] = label

    def origin(self, path: KeyPath) -> str:
        """Return the file of a value, or of the nearest table around it."""
        plain = _plain(path)
        for length in range(len(plain), 0, -1):
            if plain[:length] in self.origins:
                return self.origins[plain[:length]]
        return "defaults"

    def complain(self, path: KeyPath, sentence: str) -> None:
        self.problems.append(f"{self.origin(path)}: {'.'.join(path)}: {sentence}")

    def located(self, problem: str) -> str:
        """Return "section.key: sentence" with its file before it."""
        key_path = _key_path(problem)
        if key_path[0] not in SECTIONS:
            return problem
        return f"{self.origin(key_path)}: {problem}"

    def without(self, wrong: Collection[KeyPath]) -> dict[str, Any]:
        """Return the tree without what `wrong` leads to (plain paths)."""
        tree = deepcopy(self.tree)
        for path in wrong:
            inner = tree
            for name in path[:-1]:
                inner = inner.get(name, {})
            inner.pop(path[-1], None)
        return tree

    def read(self, path: Path) -> None:
        """Add a file, or every `*.toml` of a directory."""
        try:
            files = [path]
            if path.is_dir():
                files = sorted(each for each in path.iterdir() if each.match("*.toml"))
            if not files:
                self.problems.append(f"{path}: there is no *.toml in this directory")
            for file in files:
                self._read_file(file)
        except OSError as error:
            self.problems.append(f"{path}: {error.strerror}")

    def _read_file(self, file: Path) -> None:
        try:
            # Some editors begin UTF-8 with a byte order mark: "-sig" passes over it.
            self.merge(tomllib.loads(file.read_text(encoding="utf-8-sig")), str(file))
        except OSError as error:
            self.problems.append(f"{file}: {error.strerror}")
        except UnicodeDecodeError as error:
            self.problems.append(f"{file}: not UTF-8 at byte {error.start}")
        except tomllib.TOMLDecodeError as error:
            self.problems.append(f"{file}: {error}")
        except RecursionError:
            self.problems.append(f"{file}: lists or tables are nested too deep")

    def set(self, assignment: str) -> None:
        """Add one `section.key=value`; the value is TOML, or else plain text."""
        label = "--set"
        name, equals, text = assignment.partition("=")
        plain_text = f"{name} = {json.dumps(text)}"
        for line in (assignment, plain_text):
            if not equals or "\n" in line:
                break
            try:
                self.merge(tomllib.loads(line), label)
            except (tomllib.TOMLDecodeError, RecursionError):
                continue
            return
        self.problems.append(f"{label} {assignment!r}: section.key=value is needed")


def _plain(path: KeyPath) -> KeyPath:
    """Return the path of the list that a path goes into, or the path itself."""
    names = []
    for name in path:
        names.append(name.partition("[")[0])
        if "[" in name:
            break
    return tuple(names)


def _key_path(problem: str) -> KeyPath:
    """Return the keys of "section.key: sentence"."""
    return tuple(problem.partition(":")[0].split("."))


def structure(cls: type[T], raw: Mapping[str, Any], where: str) -> T:
    """Return an instance of an attrs class made of a table from a file.

    For the options of rule modules; the whole configuration is read by `load`.

    Args:
        cls: a class made with `config.key`.
        where: what problems begin with, e.g. "etc/x.toml: proxy.modules[1]".

    Raises:
        ConfigProblems: all that is wrong with the table.
    """
    result, problems = read_table(cls, raw)
    if result is None:
        raise ConfigProblems(
            [f"{'.'.join([where, *path])}: {sentence}" for path, sentence in problems]
        )
    return result


def load(
    files: Sequence[Path],
    *,
    assignments: Sequence[str] = (),
    data_dir: str | None = None,
    check: Callable[[config.Config], None] | None = None,
) -> config.Config:
    """Return the whole configuration.

    Args:
        files: of `--config`, files or directories.
        assignments: of `--set`, "section.key=value".
        data_dir: of `--data-dir`, when given.
        check: raises ConfigProblems for what only the products know to be wrong
            (lines that begin with "section.key:" have their file added); keys found
            wrong already have their defaults when it is called.

    Raises:
        ConfigProblems: everything that is wrong, each with its file and key.
    """
    merger = _Merger()
    for path in files:
        merger.read(path)
    for assignment in assignments:
        merger.set(assignment)
    if data_dir is not None:
        merger.merge({"data_dir": data_dir}, "--data-dir")
    result, problems = read_table(config.Config, merger.tree)
    for key_path, sentence in problems:
        merger.complain(key_path, sentence)
    # What is wrong is left out, so that the rest can be looked at more closely.
    wrong = {_plain(key_path) for key_path, _ in problems}
    if result is None:
        result, _ = read_table(config.Config, merger.without(wrong))
        result = result or config.Config()
    absent = {name for name in SECTIONS if files and name not in merger.tree}
    nothing: dict[str, Any] = dict.fromkeys(absent)
    result = attrs.evolve(result, **nothing)
    if not merger.problems:
        _check_together(result, merger)
    if check is not None:
        try:
            check(result)
        except ConfigProblems as more:
            merger.problems += [
                merger.located(each)
                for each in more.problems
                if not any(_plain(_key_path(each))[: len(w)] == w for w in wrong)
            ]
    if merger.problems:
        raise ConfigProblems(merger.problems)
    return result


def _check_together(whole: config.Config, merger: _Merger) -> None:
    """Check what only several keys together can get wrong."""
    if whole.image and not whole.blob and not whole.image.blob_url:
        merger.complain(
            ("image", "blob_url"), "needed, since no [blob] runs in this process"
        )
    blob = whole.blob
    if blob and blob.read_workers:
        key = ("blob", "read_workers")
        if blob.store != "volume":
            merger.complain(key, 'must be 0 unless blob.store is "volume"')
        if blob.cluster_file and not blob.replica:
            merger.complain(key, "must be 0, without blob.replica no blobs are kept")
    if not any((whole.blob, whole.image, whole.proxy, whole.admin)):
        merger.problems.append("none of [blob], [image], [proxy], [admin] is there")
    logging = whole.logging
    if logging.syslog and not _SYSLOG.fullmatch(logging.syslog):
        merger.complain(("logging", "syslog"), 'not "/PATH" or "udp:HOST:PORT"')
    if logging.syslog and logging.file:
        merger.complain(("logging", "syslog"), "there is a file already")
    if logging.trace_from:
        _check_networks(merger, ("logging", "trace_from"), logging.trace_from)
    if not whole.data_dir:
        merger.complain(("data_dir",), "must not be empty")
    listening: dict[str, str] = {}
    for name in SECTIONS:
        section = getattr(whole, name)
        if section is None:
            continue
        if not section.listen:
            merger.complain((name, "listen"), "at least one endpoint is needed")
        for endpoint in section.listen:
            if endpoint in listening and not _ANY_PORT.match(endpoint):
                merger.complain(
                    (name, "listen"),
                    f"{endpoint!r} is where {listening[endpoint]} listens already",
                )
            listening.setdefault(endpoint, name)


def _check_networks(merger: _Merger, path: KeyPath, texts: Iterable[str]) -> None:
    for text in texts:
        try:
            ip_network(text, strict=False)
        except ValueError:
            merger.complain(path, f"not a network: {text!r}")
