"""The image service over HTTP: who answers which request.

PUT and POST to any path are uploads, as they ever were.  What can be read is in a table
of routes, made of the parts of the service that answer them.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from clinfra.errors import MethodNotAllowed, Trouble
from clinfra.image.routes import Route
from clinfra.image.uploads import METHODS, Uploads
from clinfra.web.exchange import IExchange, Response
from clinfra.web.heads import Field
from clinfra.web.resource import Resource, trouble_response

_READING = ("GET", "HEAD")
_NO_STORE: Field = (b"Cache-Control", b"no-store")
_VARY: Field = (b"Vary", b"Accept")


class ImageResource(Resource):
    """Answers every request.

    Args:
        routes: the first that matches answers.
    """

    def __init__(self, uploads: Uploads, routes: Sequence[Route] = ()) -> None:
        super().__init__()
        self._uploads = uploads
        self._routes = tuple(routes)

    async def respond(self, exchange: IExchange) -> Response | None:
        """Answer one request."""
        head = exchange.head
        method = head.method.decode("latin-1")
        if method.upper() in METHODS:
            return await self._uploads.respond(exchange)
        for route in self._routes:
            match = route.pattern.fullmatch(head.path)
            if match is None:
                continue
            if method not in _READING:
                return self._uploads.refusal(MethodNotAllowed((*_READING, *METHODS)))
            try:
                return await route.answer(exchange, match)
            except Trouble as trouble:
                answer = trouble_response(trouble)
                # Whatever is not an answer now may be one a moment later.
                fields = (*answer.fields, _NO_STORE, _VARY)
                return attrs.evolve(answer, fields=fields)
        return self._uploads.refusal(MethodNotAllowed(METHODS))
