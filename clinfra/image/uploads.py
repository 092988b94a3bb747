"""Uploads: PUT or POST a picture to any path, as the original's clients do.

The query string says what is wanted (`params`), the body is the picture itself.  The
answer comes when every size is made and stored.  Nothing a client sends ends in a 500:
what cannot be read is 415 `Bad image file`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import attrs
from twisted.logger import Logger

from clinfra.config import ImageConfig
from clinfra.errors import InvalidRequest, TooLarge, Trouble, UnsupportedMedia
from clinfra.image import heic, sniff
from clinfra.image.badfiles import BadFiles
from clinfra.image.job import (
    BadImage,
    Bounds,
    Job,
    NoSuchFrame,
    Rendered,
    ResultTooLarge,
)
from clinfra.image.naming import BlobNames
from clinfra.image.params import Params, parse_params
from clinfra.image.render import Renderer
from clinfra.image.room import room
from clinfra.image.sizes import Recipe
from clinfra.image.sources import encoding_cost, ladder, text_of, useful
from clinfra.image.storing import Storing
from clinfra.web.exchange import IBody, IExchange, Response
from clinfra.web.heads import Field
from clinfra.web.resource import trouble_response
from clinfra.web.streams import Spooled, Threads, spool

METHODS = ("PUT", "POST")

_JSON: Field = (b"Content-Type", b"application/json")
_TEXT: Field = (b"Content-Type", b"text/plain")


class Uploads:
    """Renders and stores what is put or posted.

    Args:
        spool_directory: where bodies are kept, unnamed, while they are needed.
        bad_files: where unreadable uploads are kept; None means nowhere.
        threads: where bodies are written to disk; None means at once.
        now: unix seconds.
    """

    log = Logger()

    def __init__(
        self,
        config: ImageConfig,
        *,
        renderer: Renderer,
        storing: Storing,
        spool_directory: Path,
        bad_files: BadFiles | None,
        threads: Threads | None,
        now: Callable[[], float],
    ) -> None:
        self._config = config
        self._bounds = Bounds.of(config)
        self._ladder = ladder(config.mezzanine)
        self._renderer = renderer
        self._storing = storing
        self._spool_directory = spool_directory
        self._bad_files = bad_files
        self._threads = threads
        self._now = now
        accepted = ", ".join(
            f"image/{name.lower()}" for name in heic.openable(config.formats)
        )
        self._accept: Field = (b"Accept", accepted.encode())

    async def respond(self, exchange: IExchange) -> Response:
        """Answer one upload."""
        try:
            return await self._upload(exchange)
        except Trouble as trouble:
            return self.refusal(trouble)

    def refusal(self, trouble: Trouble) -> Response:
        """Answer trouble as the original did."""
        # Its sentences are the whole body, without a line end.
        answer = trouble_response(trouble)
        fields = answer.fields
        if isinstance(trouble, UnsupportedMedia):
            fields += (self._accept,)
        return attrs.evolve(answer, fields=fields, body=trouble.sentence.encode())

    async def _upload(self, exchange: IExchange) -> Response:
        params = parse_params(exchange.head.query, self._config)
        upload = await self.receive(exchange.body)
        try:
            rendered = await self.render(upload, params)
            names = None
            if params.save:
                names = await self.save(upload, rendered, params)
                exchange.notes["blob"] = names.stored
        except BadImage as bad:
            await self._bad(exchange, upload, params, bad.reason)
            raise UnsupportedMedia("Bad image file") from bad
        except ResultTooLarge as error:
            raise InvalidRequest(f"Size too large: {error.size_name}") from error
        except NoSuchFrame as error:
            raise InvalidRequest(f"No such frame: {error.size_name}") from error
        finally:
            upload.close()
        return _answer(params, rendered, names)

    async def receive(self, body: IBody) -> Spooled:
        """Read a picture into a file.  Raises TooLarge, Overloaded."""
        max_bytes = self._config.max_bytes
        if body.length is not None and body.length > max_bytes:
            raise TooLarge(f"The image is over {max_bytes} bytes.")
        with self._renderer.arriving(body.length), room():
            return await spool(
                body, self._spool_directory, max_bytes, threads=self._threads
            )

    async def render(self, upload: Spooled, params: Params) -> Rendered:
        """Make what is asked for.

        Raises BadImage, ResultTooLarge, NoSuchFrame, Overloaded.
        """
        kind = sniff.sniff(os.pread(upload.fd, sniff.HEAD_BYTES, 0))
        if kind is None or kind.format not in self._bounds.formats:
            raise BadImage("not a known format" if kind is None else kind.format)
        job = Job(
            recipes=params.sizes,
            quality=params.quality,
            bounds=self._bounds,
            filename=params.filename,
            publish_exif=self._config.publish_exif,
            want_info=params.wants_info,
            mezzanines=self._useful(kind) if params.keeps else (),
        )
        cost = sniff.cost(kind, upload.length)
        if kind.width and kind.height:
            # Usual sizes cost less than decoding, but there are others.
            made = encoding_cost(params.sizes, kind.width, kind.height)
            cost = max(cost, made)
        rendered = await self._renderer.render(
            upload.fd, job, cost, label=kind.format.lower()
        )
        if params.keeps:
            info = {**rendered.info, "kept": True}
            info["mezzanines"] = text_of(job.mezzanines)
            return attrs.evolve(rendered, info=info)
        return rendered

    async def save(
        self, upload: Spooled, rendered: Rendered, params: Params
    ) -> BlobNames:
        """Store what was made.  Raises Overloaded when that is not possible."""
        names = await self._storing.names(rendered)
        original = upload if params.keeps else None
        await self._storing.store(names, rendered, params.ttl_seconds, original)
        return names

    def _useful(self, kind: sniff.Kind) -> tuple[Recipe, ...]:
        """Return the mezzanines that are smaller than the picture, or may be."""
        if not (kind.width and kind.height):
            return self._ladder
        return useful(self._ladder, kind.width, kind.height)

    async def _bad(
        self, exchange: IExchange, upload: Spooled, params: Params, reason: str
    ) -> None:
        """Log what was wrong with an upload, and keep it if that is configured."""
        content_type = exchange.head.get(b"content-type") or b""
        if content_type.lower().startswith(b"multipart/"):
            reason = "a form was sent; the body must be the image itself"
        path = ""
        if self._bad_files is not None:
            path = await self._bad_files.keep(
                upload.fd, upload.length, params.filename, self._now()
            )
        exchange.notes["bad"] = reason
        self.log.warn("Bad image file: {reason} ({path})", reason=reason, path=path)


def _answer(params: Params, rendered: Rendered, names: BlobNames | None) -> Response:
    """Return the kind of answer that was asked for."""
    if params.response == "none":
        return Response()
    if params.response == "checksum":
        return Response(fields=(_TEXT,), body=rendered.checksum.encode())
    if params.response == "info":
        extra: dict[str, object] = {}
        if names is not None:
            extra["blob_info_name"] = names.info
            extra["blob_names"] = {
                size.name: names.size(size.name) for size in params.sizes
            }
        return Response(fields=(_JSON,), body=rendered.info_json(extra))
    made = rendered.renditions[params.response]
    media_type: Field = (b"Content-Type", made.content_type.encode())
    return Response(fields=(media_type,), body=made.body)
