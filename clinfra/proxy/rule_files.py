"""What lies in `rules_dir`: Python files with rule modules, TOML files with options.

`*.py`: every class with a hook is a rule module (see `rules`).

`*.toml`: a table for each module that gets more options, by the name that `use` would
say.  Lists are added to those there are, files in the order of their names:

    [[Redirector.rules]]
    paths = ["/summer/*"]
    redirect = "/sale"
"""

from __future__ import annotations

import os
import re
import sys
import tomllib
import traceback
from collections.abc import Container, Iterator, Mapping
from hashlib import sha256
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

from attrs import define, field, frozen

from clinfra.proxy.phases import PHASES
from clinfra.proxy.rules import RuleModule

_MOST_BYTES = 16 << 20
_MOST_VERSIONS = 8
_IMPORTED = "clinfra_rules_"
_TOML_PLACE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


@frozen
class Table:
    """Options from a TOML file."""

    path: Path
    module: str
    options: Mapping[str, Any]


@define(eq=False)
class RuleFiles:
    """All that is in a directory.

    Attributes:
        classes: rule modules by the names of their classes.
        tables: options.
        problems: all that is wrong, each with file and, where known, line.
    """

    classes: dict[str, type[Any]] = field(factory=dict)
    tables: list[Table] = field(factory=list)
    problems: list[str] = field(factory=list)


def read_rule_files(directory: Path) -> RuleFiles:
    """Read a directory."""
    files = RuleFiles()
    try:
        # Not glob: it takes a directory that cannot be read for an empty one.
        paths = sorted(directory.iterdir())
    except OSError as error:
        files.problems.append(f"proxy.rules_dir: {directory}: {error.strerror}")
        return files
    for path in paths:
        if path.name.startswith("."):
            continue
        try:
            if path.suffix == ".py":
                for found in classes_of(import_file(path)):
                    if found.__name__ in files.classes:
                        raise ValueError(
                            f"{path}: there is another {found.__name__} in {directory}"
                        )
                    files.classes[found.__name__] = found
            elif path.suffix == ".toml":
                files.tables += _tables(path)
        except ValueError as problem:
            files.problems.append(str(problem))
    return files


def version_of(directory: Path) -> object:
    """Return what is another when any of the files is another."""
    try:
        with os.scandir(directory) as entries:
            return sorted(
                (each.name, status.st_mtime_ns, status.st_size, status.st_ino)
                for each in entries
                if each.name.endswith((".py", ".toml"))
                and not each.name.startswith(".")
                and (status := each.stat())
            )
    except OSError as error:
        return error.strerror


def import_file(path: Path) -> ModuleType:
    """Import a file under a name of its own; equal bytes are imported once.

    Raises ValueError with file and line.
    """
    path = path.resolve()
    raw = _read(path)
    digest = sha256(bytes(path) + b"\0" + raw).hexdigest()[:16]
    name = f"{_IMPORTED}{digest}_{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = spec_from_loader(name, loader=None, origin=str(path))
    assert spec is not None
    module = module_from_spec(spec)
    module.__file__ = str(path)
    sys.modules[name] = module
    try:
        # Not through importlib's loaders: they take a file changed within a second and
        # of equal length for the one they have compiled before.
        exec(compile(raw, str(path), "exec"), vars(module))
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ValueError(import_problem(error, str(path))) from error
    _forget_oldest(str(path))
    return module


def _forget_oldest(path: str) -> None:
    """Let go of all but the newest versions of a file; whoever uses one may go on.

    Not everybody who imports has rules to exchange: a process with workers only looks
    whether they are right.
    """
    versions = [
        name
        for name, module in list(sys.modules.items())
        if name.startswith(_IMPORTED) and module.__file__ == path
    ]
    for name in versions[:-_MOST_VERSIONS]:
        sys.modules.pop(name, None)


def forget_imports(directory: Path, used: Container[str]) -> None:
    """Let go of what was imported from a directory, but for modules of these names."""
    directory = directory.resolve()
    for name, module in list(sys.modules.items()):
        unused = name.startswith(_IMPORTED) and name not in used
        if unused and Path(str(module.__file__)).parent == directory:
            del sys.modules[name]


def classes_of(module: ModuleType) -> Iterator[type[Any]]:
    """Yield the rule modules that a Python module defines."""
    for value in vars(module).values():
        if (
            isinstance(value, type)
            and value.__module__ == module.__name__
            and is_rule_module(value)
        ):
            yield value


def is_rule_module(found: type[Any]) -> bool:
    """Whether a class has any hook of its own."""
    return any(
        getattr(found, phase, None) not in (None, getattr(RuleModule, phase))
        for phase in PHASES
    )


def import_problem(error: BaseException, place: str) -> str:
    """Return one line with file and line of what went wrong in an import."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "importlib" not in frame.filename]
    if own and own[-1].filename != __file__:
        place = f"{own[-1].filename}:{own[-1].lineno}"
    return f"{place}: {describe(error)}"


def describe(error: BaseException) -> str:
    """Return the kind of an error and what it says."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def merge(options: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with more added.  Raises ValueError for what is there already."""
    merged = dict(options)
    for name, value in more.items():
        known = merged.get(name)
        if known is None:
            merged[name] = value
        elif isinstance(known, list | tuple) and isinstance(value, list):
            merged[name] = [*known, *value]
        elif isinstance(known, Mapping) and isinstance(value, Mapping):
            try:
                merged[name] = merge(known, value)
            except ValueError as error:
                raise ValueError(f"{name}.{error}") from None
        else:
            raise ValueError(f"{name}: is given elsewhere already")
    return merged


def _tables(path: Path) -> Iterator[Table]:
    raw = _read(path)
    try:
        document = tomllib.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: this is not UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        place = _TOML_PLACE.search(str(error))
        line = raw.rstrip().count(b"\n") + 1
        if place and place[1]:
            line = int(place[1])
        said = str(error)[: place.start()] if place else str(error)
        raise ValueError(f"{path}:{line}: {said}") from error
    for name, options in document.items():
        if not isinstance(options, dict):
            raise ValueError(f"{path}: {name}: tables of modules' options are needed")
        yield Table(path, name, options)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    if len(raw) > _MOST_BYTES:
        raise ValueError(f"{path}: is larger than {_MOST_BYTES} bytes")
    return raw
