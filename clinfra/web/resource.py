"""Resources that are coroutines, and the one table from trouble to status.

A product subclasses `Resource` and writes `respond`: an exchange in, a `Response` out.
It may await whatever it likes; when the client goes away it is cancelled.  Errors of
`clinfra.errors` become answers here and nowhere else; any other exception is a bug, is
logged with its traceback, and is answered 500.  Once an answer has begun, trouble cuts
the connection: no client may take half an answer for a whole one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine, Generator
from types import coroutine
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.web import resource, server
from twisted.web.iweb import IRequest

from clinfra import errors
from clinfra.web.exchange import FileBody, Handler, IExchange, Response
from clinfra.web.heads import Field, Fields
from clinfra.web.streams import read_piece
from clinfra.web.tracing import carrying

log = Logger()

STATUS_OF: dict[type[errors.Trouble], int] = {
    errors.InvalidRequest: 400,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.MethodNotAllowed: 405,
    errors.RequestTimeout: 408,
    errors.PreconditionFailed: 412,
    errors.TooLarge: 413,
    errors.UnsupportedMedia: 415,
    errors.Misdirected: 421,
    errors.Throttled: 429,
    errors.RuleFailed: 500,
    errors.StorageDamaged: 500,
    errors.OriginFailed: 502,
    errors.Overloaded: 503,
    errors.OriginTimeout: 504,
    errors.StorageFull: 507,
}

_PLAIN: Field = (b"Content-Type", b"text/plain; charset=utf-8")
_INLINE = 64 * 1024
"""Pieces of files up to this many bytes are read at once and sent with their head."""


def trouble_response(trouble: errors.Trouble) -> Response:
    """Return the answer that tells a client of expected trouble."""
    status = next(
        (STATUS_OF[kind] for kind in type(trouble).__mro__ if kind in STATUS_OF), 500
    )
    fields: Fields = (_PLAIN,)
    if isinstance(trouble, errors.MethodNotAllowed):
        fields += ((b"Allow", ", ".join(trouble.allowed).encode()),)
    elif isinstance(trouble, errors.Overloaded | errors.Throttled):
        fields += ((b"Retry-After", b"%d" % trouble.retry_after_seconds),)
    return Response(status, fields, trouble.sentence.encode() + b"\n")


_BUG = Response(500, (_PLAIN,), b"Something went wrong here.\n")


class Resource(resource.Resource):
    """A leaf whose answers are made by a coroutine; see `respond`.

    Under our own `Site` the request's body is streamed; under a stock one it has been
    buffered before.
    """

    isLeaf = True

    async def respond(self, exchange: IExchange) -> Response | None:
        """Answer a request; None when that was done through the exchange."""
        raise NotImplementedError

    def handle(self, exchange: IExchange) -> None:
        """Start answering an exchange."""
        answer(exchange, self.respond)

    def render(self, request: IRequest) -> int:
        """Answer a `twisted.web` Request."""
        from clinfra.web.request import exchange_of  # request knows resources

        self.handle(exchange_of(request))
        return server.NOT_DONE_YET


def answer(exchange: IExchange, handler: Handler) -> None:
    """Answer an exchange with what a coroutine returns or raises.

    A coroutine that never has to wait costs no Deferred.
    """
    trace = exchange.trace
    if trace is None:
        _answer(exchange, handler)
    else:
        with carrying(trace):
            _answer(exchange, handler)


def _answer(exchange: IExchange, handler: Handler) -> None:
    running = handler(exchange)
    try:
        awaited = running.send(None)
    except StopIteration as stop:
        response = stop.value
        if response is None:
            return
        if type(response.body) is bytes:
            try:
                exchange.respond(response.status, response.fields, response.body)
            except Exception:
                _fail(exchange)
            return
        work: Awaitable[Response | None] = write_response(exchange, response)
    except Exception as trouble:
        _tell(exchange, trouble)
        return
    else:
        work = _go_on(running, awaited)
    waiting = Deferred.fromCoroutine(_guard(exchange, work))

    def over(whole: bool) -> None:
        if not whole:
            waiting.cancel()

    if not exchange.finished:
        exchange.on_done(over)


async def _guard(exchange: IExchange, work: Awaitable[Response | None]) -> None:
    """Let nothing but an answer come out of a piece of work."""
    try:
        response = await work
        if response is not None:
            await write_response(exchange, response)
    except Exception as trouble:
        _tell(exchange, trouble)


def _tell(exchange: IExchange, trouble: Exception) -> None:
    """Answer trouble, in the way that is still possible."""
    if isinstance(trouble, errors.ClientGone) or (
        exchange.finished and isinstance(trouble, CancelledError)
    ):
        return
    if not isinstance(trouble, errors.Trouble):
        _fail(exchange, trouble)
    elif exchange.status:
        log.warn(
            "An answer was cut short: {sentence}",
            sentence=trouble.sentence,
            target=exchange.head.target,
        )
        exchange.abort()
    else:
        response = trouble_response(trouble)
        exchange.respond(response.status, response.fields, cast(bytes, response.body))


def _fail(exchange: IExchange, trouble: Exception | None = None) -> None:
    """Log a bug with its traceback, and answer 500 or cut."""
    if trouble is None or trouble.__traceback__ is None:
        log.failure("Answering failed.")
    else:
        try:
            raise trouble
        except Exception:
            log.failure("Answering failed.")
    if exchange.status:
        exchange.abort()
    else:
        exchange.respond(_BUG.status, _BUG.fields, cast(bytes, _BUG.body))


async def write_response(exchange: IExchange, response: Response) -> None:
    """Write a whole answer as fast as the client takes it.

    A file is closed, and an asynchronous generator too, whatever happens.
    """
    body = response.body
    if isinstance(body, bytes):
        exchange.respond(response.status, response.fields, body)
    elif isinstance(body, FileBody):
        try:
            if body.length <= _INLINE and exchange.head.method != b"HEAD":
                data = await read_piece(
                    body.fd, body.offset, body.length, exchange.threads
                )
                exchange.respond(response.status, response.fields, data)
            else:
                exchange.start(response.status, response.fields, body.length)
                if exchange.head.method != b"HEAD":
                    await exchange.send_file(body)
                exchange.finish()
        finally:
            body.close()
    else:
        close = getattr(body, "aclose", None)
        try:
            exchange.start(response.status, response.fields, response.length)
            if exchange.head.method != b"HEAD":
                async for piece in body:
                    exchange.write(piece)
                    await exchange.drained()
            exchange.finish()
        except GeneratorExit:
            # Nobody waits any more, so nothing can be awaited; the generator, which may
            # be in the middle of something, ends when it is collected.
            close = None
            raise
        finally:
            if close is not None:
                await close()


@coroutine
def _go_on(running: Coroutine[Any, Any, Any], awaited: Any) -> Generator[Any, Any, Any]:
    """Await the rest of a coroutine that has been started and waits for `awaited`."""
    while True:
        try:
            result = yield awaited
        except GeneratorExit:
            # Nobody will ever go on with it.  It may have been closed before us: what
            # is collected together is so in any order.
            running.close()
            raise
        except BaseException as trouble:
            try:
                awaited = running.throw(trouble)
            except StopIteration as stop:
                return stop.value
        else:
            try:
                awaited = running.send(result)
            except StopIteration as stop:
                return stop.value
