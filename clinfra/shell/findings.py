"""What `clinfra doctor` finds, and how it is told.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Any

from attrs import frozen

from clinfra.shell.words import plain


class Grade(Enum):
    """How much a finding matters."""

    GOOD = "good"
    ADVICE = "advice"
    WRONG = "wrong"


@frozen
class Finding:
    """One thing that was looked at.

    Attributes:
        sentence: what is so, plainly.
        remedy: what to do about it; empty when it is good.
    """

    grade: Grade
    sentence: str
    remedy: str = ""


def good(sentence: str) -> Finding:
    """Return a finding that nothing has to be done about."""
    return Finding(Grade.GOOD, sentence)


def advice(sentence: str, remedy: str) -> Finding:
    """Return a finding that works, and may not for long."""
    return Finding(Grade.ADVICE, sentence, remedy)


def wrong(sentence: str, remedy: str) -> Finding:
    """Return a finding that has to be seen to."""
    return Finding(Grade.WRONG, sentence, remedy)


def finding_lines(findings: Iterable[Finding]) -> Iterator[str]:
    """Yield lines: each finding, its remedy below."""
    for each in findings:
        yield f"{each.grade.value:8}{plain(each.sentence)}"
        if each.remedy:
            yield f"{'':8}→ {plain(each.remedy)}"


def as_json(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """Return the same for programs."""
    return [
        {"grade": each.grade.value, "finding": each.sentence, "remedy": each.remedy}
        for each in findings
    ]
