"""Reading /metrics as Prometheus does."""

from __future__ import annotations

import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from tests.support import ClinfraProcess


class Scrape:
    """What /metrics says now.

    Attributes:
        names: of all samples.
        kinds: of metrics, by their names (without _total).
    """

    def __init__(self, clinfra: ClinfraProcess) -> None:
        url = clinfra.url("admin", "/metrics")
        with urllib.request.urlopen(url, timeout=60) as answer:
            text = answer.read().decode()
        families = list(text_string_to_metric_families(text))
        self.kinds = {family.name: family.type for family in families}
        self.samples = [each for family in families for each in family.samples]
        self.names = {each.name for each in self.samples}

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of the samples that have these labels."""
        return sum(
            each.value
            for each in self.samples
            if each.name == name and labels.items() <= each.labels.items()
        )
