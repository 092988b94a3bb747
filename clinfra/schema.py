"""From tables, as TOML gives them, to the frozen classes of `config.py`.

Built on cattrs, but guessing nothing: "5" is not a number, a text is not a list of
letters.  Everything wrong with a table is found at once.  Rule modules of the proxy
have their options read here as well.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeGuard, TypeVar, get_args, get_origin

import attrs
from cattrs import (
    AttributeValidationNote,
    ClassValidationError,
    Converter,
    ForbiddenExtraKeysError,
    IterableValidationError,
)
from cattrs.cols import (
    homogenous_tuple_structure_factory,
    is_mapping,
    mapping_structure_factory,
)
from cattrs.gen import make_dict_structure_fn, override
from twisted.internet.endpoints import serverFromString

from clinfra import config
from clinfra.patterns import compile_pattern

T = TypeVar("T")
KeyPath = tuple[str, ...]

_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}
_BYTES = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgt", start=1):
    _BYTES[_letter + "b"] = 1000**_power
    _BYTES[_letter + "ib"] = 1024**_power
_MOST_SECONDS = 100 * 366 * 86400.0
_MOST_WHOLE = (1 << 63) - 1
"""What fits dates, files and databases; more is a slip of the pen."""

_AMOUNT = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", re.ASCII)


_PORT = re.compile(r"(?:haproxy:)?(?:tcp6?|ssl):(?:port=)?(-?[0-9]+)(?::|$)")


def _is_number(value: object) -> TypeGuard[int | float]:
    """Say whether this is a number that TOML and arithmetic agree on."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)


def parse_seconds(value: object) -> float:
    """Return a duration: a number of seconds, or text such as "500ms", "2h", "7d".

    Raises ValueError.
    """
    seconds = None
    if isinstance(value, str):
        match = _AMOUNT.fullmatch(value)
        if match and match[2].lower() in _SECONDS:
            seconds = float(match[1]) * _SECONDS[match[2].lower()]
    elif _is_number(value):
        seconds = float(value)
    if seconds is None:
        raise ValueError(
            f'a duration such as 30 or "500ms", "2h" is needed, not {value!r}'
        )
    if seconds > _MOST_SECONDS:
        raise ValueError(f"at most 100 years is needed, not {value!r}")
    return seconds


def parse_bytes(value: object) -> int:
    """Return a size: a whole number of bytes, or text such as "16KiB", "2MB".

    Raises ValueError.
    """
    size = None
    if isinstance(value, str):
        match = _AMOUNT.fullmatch(value)
        if match and match[2].lower() in _BYTES:
            size = float(match[1]) * _BYTES[match[2].lower()]
    elif isinstance(value, int) and not isinstance(value, bool):
        size = value
    if size is None:
        raise ValueError(f'a size such as 4096 or "16KiB" is needed, not {value!r}')
    if size > _MOST_WHOLE:
        raise ValueError(f"at most {_MOST_WHOLE} bytes is needed, not {value!r}")
    return int(size)


def _parse_pattern(value: object) -> str:
    text = _parse_text(value)
    compile_pattern(text)
    return text


def _parse_endpoint(value: object) -> str:
    """Check an endpoint string by Twisted's own parsers, which do not bind."""
    text = _parse_text(value)
    try:
        serverFromString(None, text)  # no reactor: it is only parsed
    except Exception as error:
        # Each kind of endpoint has a parser of its own, with errors of its own.
        if isinstance(error, LookupError) and "systemd:" in text:
            return text  # well formed; the socket is passed when we are started
        reason = str(error) or type(error).__name__
        raise ValueError(f"{text!r} is not a server endpoint: {reason}") from error
    port = _PORT.match(text)
    if port and not 0 <= int(port[1]) <= 65535:
        raise ValueError(f"{text!r} is not a server endpoint: ports end at 65535")
    return text


def _parse_text(value: object) -> str:
    if isinstance(value, str):
        return value
    raise ValueError(f"text is needed, not {value!r}")


def _parse_whole(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        if abs(value) > _MOST_WHOLE:
            raise ValueError(f"{value} is out of range")
        return value
    raise ValueError(f"a whole number is needed, not {value!r}")


def _parse_processes(value: object) -> int:
    if value == "auto":
        return len(os.sched_getaffinity(0))
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError(f'a number of processes or "auto" is needed, not {value!r}')


def _parse_number(value: object) -> float:
    if _is_number(value):
        return float(value)
    raise ValueError(f"a number is needed, not {value!r}")


def _parse_boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError(f"true or false is needed, not {value!r}")


def _parse_module(value: object) -> config.ModuleConfig:
    if not isinstance(value, Mapping):
        raise ValueError(f'a table with the key "use" is needed, not {value!r}')
    options = dict(value)
    use = options.pop("use", None)
    if not isinstance(use, str) or not use:
        raise ValueError('the key "use" must name a rule module')
    return config.ModuleConfig(use=use, options=options)


def _check_bounds(value: Any, attribute: attrs.Attribute[Any]) -> None:
    """Raise ValueError when a value is not one that `config.key` allows."""
    if value is None:
        return
    if isinstance(value, tuple):
        for each in value:
            _check_bounds(each, attribute)
        return
    choices: Sequence[str] = attribute.metadata.get("choices", ())
    if choices and value not in choices:
        raise ValueError(f"{value!r} is not one of {', '.join(choices)}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    least, most = attribute.metadata.get("least"), attribute.metadata.get("most")
    if least is not None and value < least:
        raise ValueError(f"{value} is less than {least}")
    if most is not None and value > most:
        raise ValueError(f"{value} is more than {most}")


def _make_converter() -> Converter:
    """Return a cattrs converter that guesses nothing: "5" is not 5, 1 is not true."""
    converter = Converter(detailed_validation=True, forbid_extra_keys=True)
    parsers: dict[Any, Callable[[object], Any]] = {
        str: _parse_text,
        int: _parse_whole,
        float: _parse_number,
        bool: _parse_boolean,
        config.Seconds: parse_seconds,
        config.Bytes: parse_bytes,
        config.Pattern: _parse_pattern,
        config.Processes: _parse_processes,
        config.Endpoint: _parse_endpoint,
        config.ModuleConfig: _parse_module,
    }

    def structure_list(kind: Any, converter: Converter) -> Callable[..., Any]:
        inner = homogenous_tuple_structure_factory(kind, converter)

        def structure(value: Any, kind: Any) -> Any:
            if not isinstance(value, list | tuple):
                raise ValueError(f"a list is needed, not {value!r}")
            return inner(value, kind)

        return structure

    def structure_mapping(kind: Any, converter: Converter) -> Callable[..., Any]:
        inner: Callable[..., Any] = mapping_structure_factory(kind, converter)

        def structure(value: Any, kind: Any) -> Any:
            if not isinstance(value, Mapping):
                raise ValueError(f"a table is needed, not {value!r}")
            return inner(value, kind)

        return structure

    def structure_class(kind: Any, converter: Converter) -> Callable[..., Any]:
        attrs.resolve_types(kind)
        overrides: dict[str, Any] = {
            attribute.name: override(struct_hook=_bounded(attribute, converter))
            for attribute in attrs.fields(kind)
        }
        inner = make_dict_structure_fn(kind, converter, **overrides)

        def structure(value: Any, kind: Any) -> Any:
            if not isinstance(value, Mapping):
                raise ValueError(f"a table is needed, not {value!r}")
            return inner(value, kind)

        return structure

    factories: list[tuple[Callable[[Any], bool], Any]] = [
        (attrs.has, structure_class),
        (is_mapping, structure_mapping),
        (_is_list, structure_list),
    ]
    for predicate, factory in factories:
        converter.register_structure_hook_factory(predicate, factory)
    for kind, parse in parsers.items():
        converter.register_structure_hook(kind, _ignoring_kind(parse))
    return converter


def _is_list(kind: Any) -> bool:
    """Lists of the files are `tuple[X, ...]` in frozen classes."""
    origin: Any = get_origin(kind)
    return origin is tuple and get_args(kind)[1:] == (...,)


def _ignoring_kind(parse: Callable[[object], Any]) -> Callable[[object, Any], Any]:
    return lambda value, kind: parse(value)


def _bounded(
    attribute: attrs.Attribute[Any], converter: Converter
) -> Callable[[object, Any], Any]:
    def structure(value: object, kind: Any) -> Any:
        result = converter.structure(value, kind)
        _check_bounds(result, attribute)
        return result

    return structure


_converter = _make_converter()


def _problems(error: BaseException, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    """Walk cattrs' tree of exceptions: where each went wrong, and a sentence."""
    if isinstance(error, ClassValidationError | IterableValidationError):
        noted, others = error.group_exceptions()
        for inner, note in noted:
            if isinstance(note, AttributeValidationNote):
                yield from _problems(inner, (*path, note.name))
            elif isinstance(note.index, int):
                head = path[-1] if path else ""
                yield from _problems(inner, (*path[:-1], f"{head}[{note.index}]"))
            else:
                yield from _problems(inner, (*path, note.index))
        for inner in others:
            yield from _problems(inner, path)
    elif isinstance(error, ForbiddenExtraKeysError):
        known = [attribute.name for attribute in attrs.fields(error.cl)]
        for name in sorted(error.extra_fields):
            near = get_close_matches(name, known, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            yield (*path, name), f"there is no such key{hint}"
    elif isinstance(error, KeyError):
        yield (*path, str(error.args[0])), "this key is needed"
    else:
        yield path, str(error)


def read_table(
    cls: type[T], raw: Mapping[str, Any]
) -> tuple[T | None, list[tuple[KeyPath, str]]]:
    """Return an instance of an attrs class, or None and all that is wrong with `raw`.

    Problems are a path of keys, e.g. ("routes[1]", "match"), and a sentence.
    """
    try:
        return _converter.structure(raw, cls), []
    except Exception as error:
        return None, list(_problems(error, ()))


def to_table(value: Any) -> Any:
    """Return what `read_table` makes a value of: tables, lists, texts and numbers.

    Keys that are None are left out, as in files.
    """
    if isinstance(value, config.ModuleConfig):
        return {"use": value.use, **to_table(value.options)}
    if attrs.has(type(value)):
        fields = {
            each.name: getattr(value, each.name) for each in attrs.fields(type(value))
        }
        return {
            name: to_table(each) for name, each in fields.items() if each is not None
        }
    if isinstance(value, Mapping):
        return {name: to_table(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [to_table(each) for each in value]
    return value
