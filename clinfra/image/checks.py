"""What must hold of the configuration, besides what types and bounds say."""

from __future__ import annotations

from collections.abc import Iterator

from clinfra.config import ImageConfig
from clinfra.errors import ConfigProblems, Trouble
from clinfra.image import sniff
from clinfra.image.allowed import Allowed
from clinfra.image.elsewhere import Hosts
from clinfra.image.keyfile import read_keys
from clinfra.image.params import parse_params
from clinfra.image.sources import MOST_RUNGS, ladder


def check(config: ImageConfig) -> Allowed:
    """Check it; return what may be asked for.

    Raises ConfigProblems with everything.
    """
    problems = [
        f"image.formats: {name!r} is not one of {', '.join(sniff.FORMATS)}"
        for name in config.formats
        if name not in sniff.FORMATS
    ]
    try:
        parse_params(b"", config)
    except Trouble as trouble:
        problems.append(f"image: {trouble.sentence}")
    problems += _mezzanines(config)
    keys: tuple[str, ...] = ()
    try:
        keys = read_keys(config)
    except ConfigProblems as more:
        problems += more.problems
    allowed = None
    try:
        allowed = Allowed.of(config, keys)
    except ConfigProblems as more:
        problems += more.problems
    try:
        Hosts.of(config.fetch_hosts)
    except ValueError as error:
        problems.append(f"image.fetch_hosts: {error}")
    if config.fetch_hosts and allowed is not None and not len(allowed.keys):
        problems.append("image.fetch_hosts: nobody can sign without image.signing_keys")
    if problems or allowed is None:
        raise ConfigProblems(problems)
    return allowed


def _mezzanines(config: ImageConfig) -> Iterator[str]:
    try:
        rungs = ladder(config.mezzanine)
    except Trouble as trouble:
        yield f"image.mezzanine: {trouble.sentence}"
        return
    if len(rungs) > MOST_RUNGS:
        yield f"image.mezzanine: {MOST_RUNGS} are enough"
    above = config.max_size_pixels
    for rung in rungs:
        if rung.format != "jpeg" or rung.mode != "fit":
            yield f"image.mezzanine: {rung.name} is not a JPEG of the whole picture"
        if rung.width is None or rung.height is None:
            yield f"image.mezzanine: {rung.name} lacks a side"
            continue
        if rung.width * rung.height > config.max_size_pixels:
            yield f"image.mezzanine: {rung.name} is over image.max_size_pixels"
        elif rung.width * rung.height >= above and rung is not rungs[0]:
            yield f"image.mezzanine: {rung.name} is not smaller than the one before"
        above = rung.width * rung.height
