"""How often rules had their way.  Pure.

A module has a `RuleHits` for each of its rules, and says `request.count(hits)` when a
rule changes or answers a request.  What equal heads lead to is remembered (see
`pipeline`), and the rules that led there with it: they count for those as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice

from attrs import define

MOST_TOLD = 200
_LONGEST = 200


@define(eq=False)
class RuleHits:
    """Of one rule.

    Attributes:
        where: its place in the configuration, "moves[3]".
        rule: what it says, for people.
        count: requests.
    """

    where: str
    rule: str
    count: int = 0


def told(every: Iterable[RuleHits]) -> Mapping[str, int]:
    """Return the counts of the first rules by how people are told of them."""
    return {
        _cut(f"{each.where} {each.rule}"): each.count
        for each in islice(every, MOST_TOLD)
    }


def _cut(rule: str) -> str:
    return rule if len(rule) <= _LONGEST else rule[: _LONGEST - 1] + "…"
