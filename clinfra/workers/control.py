"""The line between the main process and a worker: calls and answers, as JSON frames.

    {"do": NAME, "with": [...], "call": N}    N is left out when no answer is wanted
    {"answer": N, "value": ...}  or  {"answer": N, "error": "sentence", "kind": NAME}

With "handed": true a descriptor comes along.  Both sides may call.  Frames have their
length before them (32 bits).
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Mapping
from inspect import isawaitable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IFileDescriptorReceiver
from twisted.logger import Logger
from twisted.protocols.basic import Int32StringReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from clinfra.errors import Trouble

log = Logger()

Handler = Callable[..., Any]
"""What is done for a call; may return an awaitable of the answer."""


class CallFailed(Exception):
    """The other side could not do what it was asked to; says why.

    Attributes:
        kind: of errors.Trouble, when it is one.
    """

    def __init__(self, sentence: str, kind: str = "") -> None:
        super().__init__(sentence)
        self.kind = kind


@implementer(IFileDescriptorReceiver)
class Control(Int32StringReceiver):
    """One end of the line.

    Args:
        handlers: by the name of what is called.
        on_lost: called when the other side is gone.
    """

    MAX_LENGTH = 64 << 20

    def __init__(
        self, handlers: Mapping[str, Handler], on_lost: Callable[[], None]
    ) -> None:
        self._handlers = handlers
        self._on_lost = on_lost
        self._waiting: dict[int, Deferred[Any]] = {}
        self._calls = 0
        self._handed: deque[int] = deque()
        self.lost = False

    @property
    def waiting(self) -> int:
        """How many calls are not answered yet."""
        return len(self._waiting)

    def tell(self, name: str, *arguments: Any) -> None:
        """Call without wanting an answer."""
        self._send({"do": name, "with": arguments})

    def ask(self, name: str, *arguments: Any) -> Deferred[Any]:
        """Call, and fire with the answer.  Fails with CallFailed or ConnectionDone."""
        answer: Deferred[Any] = Deferred()
        if self.lost:
            answer.errback(ConnectionDone())
            return answer
        self._calls += 1
        self._waiting[self._calls] = answer
        self._send({"do": name, "with": arguments, "call": self._calls})
        return answer

    def hand(self, descriptor: int, name: str, *arguments: Any) -> None:
        """Call with a descriptor, which is closed here when the other side has it."""
        if self.lost or self.transport is None:
            os.close(descriptor)
            return
        self._calls += 1
        answer = self._waiting[self._calls] = Deferred[Any]()
        answer.addBoth(lambda _: os.close(descriptor))
        line: Any = self.transport
        line.sendFileDescriptor(descriptor)
        call = {"do": name, "with": arguments, "call": self._calls, "handed": True}
        self._send(call)

    def fileDescriptorReceived(self, descriptor: int) -> None:
        """A descriptor is there; the call it belongs to follows."""
        os.set_inheritable(descriptor, False)
        self._handed.append(descriptor)

    def stringReceived(self, string: bytes) -> None:
        """A frame is there."""
        said = json.loads(string)
        if "do" in said:
            Deferred.fromCoroutine(self._do(said)).addErrback(
                lambda failure: log.failure("A call went wrong.", failure=failure)
            )
            return
        waiting = self._waiting.pop(said["answer"], None)
        if waiting is None:
            return
        if "error" in said:
            waiting.errback(CallFailed(said["error"], said.get("kind", "")))
        else:
            waiting.callback(said["value"])

    async def _do(self, said: Mapping[str, Any]) -> None:
        call = said.get("call")
        try:
            handed = [self._handed.popleft()] if said.get("handed") else []
            handler = self._handlers[said["do"]]
            value = handler(*handed, *said["with"])
            if isawaitable(value):
                value = await value
        except Trouble as trouble:
            kind = type(trouble).__name__
            self._send({"answer": call, "error": trouble.sentence, "kind": kind})
            return
        except Exception as error:
            if call is None:
                raise
            log.failure("A call of {name} failed.", name=said["do"])
            reason = f"{type(error).__name__}: {error}"
            self._send({"answer": call, "error": reason})
            return
        if call is not None:
            self._send({"answer": call, "value": value})

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008 - as its base has it
        """Whoever waits for an answer gets none."""
        self.lost = True
        waiting, self._waiting = self._waiting, {}
        for answer in waiting.values():
            answer.errback(ConnectionDone())
        while self._handed:
            os.close(self._handed.popleft())
        self._on_lost()

    def _send(self, frame: Mapping[str, Any]) -> None:
        if self.transport is not None and not self.lost:
            self.sendString(json.dumps(frame, default=str).encode("ascii"))
