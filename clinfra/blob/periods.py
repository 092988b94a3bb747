"""Periods of the configuration that only make sense together.

Pure.
"""

from __future__ import annotations

from clinfra.config import BlobConfig
from clinfra.errors import ConfigProblems

CHANCES = 3
"""How often everybody must have had a chance to hear of a delete."""


def check_periods(config: BlobConfig) -> None:
    """Raise ConfigProblems when deletes would be forgotten before they are known."""
    problems = [
        f"blob.tombstone_time: must be at least {CHANCES} times blob.{name},"
        f" {CHANCES * period:g} s: deletes would come to nothing"
        for name, period in (
            ("compare_interval", config.compare_interval),
            ("parked_retry", config.parked_retry),
        )
        if config.tombstone_time < CHANCES * period
    ]
    if problems:
        raise ConfigProblems(problems)
