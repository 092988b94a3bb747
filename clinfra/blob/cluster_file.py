"""The cluster file of a configuration."""

from __future__ import annotations

from pathlib import Path

from clinfra.blob import topology
from clinfra.blob.periods import check_periods
from clinfra.blob.topology import Topology
from clinfra.config import BlobConfig
from clinfra.errors import ConfigProblems


def read_topology(config: BlobConfig, text: str | None = None) -> Topology:
    """Return the cluster this process is part of.

    Args:
        text: of the cluster file, as somebody else has read it.

    Raises ConfigProblems, also for what else makes no sense.
    """
    check_periods(config)
    if not config.cluster_file:
        return topology.single(config.replica or "blob")
    if text is not None:
        return topology.read(text, config.replica, config.cluster_file)
    return topology.read(read_text(config), config.replica or None, config.cluster_file)


def read_text(config: BlobConfig) -> str:
    """Return the cluster file; "" when there is none.  Raises ConfigProblems."""
    if not config.cluster_file:
        return ""
    try:
        return Path(config.cluster_file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigProblems([f"blob.cluster_file: {error}"]) from None
