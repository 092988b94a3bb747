"""How many requests may be tried again: a share of all, so that retries never storm.

Pure: the time and the number of requests so far are arguments, so that a request costs
nothing here.  Each adds `share` of a token, every retry takes one.  When everything
behind us fails, we thus ask for `share` more than our clients do, not for a multiple.
"""

from __future__ import annotations

from attrs import define, field

_RESERVE = 10.0
"""Tokens at the start, and what comes back by itself with time."""
_MOST = 100.0
_PER_SECOND = 1.0


@define(eq=False)
class RetryBudget:
    """Tokens for retries.

    Attributes:
        share: retries per request.
        tokens: retries that are possible now.
        refused: how many could not be afforded.
    """

    share: float
    tokens: float = _RESERVE
    refused: int = 0
    _looked_at: float = field(default=0.0, init=False)
    _counted: int = field(default=0, init=False)

    def spend(self, now: float, requests: int) -> bool:
        """Take a token for a retry; False when there is none.

        Args:
            now: in seconds.
            requests: how many there have been.
        """
        earned = (requests - self._counted) * self.share
        self._counted = requests
        self.tokens = max(self.tokens, min(_MOST, self.tokens + earned))
        if self.tokens < _RESERVE:
            earned = (now - self._looked_at) * _PER_SECOND
            self.tokens = min(_RESERVE, self.tokens + max(0.0, earned))
        self._looked_at = now
        if self.tokens < 1:
            self.refused += 1
            return False
        self.tokens -= 1
        return True
