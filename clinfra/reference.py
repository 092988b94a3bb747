"""The text of `etc/clinfra.toml`, made of the classes in `config.py`."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Union, get_args, get_origin

import attrs
from attrs import frozen

from clinfra import config

_HEAD = """\
Every key of clinfra's configuration, with its default.

Without any file everything runs, as it stands here.  Once a file is given with
--config, only the sections it has are started; keys it leaves out have these defaults.
Durations are seconds, or text such as "500ms", "30s", "2h", "7d"; sizes are bytes, or
text such as "16KiB", "2MB".  `listen` takes endpoint strings of Twisted: "tcp:8080",
"unix:/run/clinfra.sock", "tls:...", "haproxy:tcp:8080", "systemd:...".
"""

_MODULE_EXAMPLE = """\
[[proxy.modules]]
use = "Redirector"
# further keys are the module's own
"""


def _amount(value: float, units: list[tuple[float, str]]) -> str | None:
    """Return a number in the largest unit that divides it."""
    for size, unit in units:
        if value and value % size == 0:
            return f'"{value / size:.0f}{unit}"'
    return None


_TIMES: list[tuple[float, str]] = [(86400, "d"), (3600, "h")]
_SIZES: list[tuple[float, str]] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")]


def _value(value: Any, kind: Any) -> str:
    """Return a default as TOML, in the words an operator would use."""
    if kind is config.Seconds:
        return _amount(value, _TIMES) or f"{value:g}"
    if kind is config.Bytes:
        return _amount(value, _SIZES) or str(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(_value(item, type(item)) for item in value) + "]"
    if isinstance(value, dict):
        items = (f"{name} = {_value(each, kind)}" for name, each in value.items())
        return "{" + ", ".join(items) + "}"
    return json.dumps(value, ensure_ascii=False)


def _core(kind: Any) -> Any:
    """Return X of `X | None`, `tuple[X, ...]` and `Mapping[str, X]`."""
    if get_origin(kind) in (types.UnionType, Union):
        return next(each for each in get_args(kind) if each is not type(None))
    if get_origin(kind) is tuple:
        return get_args(kind)[0]
    if isinstance(get_origin(kind), type) and issubclass(get_origin(kind), Mapping):
        return get_args(kind)[1]
    return kind


def _comment(text: str) -> Iterator[str]:
    for line in text.rstrip("\n").split("\n"):
        yield f"# {line}".rstrip()


def _keys(cls: Any, values: Any, *, prefix: str = "") -> Iterator[str]:
    for attribute in attrs.fields(cls):
        doc = attribute.metadata.get("doc")
        kind = _core(attribute.type)
        if doc is None or attrs.has(kind):
            continue
        yield from _comment(doc)
        value = getattr(values, attribute.name)
        if value is None:
            yield f"# {attribute.name} ="
        else:
            yield f"{prefix}{attribute.name} = {_value(value, kind)}"


def _table(name: str, cls: Any, doc: str) -> Iterator[str]:
    yield ""
    yield from _comment(doc)
    yield f"[{name}]"
    values = cls()
    yield from _keys(cls, values)
    for attribute in attrs.fields(cls):
        kind = _core(attribute.type)
        doc = attribute.metadata.get("doc", "")
        if not attrs.has(kind):
            continue
        here = f"{name}.{attribute.name}"
        origin = get_origin(attribute.type)
        if origin is tuple:
            yield from _list(here, kind, doc, getattr(values, attribute.name))
        elif origin in (types.UnionType, Union) or attrs.has(attribute.type):
            yield from _table(here, kind, doc)
        else:
            yield from _named(here, kind, doc)


def _list(name: str, cls: Any, doc: str, values: Any) -> Iterator[str]:
    """A list of tables: the defaults, as comments, since writing it replaces all."""
    yield ""
    yield from _comment(f"{doc}  A list in a file replaces these whole:")
    for value in values:
        items = (
            f"{each.name} = {_value(getattr(value, each.name), each.type)}"
            for each in attrs.fields(cls)
            if each.metadata.get("doc") and getattr(value, each.name) != each.default
        )
        yield f"# [[{name}]]"
        yield from _comment("\n".join(items))
    yield from _comment("Keys of each:")
    for attribute in attrs.fields(cls):
        if "doc" in attribute.metadata:
            yield from _comment(f"  {attribute.name}: {attribute.metadata['doc']}")
    if cls is config.ModuleConfig:
        yield from _comment("  when: a table of what it is for; absent means all:")
        yield from _comment(
            "    match, hosts, paths, methods, headers, cookies, query,"
        )
        yield from _comment("    networks, as rules have them (clinfra proxy modules).")
        yield from _comment("  further keys are the module's own.")


def _named(name: str, cls: Any, doc: str) -> Iterator[str]:
    """Tables by name: an example, as a comment."""
    yield from _example(f"{name}.NAME", cls, doc)


def _example(name: str, cls: Any, doc: str) -> Iterator[str]:
    yield ""
    yield from _comment(doc)
    yield f"# [{name}]"
    for line in _keys(cls, cls()):
        yield from _comment(line)
    for attribute in attrs.fields(cls):
        if attrs.has(attribute.type):
            here = f"{name}.{attribute.name}"
            yield from _example(here, attribute.type, attribute.metadata["doc"])


def module_reference(use: str, cls: Any) -> str:
    """Return the options of a rule module, as they would stand in a file.

    Args:
        use: its name.
        cls: the attrs class of its options; None when it has none.
    """
    lines = ["[[proxy.modules]]", f'use = "{use}"']
    if cls is not None:
        attrs.resolve_types(cls)
        lines += _module_keys(cls)
    return "\n".join(lines) + "\n"


def _module_keys(cls: Any) -> Iterator[str]:
    tables: list[attrs.Attribute[Any]] = []
    values = cls()
    for attribute in attrs.fields(cls):
        doc = attribute.metadata.get("doc")
        if doc is None:
            continue
        if attrs.has(_core(attribute.type)):
            tables.append(attribute)
            continue
        value = getattr(values, attribute.name)
        yield from _comment(doc)
        if isinstance(value, tuple | dict) and not value:
            yield f"# {attribute.name} = {_empty(attribute.type)}"
        elif value is None:
            yield f"# {attribute.name} ="
        else:
            yield f"{attribute.name} = {_value(value, _core(attribute.type))}"
    for attribute in tables:
        kind = _core(attribute.type)
        attrs.resolve_types(kind)
        several = get_origin(attribute.type) is tuple
        here = f"proxy.modules.{attribute.name}"
        yield ""
        yield from _comment(attribute.metadata["doc"])
        yield f"# [[{here}]]" if several else f"# [{here}]"
        for line in _module_keys(kind):
            yield line if line.startswith("#") or not line else f"# {line}"


def _empty(kind: Any) -> str:
    return "[]" if get_origin(kind) is tuple else "{}"


def reference() -> str:
    """Return the whole reference."""
    attrs.resolve_types(config.Config)
    for each in vars(config).values():
        if isinstance(each, type) and attrs.has(each):
            attrs.resolve_types(each)
    lines = [*_comment(_HEAD), ""]
    lines += _keys(config.Config, config.Config())
    for attribute in attrs.fields(config.Config):
        kind = _core(attribute.type)
        if attrs.has(kind):
            lines += _table(attribute.name, kind, attribute.metadata["doc"])
    return "\n".join(lines) + "\n"


@frozen
class Key:
    """One key of the configuration.

    Attributes:
        name: with its tables: "proxy.cache.hot_bytes"; of each table of a list
            "proxy.routes[].pool", of tables by name "proxy.pools.NAME.members".
        default: as it would stand in a file; None when absent means something.
        doc: its sentence.
        choices: the only texts allowed; none means any.
    """

    name: str
    default: str | None
    doc: str
    choices: Sequence[str] = ()


def keys(cls: Any = config.Config, prefix: str = "") -> Iterator[Key]:
    """Yield every key of a config class: its own, then those of its tables.

    Args:
        prefix: before all names, with its full stop.
    """
    attrs.resolve_types(cls)
    values = cls()
    tables: list[tuple[Any, str]] = []
    for attribute in attrs.fields(cls):
        doc = attribute.metadata.get("doc")
        if doc is None:
            continue
        kind, name = _core(attribute.type), prefix + attribute.name
        if attrs.has(kind):
            tables.append((kind, f"{name}{_mark(attribute.type)}."))
            continue
        value = getattr(values, attribute.name)
        default = None if value is None else _value(value, kind)
        yield Key(name, default, doc, attribute.metadata.get("choices", ()))
    for kind, name in tables:
        yield from keys(kind, name)


def _mark(kind: Any) -> str:
    """Return what stands behind the name of tables that there are several of."""
    if get_origin(kind) is tuple:
        return "[]"
    return "" if attrs.has(kind) or type(None) in get_args(kind) else ".NAME"
