"""Who is given the gallery, and what may be signed through it."""

from __future__ import annotations

import html
import json
import re
from importlib.resources import files
from typing import Any, cast

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from clinfra.config import ImageConfig, Limits
from clinfra.errors import Forbidden
from clinfra.image.allowed import Allowed
from clinfra.image.gallery import Gallery
from clinfra.image.resource import ImageResource
from clinfra.image.service import make_image_service
from clinfra.image.uploads import Uploads
from clinfra.web.site import Site
from tests.image.support import MemoryBlobs, new_directory
from tests.image.test_service import ThreadedClock
from tests.web.clients import Answer, Client

NOW = 1795321273
HERE = "Host: 127.0.0.1:8082"
FOREIGN = (
    ("192.0.2.7", HERE),
    ("127.0.0.1", "Host: evil.example"),
    ("127.0.0.1", "Host: localhost.evil.example:8082"),
    ("127.0.0.1", HERE, "Via: 1.1 clinfra"),
    ("127.0.0.1", HERE, "X-Forwarded-For: 192.0.2.7"),
    ("127.0.0.1", HERE, "X-Real-IP: 192.0.2.7"),
    ("127.0.0.1", HERE, "Forwarded: for=192.0.2.7"),
)
"""Who is not on this machine, or is led here by the name of another."""


class GalleryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.start()

    def start(self, **changes: Any) -> None:
        """Serve nothing but the gallery: nothing can be uploaded."""
        self.clock = Clock()
        self.clock.advance(NOW)
        key = "the key of this test"
        config = ImageConfig(**changes)
        self.strangers = Allowed.of(config)
        self.allowed = self.strangers.and_signed_by(key)
        gallery = Gallery(config, allowed=self.allowed, key=key, now=self.clock.seconds)
        resource = ImageResource(cast(Uploads, None), gallery.routes())
        self.site = Site(resource, reactor=self.clock, limits=Limits())

    def get(
        self,
        path: str,
        *fields: str,
        address: str = "127.0.0.1",
        method: str = "GET",
    ) -> Answer:
        client = Client(self.site, self.clock, address=address)
        if not any(each.startswith("Host:") for each in fields):
            fields = (HERE, *fields)
        lines = (f"{method} {path} HTTP/1.1", *fields)
        client.send("\r\n".join(lines).encode() + b"\r\n\r\n")
        (answer,) = client.answers(method)
        return answer

    def token(self) -> str:
        """Return the field with the token, as the page's script reads it."""
        page = self.get("/").body.decode()
        found = re.search(r'<meta name="gallery" content="([^"]*)">', page)
        assert found is not None
        token: str = json.loads(html.unescape(found[1]))["token"]
        return f"X-Gallery-Token: {token}"

    def sign(self, recipe: str, *fields: str, name: str = "000_abc") -> Answer:
        fields = fields or (self.token(),)
        return self.get(f"/gallery/sign?name={name}&recipe={recipe}", *fields)

    # Who is given it.

    def test_page(self) -> None:
        """The page and its parts are there, for this machine."""
        for path, kind in (
            ("/", "text/html; charset=utf-8"),
            ("/gallery.css", "text/css; charset=utf-8"),
            ("/gallery.js", "text/javascript; charset=utf-8"),
        ):
            for method in ("GET", "HEAD"):
                for host in ("127.0.0.1:8082", "localhost", "[::1]:8082"):
                    answer = self.get(path, f"Host: {host}", method=method)
                    self.assertEqual(200, answer.status)
                    self.assertEqual(kind, answer.fields["Content-Type"])
                    self.assertEqual("no-store", answer.fields["Cache-Control"])
                    self.assertEqual("nosniff", answer.fields["X-Content-Type-Options"])
        self.assertEqual(200, self.get("/", address="::1").status)

    def test_not_for_others(self) -> None:
        """Nobody else gets anything of it, nor whoever comes through a proxy."""
        token = self.token()
        sign = "/gallery/sign?name=000_abc&recipe=1x1"
        for path in ("/", "/gallery.css", "/gallery.js", sign):
            for address, *fields in FOREIGN:
                answer = self.get(path, *fields, token, address=address)
                self.assertEqual(403, answer.status, (path, fields))
                self.assertIn(b"(image.gallery)", answer.body)

    def test_open(self) -> None:
        """An open gallery is for everybody, but not for pages of other sites."""
        self.start(gallery="open")
        token = self.token()
        path = "/gallery/sign?name=000_abc&recipe=1x1"
        for address, *fields in FOREIGN:
            self.assertEqual(200, self.get("/", *fields, address=address).status)
            answer = self.get(path, *fields, token, address=address)
            self.assertEqual(200, answer.status)
        answer = self.get(path, token, "Sec-Fetch-Site: cross-site")
        self.assertEqual(403, answer.status)

    def test_off(self) -> None:
        """Where it is switched off, there is nothing to read at /, as ever."""
        service = make_image_service(
            ImageConfig(gallery="off"),
            reactor=ThreadedClock(),
            data_dir=new_directory(self),
            blobs=MemoryBlobs(),
        )
        self.site = Site(service.resource, reactor=self.clock, limits=Limits())
        for path in ("/", "/gallery.js"):
            answer = self.get(path)
            self.assertEqual(405, answer.status)
            self.assertEqual("PUT, POST", answer.fields["Allow"])
        self.assertEqual(404, self.get("/gallery/info").status)

    # What it is made of.

    def test_policy(self) -> None:
        """No script or style in the page itself, none from elsewhere, no markup."""
        answer = self.get("/")
        policy = dict(
            each.strip().partition(" ")[::2]
            for each in answer.fields["Content-Security-Policy"].split(";")
        )
        self.assertEqual("'none'", policy["default-src"])
        self.assertEqual("'self'", policy["script-src"])
        self.assertEqual("'self'", policy["style-src"])
        self.assertEqual("'none'", policy["frame-ancestors"])
        self.assertEqual("'script'", policy["require-trusted-types-for"])
        page = answer.body.decode()
        self.assertNotIn("<style", page)
        self.assertNotRegex(page, r"<script(?! src=\"gallery\.js\" defer></script>)")
        self.assertNotRegex(page, r"<[^>]* (?:on\w+|style)=")

    def test_small(self) -> None:
        """Page, style and script together are under 25 KiB, and name no other site."""
        texts = [
            (files("clinfra.image") / f"gallery.{kind}").read_text("utf-8")
            for kind in ("html", "css", "js")
        ]
        self.assertLess(sum(len(text.encode()) for text in texts), 25 << 10)
        sites = set(re.findall(r"\w+://[^/'<]*", "".join(texts)))
        self.assertEqual({"http://127.0.0.1:8082"}, sites)

    def test_hostile_configuration(self) -> None:
        """Whatever is configured stays text."""
        self.start(sizes=("50x50c", "10x10%3Cscript%3E"), presets={"a": "1x1"})
        self.assertEqual(1, self.get("/").body.count(b"<script"))
        self.token()

    # Signing.

    def test_signed(self) -> None:
        """Any recipe gets an address that holds for an hour, and no more than two."""
        told = json.loads(self.sign("450x450_fill_webp").body)
        path, _, query = told["url"].partition("?")
        self.assertEqual("450x450c_webp", told["recipe"])
        self.assertEqual("000_abc/450x450c_webp", path)
        self.assertLessEqual(NOW + 3600, told["expires"])
        self.assertGreaterEqual(NOW + 7200, told["expires"])
        target = (f"/{path}".encode(), query.encode())
        asked = self.allowed.resolve("450x450c_webp", *target, NOW)
        self.assertEqual((450, 450), (asked.recipe.width, asked.recipe.height))
        self.assertEqual(told, json.loads(self.sign("450x450c_webp").body))
        for allowed, now in ((self.strangers, NOW), (self.allowed, NOW + 7200)):
            with self.assertRaises(Forbidden):
                allowed.resolve("450x450c_webp", *target, now)

    def test_allowed_anyway(self) -> None:
        """What anybody may ask for is not signed; a preset keeps its name."""
        self.start(presets={"card": "600x450c_webp"})
        for text, recipe, path in (
            ("600x450", "600x450", "600x450"),
            ("300x300_webp", "300x300_webp", "300x300_webp"),
            ("card", "600x450c_webp", "card"),
            ("card.png", "600x450c_png", "card.png"),
        ):
            told = json.loads(self.sign(text).body)
            expected = {"url": f"000_abc/{path}", "recipe": recipe, "expires": None}
            self.assertEqual(expected, told)

    def test_not_recipes(self) -> None:
        """What cannot be signed is refused in a sentence."""
        for recipe, word in (
            ("", b"begins with a size"),
            ("300x300_g-n", b"g is for fill and pad"),
            ("9999x9999c", b"Size too large"),
            ("1x1%2F..%2Fx", b"begins with a size"),
            ("%C3%A9", b"Invalid recipe"),
        ):
            answer = self.sign(recipe)
            self.assertEqual(400, answer.status, recipe)
            self.assertIn(word, answer.body)
        for name in ("", "..", "a%2Fb", "a" * 81, "%3Cb%3E"):
            self.assertEqual(400, self.sign("1x1", name=name).status, name)

    def test_token(self) -> None:
        """Only the page can have something signed, and no page of another site."""
        token = self.token()
        for fields in (
            ("X-Gallery-Token: guess",),
            ("X-Gallery-Token:",),
            ("Accept: */*",),
            (token, "Origin: http://evil.example"),
            (token, "Origin: null"),
            (token, "Sec-Fetch-Site: cross-site"),
            (token, "Sec-Fetch-Site: same-site"),
        ):
            self.assertEqual(403, self.sign("1x1", *fields).status, fields)
        own = (token, "Origin: http://127.0.0.1:8082", "Sec-Fetch-Site: same-origin")
        self.assertEqual(200, self.sign("1x1", *own).status)

    def test_another_start(self) -> None:
        """After a new start the page is asked to load itself again."""
        token = self.token()
        self.start()
        self.assertNotEqual(token, self.token())
        answer = self.sign("1x1", token)
        self.assertEqual(403, answer.status)
        self.assertIn(b"reload this page", answer.body)
