"""`clinfra image sign`: print a signed address."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable
from urllib.parse import quote, urlsplit

from clinfra.config import Config, ImageConfig
from clinfra.errors import ConfigProblems, Trouble
from clinfra.image.keyfile import all_keys
from clinfra.image.sizes import parse_recipe

_PATH = re.compile(r"/[!\"$->@-~]*")
"""Visible ASCII, and nothing that begins a query or a fragment."""


def add_arguments(
    parser: argparse.ArgumentParser, parse_seconds: Callable[[object], float]
) -> None:
    """Add the options of `clinfra image sign` but those for the configuration.

    Args:
        parse_seconds: reads a duration such as "7d"; raises ValueError.
    """

    def duration(text: str) -> float:
        try:
            # Seconds may be given as a bare number.
            return parse_seconds(float(text) if text.isdigit() else text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    parser.add_argument(
        "path",
        metavar="PATH",
        help="as the image service sees it, e.g. /000_abxyl0kjyow/640x_webp; with"
        " --fetch only a recipe, or the name of a preset",
    )
    parser.add_argument(
        "--expires",
        metavar="TIME",
        type=duration,
        help='from now, e.g. "12h" or "7d" (default: it holds as long as the key)',
    )
    parser.add_argument(
        "--fetch",
        metavar="URL",
        help="sign the address at which a picture from elsewhere is fetched and made",
    )


def run(arguments: argparse.Namespace, configuration: Config) -> int:
    """Print the address; return the exit status."""
    image = configuration.image or ImageConfig()
    keys = all_keys(image)
    if not len(keys):
        raise ConfigProblems(
            ["image.signing_keys: there is no key; set it or image.signing_keys_file"]
        )
    try:
        path = _path(arguments.path, arguments.fetch, image)
    except Trouble as trouble:
        print(trouble.sentence, file=sys.stderr)
        return 2
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    expires = None
    if arguments.expires is not None:
        expires = int(time.time() + arguments.expires)
    address = keys.sign(path.encode("ascii"), expires).decode("ascii")
    told = {"address": address, "expires": expires}
    print(json.dumps(told) if arguments.json else address)
    return 0


def _path(text: str, url: str | None, image: ImageConfig) -> str:
    """Return the path to sign.  Raises ValueError, errors.Trouble."""
    recipe = text.rpartition("/")[2]
    if recipe.partition(".")[0] not in image.presets:
        parse_recipe(recipe)
    if url is not None:
        if urlsplit(url).scheme not in ("http", "https") or "/" in text:
            raise ValueError("--fetch takes a URL of http or https, and PATH a recipe")
        return f"/fetch/{text}/{quote(url, safe='')}"
    if not _PATH.fullmatch(text) or text.count("/") < 2:
        raise ValueError(f"{text!r} is not a path such as /NAME/RECIPE")
    return text
