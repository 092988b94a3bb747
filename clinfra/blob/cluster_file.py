"""The cluster file of a configuration."""

from __future__ import annotations

from pathlib import Path

from clinfra.blob import topology
from clinfra.blob.periods import check_periods
from clinfra.blob.topology import Topology
from clinfra.config import BlobConfig
from clinfra.errors import ConfigProblems


def read_topology(config: BlobConfig) -> Topology:
    """Return the cluster this process is part of.

    Raises ConfigProblems, also for what else makes no sense.
    """
    check_periods(config)
    if not config.cluster_file:
        return topology.single(config.replica or "blob")
    try:
        text = Path(config.cluster_file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigProblems([f"blob.cluster_file: {error}"]) from None
    return topology.read(text, config.replica or None, config.cluster_file)
