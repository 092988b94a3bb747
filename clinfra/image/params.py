"""What an upload asks for, read from the query string as the original read it.

Pure.  Nothing is percent-decoded, the last of a repeated key wins, unknown keys are
ignored, and the sentences of the errors are the original's.
"""

from __future__ import annotations

import re

from attrs import frozen

from clinfra.config import ImageConfig
from clinfra.errors import InvalidRequest
from clinfra.image.sizes import Recipe, parse_size

_INT = re.compile(r"[+-]?[0-9]{1,10}")
_INT_LIMIT = 1 << 31
_ECHOED = 100
_RECORDED = 1024
_BOOLS = {"1": True, "true": True, "0": False, "false": False}
_KINDS = ("none", "checksum", "info")


@frozen
class Params:
    """What one upload asks for.

    Attributes:
        sizes: the renditions, each once.
        quality: of the JPEGs, 1 to 100.
        ttl_seconds: how long results are kept.
        save: whether results are kept at all.
        keep: whether the original is kept with them.
        filename: what the client calls the picture; only recorded.
        response: "none", "checksum", "info" or the name of one of the sizes.
    """

    sizes: tuple[Recipe, ...]
    quality: int
    ttl_seconds: int
    save: bool
    keep: bool
    filename: str | None
    response: str

    @property
    def keeps(self) -> bool:
        """Whether original and mezzanine are stored."""
        return self.save and self.keep

    @property
    def wants_info(self) -> bool:
        """Whether anybody gets to see what the picture is, or its checksum."""
        return self.save or self.response in ("checksum", "info")


def parse_params(query: bytes, config: ImageConfig) -> Params:
    """Read a query string; what is absent is as configured.

    Raises:
        InvalidRequest: a value that cannot be, or too many or too large sizes.
        UnsupportedMedia: a size with a side of zero.
    """
    values = _split(query)
    filename = values.get("filename")
    names = (
        _given(values, "sizes").split(",") if "sizes" in values else list(config.sizes)
    )
    quality = _int(values, "quality", config.quality)
    ttl_seconds = _int(values, "ttl", int(config.ttl))
    save = _bool(values, "save")
    save_blob = _bool(values, "save_blob")
    keep = _bool(values, "keep", config.keep)
    response = config.response
    if "response" in values:
        response = _given(values, "response").lower()
    if response not in _KINDS and response not in names:
        raise InvalidRequest(f"Invalid response parameter: {response[:_ECHOED]}")
    written = {name: parse_size(name) for name in names if names != [""]}
    sizes = tuple(dict.fromkeys(written.values()))
    if len(sizes) > config.max_sizes:
        raise InvalidRequest(
            f"Too many sizes: {len(sizes)} of at most {config.max_sizes}"
        )
    for size in sizes:
        if size.exact_pixels > config.max_size_pixels:
            raise InvalidRequest(f"Size too large: {size.name}")
    return Params(
        sizes=sizes,
        quality=jpeg_quality(quality),
        ttl_seconds=ttl_seconds,
        save=save and save_blob,
        keep=keep,
        filename=filename if filename is None else filename[:_RECORDED],
        response=written[response].name if response in written else response,
    )


def jpeg_quality(number: int) -> int:
    """Return the quality the original's encoder made of a number."""
    return 75 if number <= 0 else min(number, 100)


def _split(query: bytes) -> dict[str, str | None]:
    values: dict[str, str | None] = {}
    for item in query.decode("latin-1").split("&"):
        key, equals, value = item.partition("=")
        if key.strip():
            values[key.strip()] = value.strip() if equals else None
    return values


def _given(values: dict[str, str | None], key: str) -> str:
    value = values[key]
    if value is None:
        raise InvalidRequest(f"Missing value for {key}")
    return value


def _int(values: dict[str, str | None], key: str, default: int) -> int:
    if key not in values:
        return default
    value = _given(values, key)
    if not _INT.fullmatch(value) or abs(int(value)) >= _INT_LIMIT:
        raise InvalidRequest(f"Invalid int value for {key}: {value[:_ECHOED]}")
    return int(value)


def _bool(values: dict[str, str | None], key: str, default: bool = True) -> bool:
    if key not in values:
        return default
    value = _given(values, key).lower()
    if value not in _BOOLS:
        raise InvalidRequest(f"Invalid boolean value for {key}: {value[:_ECHOED]}")
    return _BOOLS[value]
