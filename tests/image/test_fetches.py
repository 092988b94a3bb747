"""Renditions of pictures from elsewhere: signed only, kept like uploads."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from PIL import Image
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from clinfra.config import ImageConfig, Limits, Seconds
from clinfra.image.checks import check
from clinfra.image.elsewhere import Hosts
from clinfra.image.fetches import Fetches
from clinfra.image.fetching import Fetcher
from clinfra.image.loading import Loading
from clinfra.image.ondemand import OnDemand
from clinfra.image.patience import Patience
from clinfra.image.render import Renderer
from clinfra.image.resource import ImageResource
from clinfra.image.signing import Keys
from clinfra.image.storing import Storing
from clinfra.image.uploads import Uploads
from clinfra.web.site import Site
from tests.image.pictures import jpeg
from tests.image.support import Agency, MemoryBlobs, new_directory
from tests.image.test_fetching import GOOD, Server, answer
from tests.web.clients import Answer, Client

KEY = "a key of good length"
PICTURE = jpeg(2000, 1500)
URL = "http://example.com/a b.jpg?x=1&y=2".replace(" ", "%20")


class FetchesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1795321273)
        self.blobs = MemoryBlobs(now=self.clock.seconds)
        self.server = Server([])
        agency = Agency()
        config = ImageConfig(
            signing_keys=(KEY,), fetch_hosts=("example.com",), fetch_ttl=Seconds(1000)
        )
        renderer = Renderer(
            self.clock,
            agency.hire,
            places=1,
            timeout_seconds=10,
            jobs_per_worker=1000,
            queue=config.queue,
        )
        renderer.start()
        agency.workers[0].get_ready()
        directory, allowed = new_directory(self), check(config)
        shared: dict[str, Any] = {
            "renderer": renderer,
            "storing": Storing(self.blobs),
            "now": self.clock.seconds,
        }
        uploads = Uploads(
            config, spool_directory=directory, bad_files=None, threads=None, **shared
        )
        loading = Loading(
            self.blobs, directory, None, Patience(self.clock, 10), self.clock.seconds
        )
        on_demand = OnDemand(
            config, allowed=allowed, blobs=self.blobs, loading=loading, **shared
        )
        fetcher = Fetcher(
            self.clock,
            Hosts.of(config.fetch_hosts),
            directory,
            config.max_bytes,
            10.0,
            resolve=self.resolve,
            connect=self.server.at,
        )
        fetches = Fetches(
            config,
            allowed,
            fetcher,
            uploads,
            on_demand,
            loading,
            self.blobs,
            self.clock.seconds,
        )
        routes = (*fetches.routes(), *on_demand.routes())
        self.site = Site(
            ImageResource(uploads, routes), reactor=self.clock, limits=Limits()
        )

    async def resolve(self, host: str) -> Sequence[str]:
        return [GOOD]

    def begin(self, recipe: str = "300x300", url: str = URL, **sign: Any) -> Client:
        path = f"/fetch/{recipe}/{quote(url, safe='')}"
        return self.begin_at(Keys.of([KEY]).sign(path.encode(), **sign))

    def begin_at(self, address: bytes) -> Client:
        client = Client(self.site, self.clock)
        client.send(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % address)
        return client

    def get(self, *answers: bytes, recipe: str = "300x300", **sign: Any) -> Answer:
        self.server.answers[:] = answers
        client = self.begin(recipe, **sign)
        while self.server.answers:
            self.server.go_on()
        (result,) = client.answers("GET")
        return result

    def test_fetched(self) -> None:
        """What is fetched is kept like an upload, and fetched once while fresh."""
        first = self.get(answer(PICTURE))
        self.assertEqual((300, 225), Image.open(io.BytesIO(first.body)).size)
        self.assertEqual(URL, self.server.connected[0][0])
        self.assertIn(PICTURE, [body for body, *_ in self.blobs.kept.values()])
        self.assertEqual(first.body, self.get().body)
        self.assertEqual(
            "image/webp", self.get(recipe="64x_webp").fields["Content-Type"]
        )
        self.assertEqual(1, len(self.server.connected))
        self.assertEqual("public, max-age=1000", first.fields["Cache-Control"])
        (stored,) = (
            json.loads(body)["stored"]
            for name, (body, *_) in self.blobs.kept.items()
            if name.endswith(".fetched")
        )
        again = self.begin_at(f"/{stored}/300x300".encode()).answers("GET")[0]
        self.assertEqual(first.body, again.body)
        self.clock.advance(1001)
        other = self.get(answer(jpeg(640, 480)))
        self.assertNotEqual(first.body, other.body)
        self.assertEqual(2, len(self.server.connected))

    def test_together(self) -> None:
        """However many ask at the same time, it is fetched once."""
        clients = [self.begin(recipe) for recipe in ("300x300", "300x300", "64x_webp")]
        self.assertEqual(1, len(self.server.connected))
        self.server.answers.append(answer(PICTURE))
        self.server.go_on()
        for client in clients:
            self.assertEqual([200], [each.status for each in client.answers("GET")])

    def test_nobody_waits(self) -> None:
        """When nobody waits any more the connection is closed."""
        client = self.begin()
        client.hang_up()
        self.clock.advance(0)
        self.assertTrue(self.server.wires[0].lost)
        self.assertEqual({}, self.blobs.kept)

    def test_signed_only(self) -> None:
        """Unsigned, expired and changed addresses are refused, whatever the recipe."""
        path = f"/fetch/300x300/{quote(URL, safe='')}".encode()
        signed = Keys.of([KEY]).sign(path, int(self.clock.seconds()) + 10)
        self.clock.advance(11)
        for address in (path, signed, signed.replace(b"example", b"example2")):
            (result,) = self.begin_at(address).answers("GET")
            self.assertEqual(403, result.status)
            self.assertEqual("no-store", result.fields["Cache-Control"])
        self.assertEqual([], self.server.connected)

    def test_refused(self) -> None:
        """A signature does not open what is not on the list."""
        for url, status in (
            ("http://127.0.0.1/", 403),
            ("http://other.net/", 403),
            ("file:///etc/passwd", 400),
            ("nonsense", 400),
        ):
            (result,) = self.begin(url=url).answers("GET")
            self.assertEqual(status, result.status)
        path = Keys.of([KEY]).sign(b"/fetch/300x300/%ff")
        self.assertEqual(400, self.begin_at(path).answers("GET")[0].status)
        self.assertEqual([], self.server.connected)

    def test_bad(self) -> None:
        """What is no picture is said so, and nothing of it is kept."""
        for body, status in (
            (answer(b"bad"), 415),
            (answer(b"", 404), 404),
            (answer(b"", 500), 502),
            (answer(jpeg(8, 8)[:-900]), 415),
        ):
            self.assertEqual(status, self.get(body).status)
            self.assertEqual({}, self.blobs.kept)

    def test_cannot_remember(self) -> None:
        """That it cannot be remembered is no reason not to answer."""
        self.blobs.full_after = 4
        self.assertEqual(200, self.get(answer(PICTURE)).status)
        self.assertEqual(4, len(self.blobs.kept))

    def test_pointer(self) -> None:
        """What was remembered and makes no sense is forgotten."""
        self.get(answer(PICTURE))
        (name,) = (name for name in self.blobs.kept if name.endswith(".fetched"))
        for body in (b"nonsense", b"[]", b'{"stored": 5}', b'{"stored": "../x"}'):
            self.blobs.kept[name] = (body, "application/json", 1000)
            self.assertEqual(200, self.get(answer(PICTURE)).status)
