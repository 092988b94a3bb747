"""The secrets that addresses are signed with, from the configuration and its file."""

from __future__ import annotations

from pathlib import Path

from clinfra.config import ImageConfig
from clinfra.errors import ConfigProblems
from clinfra.image.signing import Keys


def read_keys(config: ImageConfig) -> tuple[str, ...]:
    """Return the secrets of `signing_keys_file`, one in each line.

    Raises ConfigProblems.
    """
    if not config.signing_keys_file:
        return ()
    try:
        text = Path(config.signing_keys_file).read_text(encoding="utf-8")
    except OSError as error:
        reason = error.strerror or str(error)
    except UnicodeDecodeError:
        reason = "it is not text in UTF-8"
    else:
        return tuple(filter(None, map(str.strip, text.splitlines())))
    raise ConfigProblems([f"image.signing_keys_file: {reason}"])


def all_keys(config: ImageConfig) -> Keys:
    """Return the keys of a configuration.  Raises ConfigProblems."""
    texts = (*read_keys(config), *config.signing_keys)
    try:
        return Keys.of(texts)
    except ValueError as error:
        raise ConfigProblems([f"image.signing_keys: {error}"]) from error
