"""What would happen to a request, phase by phase, without asking any origin.

The rule modules are the real ones and run in the real pipeline; in the forwarder's
place stands one that says where the request would go and gives a made-up answer.  Each
hook is watched: what it changed of the request and of the answer is what is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from attrs import define, field, frozen
from twisted.internet.task import Clock
from zope.interface import implementer

from clinfra.config import ProxyConfig
from clinfra.errors import NotFound
from clinfra.proxy.message import Reply, Request
from clinfra.proxy.phases import Hook
from clinfra.proxy.pipeline import Pipeline
from clinfra.web.exchange import FileBody, IExchange
from clinfra.web.heads import Field, Fields, RequestHead, parse_request_head

_TOLD = (
    ("host_path", "is for {}"),
    ("pool", "pool {}"),
    ("members", "origins {}"),
    ("forward_target", "the origin is asked for {}"),
    ("cache_host_path", "kept under {}"),
    ("client_ip", "client {}"),
    ("outcome", "{}"),
)
_NAMES = {"pass_": "pass"}
_PATIENCE_SECONDS = 120


@frozen
class Question:
    """A request that somebody wonders about.

    Attributes:
        url: its URL.
        method: "GET" ...
        fields: further header fields.
        client: address of the client.
        status: of the origin's made-up answer.
        answer: its fields.
    """

    url: str
    method: str = "GET"
    fields: Fields = ()
    client: str = "127.0.0.1"
    status: int = 200
    answer: Fields = ()

    def head(self) -> RequestHead:
        """Return the head of the request.  Raises web.heads.BadHead, ValueError."""
        parts = urlsplit(self.url if "://" in self.url else "http://" + self.url)
        if parts.scheme not in ("http", "https"):
            raise ValueError(f"{self.url!r} is not an http URL")
        target = (parts.path or "/") + ("?" + parts.query if parts.query else "")
        lines = [f"{self.method} {target} HTTP/1.1".encode("latin-1")]
        if not any(name.lower() == b"host" for name, _ in self.fields):
            lines.append(b"Host: " + parts.netloc.encode("latin-1"))
        lines += [b"%b: %b" % pair for pair in self.fields]
        return parse_request_head(b"\r\n".join(lines) + b"\r\n\r\n")

    @property
    def secure(self) -> bool:
        """It comes over TLS."""
        return self.url.startswith("https:")


Rehearse = Callable[[Any, Any], Any]
"""Returns the proxy, made with this reactor and this way to connect (tap's)."""


def explain(
    rehearse: Rehearse, config: ProxyConfig, question: Question
) -> Iterator[str]:
    """Yield lines that tell what would happen.

    Raises:
        errors.ConfigProblems: the configuration is wrong.
        web.heads.BadHead, ValueError: the request is.
    """
    head = question.head()
    clock = Clock()
    proxy = rehearse(clock, _connect_nowhere)
    watcher = _Watcher(proxy.pipeline, config, question)
    exchange = _Exchange(head, question, config.default_port)
    proxy.pipeline.begin(exchange)
    waited = 0
    while not exchange.finished and waited < _PATIENCE_SECONDS:
        clock.advance(1)
        waited += 1
    yield f"{question.method} {question.url}"
    yield f"  rules see it as {watcher.begun}"
    yield from watcher.lines
    if waited and exchange.finished:
        yield f"  it was held back for about {waited} s"
    yield from exchange.told()
    yield from exchange.unfinished()


def _connect_nowhere(*arguments: Any) -> Any:
    raise RuntimeError("nobody is asked for an explanation")


@define(eq=False)
class _Watcher:
    """Stands before every hook of a pipeline."""

    pipeline: Pipeline
    config: ProxyConfig
    question: Question
    lines: list[str] = field(factory=list)
    begun: str = ""
    _phase: str = ""

    def __attrs_post_init__(self) -> None:
        hooks = self.pipeline.rules.hooks
        for phase, each in hooks.items():
            hooks[phase] = tuple(self._watched(phase, hook) for hook in each)

    def _watched(self, phase: str, hook: Hook) -> Hook:
        method = getattr(hook, "func", hook)  # of a module that has a condition
        module = type(getattr(method, "__self__", method)).__name__
        if phase == "forward" and module == "Forwarder":
            hook = self._forward
        return partial(self._run, phase, module, hook)

    def _run(self, phase: str, module: str, hook: Hook, *arguments: Any) -> Any:
        request: Request = arguments[0]
        self.begun = self.begun or f"{request.host_path}, from {request.client_ip}"
        before, reply = _state(request), _reply_state(request.reply)
        try:
            result = hook(*arguments)
        except Exception as error:
            self._tell(phase, module, [f"raises {type(error).__name__}: {error}"])
            raise
        changes = [
            *_differences(before, _state(request)),
            *_field_changes(before["fields"], request.fields),
        ]
        if request.reply is not None and reply is not None:
            changes += _field_changes(reply[1], request.reply.fields)
        if isinstance(result, Reply):
            changes.append(f"answers {result.status}")
        elif result is not None:
            changes.append("waits for something")
        self._tell(phase, module, changes)
        return result

    def _tell(self, phase: str, module: str, changes: Sequence[str]) -> None:
        if not changes:
            return
        name = _NAMES.get(phase, phase)
        shown = name if name != self._phase else ""
        self._phase = name
        for change in changes:
            self.lines.append(f"  {shown:<9} {module}: {change}")
            shown = ""

    def _forward(self, request: Request) -> Reply:
        """Stand in for the forwarder."""
        members: Sequence[str] = request.members
        if not members and request.pool in self.config.pools:
            members = self.config.pools[request.pool].members
        target = request.forward_target or request.target
        host = request.authority.decode("latin-1")
        place = f"the pool {request.pool!r}" if request.pool else "no pool"
        if members:
            place += f" ({', '.join(members)})"
        if not request.pool and not request.members:
            raise NotFound("There is nothing here.")
        self._tell(
            "forward",
            "Forwarder",
            [
                f"{request.method.decode('latin-1')} {target} for {host} to {place}",
                "its answer is made up here",
            ],
        )
        request.attempt = 1
        return Reply(
            self.question.status, self.question.answer, b"", served_by="Forwarder"
        )


def _state(request: Request) -> Mapping[str, Any]:
    state = {name: getattr(request, name) for name, _ in _TOLD}
    state["fields"] = request.fields
    return state


def _reply_state(reply: Reply | None) -> tuple[int, Fields] | None:
    return None if reply is None else (reply.status, reply.fields)


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for name, sentence in _TOLD:
        value = after[name]
        if value != before[name] and value:
            shown = ", ".join(value) if isinstance(value, tuple) else value
            yield sentence.format(shown)


def _field_changes(before: Fields, after: Fields) -> Iterator[str]:
    if before is after:
        return
    kept = {name.lower() for name, _ in after}
    for pair in before:
        if pair[0].lower() not in kept:
            yield f"drops {pair[0].decode('latin-1')}"
    for pair in after:
        if pair not in before:
            yield f"sets {_shown(pair)}"


def _shown(pair: Field) -> str:
    return f"{pair[0].decode('latin-1')}: {pair[1].decode('latin-1')}"


class _NoBody:
    """The body of a request that has none."""

    length = 0
    complete = True

    async def read(self) -> bytes:
        """Return nothing."""
        return b""


@implementer(IExchange)
class _Exchange:
    """An exchange whose answer is told instead of sent; see web.exchange.IExchange."""

    def __init__(self, head: RequestHead, question: Question, port: int) -> None:
        self.head = head
        self.body = _NoBody()
        self.client_ip = question.client
        self.local_port = urlsplit("//" + head.host.decode("latin-1")).port or port
        self.secure = question.secure
        self.notes: dict[str, Any] = {}
        self.status = 0
        self.bytes_in = self.bytes_out = 0
        self.started_at = 0.0
        self.finished = False
        self.threads = self.trace = None
        self._fields: Fields = ()
        self._body = b""
        self._done: list[Callable[[bool], None]] = []

    def respond(self, status: int, fields: Fields = (), body: bytes = b"") -> None:
        """Take the whole answer."""
        self.start(status, fields, len(body))
        self.write(body)
        self.finish()

    def send(self, prebuilt: bytes, status: int, body_bytes: int) -> None:
        """Take an answer that was made before."""
        self.respond(status)

    def start(self, status: int, fields: Fields, length: int | None) -> None:
        """Take the head of the answer."""
        self.status, self._fields = status, fields

    def write(self, data: bytes) -> None:
        """Take a piece of the body."""
        self._body += data

    def finish(self) -> None:
        """It is complete."""
        self._over(True)

    def abort(self) -> None:
        """The connection would be cut."""
        self._over(False)

    async def drained(self) -> None:
        """There is always room."""

    async def send_file(self, body: FileBody) -> None:
        """Take a piece of a file as it is."""
        body.close()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Everything is taken at once."""

    def unregisterProducer(self) -> None:
        """There is no more."""

    def on_done(self, callback: Callable[[bool], None]) -> None:
        """Call back when it is over."""
        self._done.append(callback)

    def _over(self, whole: bool) -> None:
        if not self.finished:
            self.finished = True
            for callback in self._done:
                callback(whole)

    def told(self) -> Iterator[str]:
        """Yield the answer."""
        if self.status:
            yield f"  answer    {self.status}"
            for pair in self._fields:
                yield f"            {_shown(pair)}"
            text = self._body[:200].decode("utf-8", "replace").strip()
            if text and text.isprintable():
                yield f"            {text}"

    def unfinished(self) -> Iterator[str]:
        """Yield what is left to say."""
        if not self.finished:
            yield "  it waits for something that cannot be had here"
        for name, value in self.notes.items():
            yield f"  the access log has {name}={value}"
