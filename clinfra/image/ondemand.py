"""Renditions on demand: GET /NAME/RECIPE, and GET /NAME/info.

NAME is what an upload was told (`blob_info_name` without ".json"), or its checksum.
What was made before is in the blob service and comes from there.  What was not is made
of the original or its mezzanine, once however many ask, answered at once, and stored in
the background for as long as the original is.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs
from attrs import frozen
from twisted.logger import Logger

from clinfra.config import ImageConfig
from clinfra.errors import (
    InvalidRequest,
    NotFound,
    Trouble,
    UnsupportedMedia,
)
from clinfra.image.accept import choose_format, settled
from clinfra.image.allowed import Allowed, Asked
from clinfra.image.flights import Flight, Flights
from clinfra.image.job import (
    BadImage,
    Bounds,
    Job,
    NoSuchFrame,
    Rendition,
    ResultTooLarge,
)
from clinfra.image.loading import Loading
from clinfra.image.naming import BlobNames, base_name
from clinfra.image.render import DEMAND, Renderer, photographs
from clinfra.image.routes import Route
from clinfra.image.sizes import Recipe
from clinfra.image.sources import Picture, choose_source, ladder
from clinfra.image.storing import Storing
from clinfra.image.workforce import WorkerKilled
from clinfra.interfaces import BlobInfo, IBlobs
from clinfra.web.entity import Entity, entity_response
from clinfra.web.exchange import IExchange, Response
from clinfra.web.headers import ETag
from clinfra.web.heads import Fields
from clinfra.web.ranges import Range

PICTURES: Final = frozenset({"image/jpeg", "image/png", "image/webp", "image/avif"})
"""Media types that are served; nothing else that the blob service may hold."""

_CHECKSUM: Final = re.compile(r"[0-9a-f]{64}")
_NAME: Final = rb"([0-9a-f]{64}|(?:[0-9A-Za-z]{1,64}_)?[0-9A-Za-z]{1,11})"
_UNKNOWN: Final = "There is no picture of this name."
_ATTEMPTS: Final = 2
_MOST_FAILURES: Final = 1000
_FAILURE_SECONDS: Final = 60.0


@frozen
class Made:
    """A rendition, stored or just made.

    Attributes:
        sha256: of the body.
        modified: unix seconds.
        ends: unix seconds; 0 for never.
        fresh: it was made just now.
    """

    body: bytes
    sha256: bytes
    content_type: str
    modified: int
    ends: int
    fresh: bool = False


class OnDemand:
    """Answers GET and HEAD of stored pictures, their renditions and their info.

    Args:
        now: unix seconds.
    """

    log = Logger()

    def __init__(
        self,
        config: ImageConfig,
        *,
        allowed: Allowed,
        blobs: IBlobs,
        loading: Loading,
        renderer: Renderer,
        storing: Storing,
        now: Callable[[], float],
    ) -> None:
        self._config = config
        self._ladder = ladder(config.mezzanine)
        self._bounds = Bounds.of(config)
        self._allowed = allowed
        self._blobs = blobs
        self._loading = loading
        self._renderer = renderer
        self._storing = storing
        self._now = now
        self._flights: Flights[Made] = Flights()
        self._failures: OrderedDict[str, tuple[float, Trouble]] = OrderedDict()
        self._stored = self._made = 0

    def routes(self) -> Sequence[Route]:
        """Return what is answered here; the last of all routes."""
        return (
            Route(re.compile(rb"/" + _NAME + rb"/info"), self._answer_info),
            Route(re.compile(rb"/" + _NAME + rb"/([^/]+)"), self._answer_rendition),
        )

    def report(self) -> dict[str, int]:
        """Return what the admin pages show."""
        return {
            "stored": self._stored,
            "made": self._made,
            "under_way": len(self._flights),
        }

    # Answers.

    async def _answer_info(
        self, exchange: IExchange, match: re.Match[bytes]
    ) -> Response:
        names = await self.names_of(match[1].decode("ascii"))
        info, body = await self._loading.read(names.info, _UNKNOWN)
        if info.content_type != "application/json":
            raise NotFound(_UNKNOWN)
        made = self._found(info, body)
        return await self._serve(exchange, made, None, immutable=False)

    async def _answer_rendition(
        self, exchange: IExchange, match: re.Match[bytes]
    ) -> Response:
        head = exchange.head
        text = match[2].decode("latin-1")
        asked = self._allowed.resolve(text, head.path, head.query, self._now())
        names = await self.names_of(match[1].decode("ascii"))
        return await self.answer(exchange, names, asked)

    async def answer(
        self, exchange: IExchange, names: BlobNames, asked: Asked
    ) -> Response:
        """Answer with a rendition of a stored picture.

        Raises errors.Trouble.
        """
        recipe = asked.recipe
        negotiated = recipe.format == "auto"
        if negotiated:
            accept = exchange.head.get(b"accept")
            chosen = choose_format(accept, self._config.auto_formats)
            recipe = settled(recipe, chosen)
        made = await self._obtain(exchange, names, recipe)
        # Without a quality in it, another upload of the same may have another.
        immutable = (
            asked.fixed
            and not negotiated
            and recipe.format != "plain"
            and (recipe.quality is not None or recipe.lossless)
        )
        response = await self._serve(exchange, made, asked.expires, immutable=immutable)
        if negotiated:
            vary = (b"Vary", b"Accept")
            return attrs.evolve(response, fields=(*response.fields, vary))
        return response

    async def names_of(self, name: str) -> BlobNames:
        """Return the names of a picture by its stored name or its checksum."""
        if _CHECKSUM.fullmatch(name):
            return BlobNames(await self._blobs.encode(base_name(name)))
        return BlobNames(name)

    async def _serve(
        self,
        exchange: IExchange,
        made: Made,
        expires: int | None,
        *,
        immutable: bool,
    ) -> Response:
        now = self._now()
        age: float = self._config.max_age
        for end in (made.ends, expires):
            if end:
                age = min(age, max(end - now, 0))
        control = b"public, max-age=%d" % age + b", immutable" * immutable
        digest = b"sha-256=:" + base64.b64encode(made.sha256) + b":"
        fields: Fields = (
            (b"Cache-Control", control),
            (b"X-Content-Type-Options", b"nosniff"),
        )

        async def part(wanted: Range) -> bytes:
            return made.body[wanted.start : wanted.stop]

        entity = Entity(
            length=len(made.body),
            content_type=made.content_type.encode("latin-1"),
            open=part,
            etag=ETag(made.sha256.hex().encode()),
            last_modified=min(made.modified, int(now)),
            fields=fields,
            whole_fields=((b"Content-Digest", digest),),
        )
        return await entity_response(exchange.head, entity, exchange.threads)

    # What was made before.

    async def _obtain(
        self, exchange: IExchange, names: BlobNames, recipe: Recipe
    ) -> Made:
        made = await self._flights.join(
            names.rendition(recipe), lambda flight: self._find(flight, names, recipe)
        )
        exchange.notes["image"] = "made" if made.fresh else "stored"
        return made

    async def _find(
        self, flight: Flight[Made], names: BlobNames, recipe: Recipe
    ) -> None:
        """Fetch a rendition, or make it when there is none."""
        name = names.rendition(recipe)
        try:
            info, body = await self._loading.read(name, _UNKNOWN)
        except NotFound:
            pass
        else:
            if info.content_type in PICTURES:
                self._stored += 1
                flight.land(self._found(info, body))
                return
        failure = self._failures.get(name)
        if failure is not None and failure[0] > self._now():
            raise failure[1].with_traceback(None)
        await self._make(flight, names, recipe)

    def _found(self, info: BlobInfo, body: bytes) -> Made:
        modified = (info.modified or 0) >> 32
        known = info.sha256
        sha256 = bytes.fromhex(known) if known else hashlib.sha256(body).digest()
        return Made(body, sha256, info.content_type, modified, info.deleted)

    # What has to be made.

    async def _make(
        self, flight: Flight[Made], names: BlobNames, recipe: Recipe
    ) -> None:
        """Make a rendition, tell everybody who waits for it, and store it."""
        name = names.rendition(recipe)
        try:
            rendition, ends = await self._render(flight, names, recipe)
        except _Impossible as error:
            self._remember(name, error.trouble)
            raise error.trouble from error
        now = self._now()
        ttl: float = self._config.rendition_ttl
        if ends:
            ttl = min(ttl, ends - now)
        self._made += 1
        ends = int(now) + int(ttl)
        body, content_type = rendition.body, rendition.content_type
        sha256 = hashlib.sha256(body).digest()
        flight.land(Made(body, sha256, content_type, int(now), ends, fresh=True))
        if ttl >= 1:
            await self._storing.store_rendition(name, rendition, int(ttl))

    async def _render(
        self, flight: Flight[Made], names: BlobNames, recipe: Recipe
    ) -> tuple[Rendition, int]:
        """Return a rendition, and when what it is made of ends (0: never)."""
        about, text = await self._loading.read(names.info, _UNKNOWN)
        try:
            values = json.loads(text)
            picture = Picture.of(values if isinstance(values, dict) else {})
        except ValueError as error:
            raise NotFound(_UNKNOWN) from error
        if not picture.kept:
            raise NotFound(
                f"The original of this picture was not kept, and no {recipe.name} of it"
                " was made when it was uploaded."
            )
        source = choose_source(picture, recipe, self._ladder)
        if source.pixels > self._bounds.max_size_pixels:
            sentence = f"Size too large: {recipe.name}"
            raise _Impossible(InvalidRequest(sentence))
        self._renderer.check_room(DEMAND, source.cost)
        bounds = self._bounds
        if source.mezzanine is not None:
            bounds = attrs.evolve(bounds, formats=("JPEG",))
            rung = names.mezzanine(source.mezzanine)
            info, file = await self._loading.mezzanine(rung)
        else:
            info, file = await self._loading.original(names.original)
        try:
            # What waits for a worker holds its bytes, too, of which a file may have
            # more than its pixels say.
            cost = max(source.cost, photographs(file.length))
            job = Job(
                (recipe,),
                self._config.quality,
                bounds,
                want_info=False,
                piece=(file.offset, file.length),
            )
            rendition = await self._work(flight, file.fd, job, cost)
        finally:
            file.close()
        ends = [each.deleted for each in (about, info) if each.deleted]
        return rendition, min(ends, default=0)

    async def _work(
        self, flight: Flight[Made], fd: int, job: Job, cost: float
    ) -> Rendition:
        """Have a worker make the one rendition of a job."""
        (recipe,) = job.recipes
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                rendered = await self._renderer.render(
                    fd,
                    job,
                    cost,
                    kind=DEMAND,
                    label=recipe.format,
                    on_begin=flight.commit,
                )
                return rendered.renditions[recipe.name]
            except WorkerKilled:
                if attempt == _ATTEMPTS:
                    raise
            except BadImage as bad:
                self.log.warn(
                    "cannot make {recipe}: {reason}",
                    recipe=recipe.name,
                    reason=bad.reason,
                )
                sentence = f"No {recipe.name} can be made of this picture."
                raise _Impossible(UnsupportedMedia(sentence)) from bad
            except ResultTooLarge as error:
                sentence = f"Size too large: {recipe.name}"
                raise _Impossible(InvalidRequest(sentence)) from error
            except NoSuchFrame as error:
                raise _Impossible(NotFound(f"No such frame: {recipe.name}")) from error
        raise AssertionError("not reached")

    def _remember(self, name: str, trouble: Trouble) -> None:
        """What cannot be made is not tried again at once."""
        self._failures[name] = (self._now() + _FAILURE_SECONDS, trouble)
        self._failures.move_to_end(name)
        while len(self._failures) > _MOST_FAILURES:
            self._failures.popitem(last=False)


class _Impossible(Exception):
    """What is asked for cannot be made, now or later."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(str(trouble))
        self.trouble: Any = trouble
