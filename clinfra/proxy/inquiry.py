"""What operators ask of the rules, answered beside the work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

from attrs import define, field
from twisted.internet.defer import TimeoutError
from twisted.internet.threads import deferToThreadPool

from clinfra.config import ProxyConfig
from clinfra.errors import ConfigProblems, Overloaded
from clinfra.proxy.explaining import explain
from clinfra.proxy.questions import read_question

_SECONDS = 10.0
_MOST_LINES = 2000


@define(eq=False)
class Inquiry:
    """Tells what the rules make of a request; see `explaining`.

    They are made anew, in a thread; one question is answered at a time.

    Args:
        section: returns the configuration as it is now.
        rehearse: returns the proxy made with it, with nothing behind it.
    """

    _reactor: Any
    _section: Callable[[], ProxyConfig]
    _rehearse: Callable[[ProxyConfig, Any, Any], Any]
    _busy: bool = field(default=False, init=False)

    async def explain(self, told: Mapping[str, Any]) -> Sequence[str]:
        """Return the lines of an answer.  Raises errors.Trouble.

        Args:
            told: the question; see `questions`.
        """
        section, question = self._section(), read_question(told)
        if self._busy:
            raise Overloaded("Another request is being explained.")
        self._busy = True

        def find_out() -> Sequence[str]:
            try:
                rehearse = partial(self._rehearse, section)
                return list(islice(explain(rehearse, section, question), _MOST_LINES))
            except ConfigProblems as problems:
                return ["The rules as they are now are wrong:", *problems.problems]
            finally:
                self._busy = False

        threads = self._reactor.getThreadPool()
        finding = deferToThreadPool(self._reactor, threads, find_out)
        finding.addTimeout(_SECONDS, self._reactor)
        try:
            return await finding
        except TimeoutError:
            raise Overloaded("Explaining takes too long.") from None
