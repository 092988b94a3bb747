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
from clinfra.image.sizes import parse_recipe


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
    problems += _mezzanine(config)
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


def _mezzanine(config: ImageConfig) -> Iterator[str]:
    try:
        mezzanine = parse_recipe(config.mezzanine)
    except Trouble as trouble:
        yield f"image.mezzanine: {trouble.sentence}"
        return
    if mezzanine.format != "jpeg" or mezzanine.mode != "fit":
        yield "image.mezzanine: it is a JPEG, and the whole picture"
    if mezzanine.width is None or mezzanine.height is None:
        yield "image.mezzanine: both sides are given"
    elif mezzanine.width * mezzanine.height > config.max_size_pixels:
        yield "image.mezzanine: it has more pixels than image.max_size_pixels"
