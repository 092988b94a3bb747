"""Renditions of pictures from elsewhere: GET /fetch/RECIPE/URL, signed.

URL is percent-encoded as a whole.  What is fetched is kept like an upload, under the
name of its bytes; for a while the URL stands for it, and is not fetched again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import unquote_to_bytes

import attrs
from attrs import define, field, frozen
from twisted.logger import Logger

from clinfra.config import ImageConfig
from clinfra.errors import (
    Forbidden,
    InvalidRequest,
    NotFound,
    Overloaded,
    Trouble,
    UnsupportedMedia,
)
from clinfra.image.allowed import Allowed
from clinfra.image.elsewhere import Url, parse_url
from clinfra.image.fetching import Fetcher
from clinfra.image.flights import Flight, Flights
from clinfra.image.job import BadImage, ResultTooLarge
from clinfra.image.loading import Loading
from clinfra.image.naming import BlobNames, base_name
from clinfra.image.ondemand import OnDemand
from clinfra.image.params import parse_params
from clinfra.image.routes import Route
from clinfra.image.signing import is_signed
from clinfra.image.uploads import Uploads
from clinfra.interfaces import IBlobs
from clinfra.web.exchange import IExchange, Response

_MOST_AT_ONCE: Final = 16
_STORED: Final = re.compile(r"[0-9A-Za-z_]{1,80}")


@frozen
class _Known:
    """What a URL stands for, and until when (unix seconds)."""

    names: BlobNames
    ends: int


@define(eq=False)
class Fetches:
    """Answers GET and HEAD of pictures from elsewhere.

    Args:
        now: unix seconds.
    """

    log = Logger()

    _config: ImageConfig
    _allowed: Allowed
    _fetcher: Fetcher
    _uploads: Uploads
    _on_demand: OnDemand
    _loading: Loading
    _blobs: IBlobs
    _now: Callable[[], float]
    _flights: Flights[_Known] = field(init=False, factory=Flights)

    def routes(self) -> Sequence[Route]:
        """Return what is answered here."""
        return (Route(re.compile(rb"/fetch/([^/]+)/([^/]+)"), self._answer),)

    async def _answer(self, exchange: IExchange, match: re.Match[bytes]) -> Response:
        head = exchange.head
        if not is_signed(head.query):
            raise Forbidden("Only signed addresses are fetched.")
        text = match[1].decode("latin-1")
        asked = self._allowed.resolve(text, head.path, head.query, self._now())
        try:
            url = parse_url(unquote_to_bytes(match[2]).decode("utf-8"))
        except UnicodeDecodeError as error:
            raise InvalidRequest("This URL is not UTF-8.") from error
        known = await self._flights.join(
            url.text, lambda flight: self._find(flight, url)
        )
        ends = min(asked.expires or known.ends, known.ends)
        asked = attrs.evolve(asked, expires=ends, fixed=False)
        return await self._on_demand.answer(exchange, known.names, asked)

    async def _find(self, flight: Flight[_Known], url: Url) -> None:
        """Look up what a URL stands for, or fetch it."""
        digest = hashlib.sha256(url.text.encode("ascii")).hexdigest()
        # All of the digest: who could make another URL of this name would choose what
        # this one shows.
        pointer = await self._blobs.encode(f"{base_name(digest)}-{digest}.fetched")
        try:
            info, body = await self._loading.read(pointer, "not fetched yet")
            stored = json.loads(body)["stored"]
            if _STORED.fullmatch(stored):
                flight.land(_Known(BlobNames(stored), info.deleted))
                return
        except (NotFound, ValueError, TypeError, LookupError):
            pass
        if len(self._flights) > _MOST_AT_ONCE:
            raise Overloaded("Too many pictures are being fetched.")
        names = await self._fetch(url)
        ttl = int(min(self._config.fetch_ttl, self._config.ttl))
        flight.land(_Known(names, int(self._now()) + ttl))
        try:
            await self._blobs.put(
                pointer,
                json.dumps({"stored": names.stored}).encode(),
                ttl_seconds=ttl,
                content_type="application/json",
                encoded=True,
            )
        except Trouble as trouble:
            self.log.warn(
                "cannot remember {host}: {error}", host=url.host, error=str(trouble)
            )

    async def _fetch(self, url: Url) -> BlobNames:
        """Fetch a picture and keep it like an upload."""
        params = parse_params(b"sizes=&keep=true&response=none", self._config)
        upload = await self._fetcher.fetch(url)
        try:
            rendered = await self._uploads.render(upload, params)
            return await self._uploads.save(upload, rendered, params)
        except (BadImage, ResultTooLarge) as error:
            self.log.warn(
                "bad image from {host}: {error}", host=url.host, error=str(error)
            )
            raise UnsupportedMedia(
                f"What {url.host} has there is not a picture that is accepted."
            ) from error
        finally:
            upload.close()
