"""Renditions on demand: who may ask, what they are made of, and how they are served."""

from __future__ import annotations

import base64
import io
import json
import os
import resource
from hashlib import sha256
from typing import Any

from PIL import Image
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from clinfra.config import ImageConfig, Limits
from clinfra.image.allowed import Allowed
from clinfra.image.loading import Loading
from clinfra.image.ondemand import OnDemand
from clinfra.image.patience import Patience
from clinfra.image.render import Renderer
from clinfra.image.resource import ImageResource
from clinfra.image.signing import Keys
from clinfra.image.storing import Storing
from clinfra.image.uploads import Uploads
from clinfra.web.site import Site
from tests.image.pictures import encode, jpeg, oriented, photograph
from tests.image.support import Agency, MemoryBlobs, new_directory
from tests.web.clients import Answer, Client

NOW = 1795321273
KEY = "a key of good length"
SMALL = oriented(jpeg(880, 660), 6)
LARGE = jpeg(2400, 1800)


class OnDemandTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.start()

    def start(self, *, patient: bool = False, **changes: Any) -> None:
        """Start a service in memory, with one worker."""
        self.clock = Clock()
        self.clock.advance(NOW)
        self.blobs = MemoryBlobs(now=self.clock.seconds)
        self.agency = Agency()
        config = ImageConfig(**{"signing_keys": (KEY,), **changes})
        self.renderer = Renderer(
            self.clock,
            self.agency.hire,
            places=1,
            timeout_seconds=10,
            jobs_per_worker=1000,
            queue=config.queue,
        )
        self.renderer.start()
        self.agency.workers[0].get_ready()
        self.agency.workers[0].patient = patient
        directory, storing = new_directory(self), Storing(self.blobs)
        uploads = Uploads(
            config,
            renderer=self.renderer,
            storing=storing,
            spool_directory=directory,
            bad_files=None,
            threads=None,
            now=self.clock.seconds,
        )
        loading = Loading(
            self.blobs, directory, None, Patience(self.clock, 10), self.clock.seconds
        )
        self.on_demand = OnDemand(
            config,
            allowed=Allowed.of(config),
            blobs=self.blobs,
            loading=loading,
            renderer=self.renderer,
            storing=storing,
            now=self.clock.seconds,
        )
        resource = ImageResource(uploads, self.on_demand.routes())
        self.notes: list[dict[str, Any]] = []
        self.site = Site(
            resource,
            reactor=self.clock,
            limits=Limits(),
            access_log=lambda exchange, seconds: self.notes.append(exchange.notes),
        )

    @property
    def rendered(self) -> int:
        return int(self.renderer.report()["kinds"]["demand"]["rendered"])

    def put(self, body: bytes = SMALL, query: str = "?sizes=") -> str:
        """Upload a picture; return its name."""
        client = Client(self.site, self.clock)
        client.send(
            f"PUT /{query}&response=info HTTP/1.1\r\nHost: x\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        (answer,) = client.answers("PUT")
        self.assertEqual(200, answer.status, answer.body)
        name: str = json.loads(answer.body)["blob_info_name"]
        return name.removesuffix(".json")

    def begin(self, path: str, *fields: str, method: str = "GET") -> Client:
        client = Client(self.site, self.clock)
        lines = (f"{method} {path} HTTP/1.1", "Host: x", *fields)
        client.send("\r\n".join(lines).encode() + b"\r\n\r\n")
        return client

    def get(self, path: str, *fields: str, method: str = "GET") -> Answer:
        (answer,) = self.begin(path, *fields, method=method).answers(method)
        return answer

    def signed(self, path: str, expires: int | None = None) -> str:
        return Keys.of([KEY]).sign(path.encode(), expires).decode()

    def size(self, answer: Answer) -> tuple[int, int]:
        self.assertEqual(200, answer.status, answer.body)
        return Image.open(io.BytesIO(answer.body)).size

    # What is kept.

    def test_kept(self) -> None:
        """The upload is kept as it came, and what is larger has a mezzanine."""
        for body, larger in ((SMALL, False), (LARGE, True)):
            name = self.put(body, "?ttl=1000&sizes=20x20")
            kept = self.blobs.kept
            self.assertEqual((body, "image/jpeg", 1000), kept[f"{name}.original"])
            self.assertEqual(larger, f"{name}.mezzanine.jpg" in kept)
            self.assertEqual(larger, f"{name}.mezzanine-2.jpg" in kept)
            self.assertIs(True, json.loads(kept[f"{name}.json"][0])["kept"])
            self.assertEqual(f"{name}.json", self.blobs.order[-1])
        for rung, size in (("mezzanine", (1600, 1200)), ("mezzanine-2", (900, 675))):
            mezzanine, content_type, ttl = kept[f"{name}.{rung}.jpg"]
            self.assertEqual(("image/jpeg", 1000), (content_type, ttl))
            self.assertEqual(size, Image.open(io.BytesIO(mezzanine)).size)

    def test_one_rung(self) -> None:
        """A small picture has the lower mezzanine; one may be all there are, too."""
        body = encode(photograph(1000, 750))
        name = self.put(body)
        first = self.blobs.kept[f"{name}.mezzanine.jpg"][0]
        self.assertEqual((900, 675), Image.open(io.BytesIO(first)).size)
        self.assertNotIn(f"{name}.mezzanine-2.jpg", self.blobs.kept)
        self.start(mezzanine="1200x1200")
        name = self.put(LARGE)
        first = self.blobs.kept[f"{name}.mezzanine.jpg"][0]
        self.assertEqual((1200, 900), Image.open(io.BytesIO(first)).size)
        self.assertNotIn(f"{name}.mezzanine-2.jpg", self.blobs.kept)

    def test_other_configuration(self) -> None:
        """What was kept is used as it is, however mezzanines are made now."""
        name = self.put(LARGE)
        kept = self.blobs.kept
        self.start(mezzanine="80x80")
        self.blobs.kept = kept
        self.size(self.get(self.signed(f"/{name}/600x450")))
        self.assertIn(f"{name}.mezzanine-2.jpg", self.blobs.asked)

    def test_not_kept(self) -> None:
        """Nobody's original is kept who does not want that."""
        for query in ("?keep=false", "?keep=0"):
            name = self.put(SMALL, query)
            self.assertEqual(4, len(self.blobs.kept))
            self.assertNotIn("kept", json.loads(self.blobs.kept[f"{name}.json"][0]))
        self.start(keep=False)
        self.put(SMALL)
        self.assertEqual(1, len(self.blobs.kept))
        self.put(SMALL, "?sizes=&keep=true")
        self.assertEqual(2, len(self.blobs.kept))

    def test_nothing_half_kept(self) -> None:
        """When the original cannot be stored, nothing is."""
        for full_after in range(3):
            self.start()
            self.blobs.full_after = full_after
            client = Client(self.site, self.clock)
            client.send(
                b"PUT /?sizes= HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
                % len(LARGE)
                + LARGE
            )
            (answer,) = client.answers("PUT")
            self.assertEqual((503, {}), (answer.status, self.blobs.kept))

    # What is served.

    def test_made(self) -> None:
        """A rendition is made once, stored, and comes from the store from then on."""
        name = self.put(SMALL, "?ttl=1000&sizes=")
        for address in (name, sha256(SMALL).hexdigest()):
            answer = self.get(f"/{address}/300x300")
            self.assertEqual((225, 300), self.size(answer))
        self.assertEqual(1, self.rendered)
        body, content_type, ttl = self.blobs.kept[f"{name}_300x300.jpg"]
        self.assertEqual((answer.body, "image/jpeg", 1000), (body, content_type, ttl))
        self.assertEqual(["made", "stored"], [note["image"] for note in self.notes[1:]])
        self.assertEqual(
            {"stored": 1, "made": 1, "under_way": 0}, self.on_demand.report()
        )

    def test_fields(self) -> None:
        """Made or stored, an answer has everything that caches and clients need."""
        name = self.put(SMALL, "?ttl=1000&sizes=")
        digest = base64.b64encode(sha256(self.get(f"/{name}/300x300").body).digest())
        answer = self.get(f"/{name}/300x300")
        etag = f'"{sha256(answer.body).hexdigest()}"'
        for key, value in (
            ("Content-Type", "image/jpeg"),
            ("Cache-Control", "public, max-age=1000"),
            ("ETag", etag),
            ("Content-Digest", f"sha-256=:{digest.decode()}:"),
            ("X-Content-Type-Options", "nosniff"),
            ("Accept-Ranges", "bytes"),
            ("Vary", None),
        ):
            self.assertEqual(value, answer.fields[key])
        self.assertIn("GMT", answer.fields["Last-Modified"])
        head = self.get(f"/{name}/300x300", method="HEAD")
        self.assertEqual(
            (200, str(len(answer.body)), b""),
            (head.status, head.fields["Content-Length"], head.body),
        )
        same = self.get(f"/{name}/300x300", f"If-None-Match: {etag}")
        self.assertEqual((304, b""), (same.status, same.body))
        self.assertEqual("public, max-age=1000", same.fields["Cache-Control"])
        part = self.get(f"/{name}/300x300", "Range: bytes=10-19")
        self.assertEqual((206, answer.body[10:20]), (part.status, part.body))
        self.assertEqual(1, self.rendered)

    def test_head_first(self) -> None:
        """HEAD of what is not made yet makes it, and GET has it then."""
        name = self.put()
        head = self.get(f"/{name}/300x300", method="HEAD")
        answer = self.get(f"/{name}/300x300")
        self.assertEqual(head.fields["Content-Length"], str(len(answer.body)))
        self.assertEqual(head.fields["ETag"], answer.fields["ETag"])
        self.assertEqual(1, self.rendered)

    def test_lifetimes(self) -> None:
        """Nothing outlives its original, in the store or in caches."""
        name = self.put(SMALL, "?ttl=100000000&sizes=")
        self.get(f"/{name}/300x300")
        self.assertEqual(30 * 86400, self.blobs.kept[f"{name}_300x300.jpg"][2])
        answer = self.get(f"/{name}/300x300")
        self.assertEqual("public, max-age=604800", answer.fields["Cache-Control"])
        path = f"/{name}/77x77_q-50"
        answer = self.get(self.signed(path, NOW + 50))
        self.assertEqual(
            "public, max-age=50, immutable", answer.fields["Cache-Control"]
        )
        answer = self.get(self.signed(path))
        self.assertIn("=604800, immutable", answer.fields["Cache-Control"])
        self.start()
        name = self.put(SMALL, "?ttl=100&sizes=")
        self.clock.advance(40)
        answer = self.get(f"/{name}/300x300")
        self.assertEqual("public, max-age=60", answer.fields["Cache-Control"])
        self.assertEqual(60, self.blobs.kept[f"{name}_300x300.jpg"][2])
        self.clock.advance(60)
        self.assertEqual(404, self.get(f"/{name}/300x300").status)

    def test_uploaded_sizes(self) -> None:
        """What an upload had made need not be made again."""
        name = self.put(SMALL, "?keep=false")
        self.assertEqual((225, 300), self.size(self.get(f"/{name}/300x300")))
        self.assertEqual((50, 50), self.size(self.get(f"/{name}/50x50c.jpg")))
        self.assertEqual(0, self.rendered)

    def test_info(self) -> None:
        """The info is there for everybody."""
        name = self.put()
        answer = self.get(f"/{name}/info")
        self.assertEqual("application/json", answer.fields["Content-Type"])
        self.assertEqual(self.blobs.kept[f"{name}.json"][0], answer.body)
        self.assertEqual(660, json.loads(answer.body)["oriented_width"])
        etag = answer.fields["ETag"]
        again = self.get(f"/{name}/info", f"If-None-Match: {etag}")
        self.assertEqual(304, again.status)
        self.assertEqual(404, self.get("/000_zzz/info").status)

    def test_unknown(self) -> None:
        """What is not there is 404, with a sentence, and not to be cached."""
        for path in ("/000_zzz/300x300", "/zzz/300x300", f"/{'ab' * 32}/300x300"):
            answer = self.get(path)
            self.assertEqual(404, answer.status)
            self.assertEqual(b"There is no picture of this name.\n", answer.body)
            self.assertEqual("no-store", answer.fields["Cache-Control"])
        name = self.put(SMALL, "?keep=false")
        answer = self.get(f"/{name}/600x450.webp")
        self.assertEqual(404, answer.status)
        self.assertIn(b"original of this picture was not kept", answer.body)
        self.start()
        name = self.put()
        del self.blobs.kept[f"{name}.original"]
        self.assertIn(b"not there any more", self.get(f"/{name}/300x300").body)

    def test_others_blobs(self) -> None:
        """What others keep under such names is not served as a picture."""
        self.blobs.kept["000_x_300x300.jpg"] = (b"<script>", "text/html", None)
        self.blobs.kept["000_x.json"] = (b"{}", "text/html", None)
        self.assertEqual(404, self.get("/000_x/300x300").status)
        self.assertEqual(404, self.get("/000_x/info").status)
        for text in (b"[]", b"nonsense", b'{"kept": true, "oriented_width": "x"}'):
            self.blobs.kept["000_x.json"] = (text, "application/json", None)
            self.assertEqual(404, self.get("/000_x/300x300").status)

    def test_other_paths(self) -> None:
        """Other paths and methods are told what there is."""
        for path in ("/", "/x", "/a/b/c", "/_x/300x300", "/000_x/", "/a.b/300x300"):
            answer = self.get(path)
            self.assertEqual(
                (405, "PUT, POST"), (answer.status, answer.fields["Allow"])
            )
        answer = self.get("/000_x/300x300", method="DELETE")
        self.assertEqual(405, answer.status)
        self.assertEqual("GET, HEAD, PUT, POST", answer.fields["Allow"])

    # Who may ask.

    def test_permission(self) -> None:
        """Strangers choose from a list; the refusal says what is on it."""
        self.start(sizes=("300x300", "40x40crop"), presets={"card": "64x48c_webp_q-50"})
        name = self.put(SMALL)
        for path, size in (
            ("300x300", (225, 300)),
            ("300x300.webp", (225, 300)),
            ("300x300_png", (225, 300)),
            ("40x40crop", (40, 40)),
            ("card", (64, 48)),
            ("card.png", (64, 48)),
        ):
            self.assertEqual(size, self.size(self.get(f"/{name}/{path}")))
        answer = self.get(f"/{name}/301x300")
        self.assertEqual(403, answer.status)
        for word in (b"301x300", b"card", b"300x300", b"40x40crop", b"signed"):
            self.assertIn(word, answer.body)
        self.assertEqual(400, self.get(f"/{name}/nonsense").status)
        self.assertEqual(400, self.get(f"/{name}/9000x9000c").status)

    def test_signed(self) -> None:
        """Whoever has a signed address gets what it names, until it expires."""
        name = self.put()
        path = self.signed(f"/{name}/64x_webp", NOW + 100)
        self.assertEqual("image/webp", self.get(path).fields["Content-Type"])
        self.assertEqual((64, 85), self.size(self.get(path)))
        self.assertEqual(403, self.get(path.replace("64x", "65x")).status)
        self.assertEqual(403, self.get(path.partition("?")[0]).status)
        self.clock.advance(101)
        answer = self.get(path)
        self.assertEqual((403, True), (answer.status, b"expired" in answer.body))
        # A wrong signature is told even where none is needed.
        self.assertEqual(403, self.get(f"/{name}/300x300?s=x").status)
        self.assertEqual(200, self.get(f"/{name}/300x300?v=2").status)

    def test_negotiated(self) -> None:
        """ "auto" is what the client accepts, and every answer says that it varies."""
        self.start(presets={"card": "64x48_auto"}, sizes=())
        name = self.put(SMALL)
        for accept, content_type in (
            ("image/avif,image/webp,*/*", "image/avif"),
            ("image/webp,*/*", "image/webp"),
            ("*/*", "image/jpeg"),
        ):
            field = f"Accept: {accept}"
            answer = self.get(f"/{name}/card", field)
            self.assertEqual(content_type, answer.fields["Content-Type"])
            self.assertEqual("Accept", answer.fields["Vary"])
            self.assertNotIn("immutable", answer.fields["Cache-Control"])
            etag = answer.fields["ETag"]
            for extra, status in (
                (f"If-None-Match: {etag}", 304),
                ('If-Match: "x"', 412),
                ("Range: bytes=0-1", 206),
                ("Range: bytes=99999999-", 416),
            ):
                answer = self.get(f"/{name}/card", field, extra)
                self.assertEqual(status, answer.status)
                self.assertEqual("Accept", answer.fields["Vary"])
        self.assertEqual(3, self.rendered)
        answer = self.get("/000_zzz/card")
        self.assertEqual((404, "Accept"), (answer.status, answer.fields["Vary"]))

    def test_shining_through(self) -> None:
        """What shines through stays so, where the client leaves the format to us."""
        picture = photograph(2000, 1500).convert("RGBA")
        picture.putalpha(100)
        name = self.put(encode(picture, "PNG"))
        answer = self.get(f"/{name}/300x300_auto", "Accept: */*")
        self.assertEqual("image/png", answer.fields["Content-Type"])
        self.assertEqual("RGBA", Image.open(io.BytesIO(answer.body)).mode)

    def test_source(self) -> None:
        """What can is made of the mezzanine, the rest of the original."""
        name = self.put(LARGE)
        for recipe, source in (
            ("300x300", "mezzanine-2.jpg"),
            ("1200x1200_webp", "mezzanine.jpg"),
            ("1500x1500", "original"),
            ("300x300_lossless", "original"),
            ("300x300_keep", "original"),
        ):
            self.blobs.asked.clear()
            self.size(self.get(self.signed(f"/{name}/{recipe}")))
            self.assertIn(f"{name}.{source}", self.blobs.asked)
        self.assertEqual(
            (2400, 1800), self.size(self.get(self.signed(f"/{name}/full")))
        )

    # One at a time.

    def test_together(self) -> None:
        """However many ask at the same time, it is made once."""
        name = self.put()
        worker = self.agency.workers[0]
        worker.patient = True
        clients = [self.begin(f"/{name}/300x300") for _ in range(50)]
        other = self.begin(f"/{name}/600x450")
        self.assertEqual(1, len(worker.sent))
        clients[0].hang_up()
        clients[7].hang_up()
        self.clock.advance(0)
        worker.work()
        bodies = {
            client.answers("GET")[0].body
            for at, client in enumerate(clients)
            if at not in (0, 7)
        }
        self.assertEqual(1, len(bodies))
        worker.work()
        self.assertEqual([200], [each.status for each in other.answers("GET")])
        self.assertEqual(2, self.rendered)

    def test_while_storing(self) -> None:
        """What is made is answered at once, and not made again while it is stored."""
        name = self.put()
        gate = self.blobs.gate = Deferred()
        first = self.get(f"/{name}/300x300")
        self.assertEqual(first.body, self.get(f"/{name}/300x300").body)
        self.assertEqual(1, self.rendered)
        self.assertEqual(1, self.on_demand.report()["under_way"])
        gate.callback(None)
        self.assertEqual(0, self.on_demand.report()["under_way"])
        self.assertEqual(first.body, self.get(f"/{name}/300x300").body)
        self.assertEqual(1, self.rendered)

    def test_cannot_store(self) -> None:
        """That it cannot be stored is no reason not to answer."""
        name = self.put()
        self.blobs.full_after = 0
        for _ in range(2):
            self.size(self.get(f"/{name}/300x300"))
        self.assertEqual(2, self.rendered)

    def test_everybody_leaves(self) -> None:
        """What waits is not made when nobody wants it any more; what is begun is."""
        name = self.put()
        worker = self.agency.workers[0]
        worker.patient = True
        before = len(os.listdir("/proc/self/fd"))
        begun = [self.begin(f"/{name}/300x300") for _ in range(2)]
        waiting = [self.begin(f"/{name}/600x450") for _ in range(2)]
        for client in (*begun, *waiting):
            client.hang_up()
        self.clock.advance(0)
        self.assertEqual(1, self.renderer.report()["kinds"]["demand"]["cancelled"])
        worker.work()
        self.assertEqual([], worker.sent)
        self.assertIn(f"{name}_300x300.jpg", self.blobs.kept)
        self.assertNotIn(f"{name}_600x450.jpg", self.blobs.kept)
        self.assertLessEqual(len(os.listdir("/proc/self/fd")), before)
        self.assertEqual(0, self.on_demand.report()["under_way"])

    def test_worker_killed(self) -> None:
        """A worker that is killed costs nobody an answer."""
        name = self.put()
        self.agency.patient = True
        self.agency.workers[0].patient = True
        client = self.begin(f"/{name}/300x300")
        self.agency.workers[0].end(-9)
        self.clock.advance(0.1)
        self.agency.workers[1].get_ready()
        self.agency.workers[1].work()
        self.assertEqual([200], [each.status for each in client.answers("GET")])
        client = self.begin(f"/{name}/600x450")
        for number in (1, 2):
            self.agency.workers[number].end(-9)
            self.clock.advance(0.2)
            self.agency.workers[number + 1].get_ready()
        (answer,) = client.answers("GET")
        self.assertEqual((503, "1"), (answer.status, answer.fields["Retry-After"]))

    def test_overloaded(self) -> None:
        """Beyond its queue more is refused, and told when to come back."""
        self.start(queue=1)
        name = self.put(LARGE)
        self.agency.workers[0].patient = True
        self.begin(self.signed(f"/{name}/1800x_webp"))
        answer = self.get(self.signed(f"/{name}/1801x_webp"))
        self.assertEqual((503, "1"), (answer.status, answer.fields["Retry-After"]))
        self.assertEqual("no-store", answer.fields["Cache-Control"])

    def test_few_originals(self) -> None:
        """However much is asked for, few originals are in memory at a time."""
        name = self.put()
        gate = self.blobs.originals_gate = DeferredLock()
        gate.acquire()
        clients = [
            self.begin(f"/{name}/{size}.{extension}")
            for size in ("300x300", "600x450")
            for extension in ("jpg", "png", "webp", "avif")
        ]
        self.assertEqual(4, self.blobs.asked.count(f"{name}.original"))
        for client in clients[:2] + clients[-2:]:
            client.hang_up()
        self.clock.advance(0)
        self.assertEqual(6, self.blobs.asked.count(f"{name}.original"))
        gate.release()
        for client in clients[2:-2]:
            self.assertEqual([200], [each.status for each in client.answers("GET")])
        self.assertEqual(6, self.blobs.asked.count(f"{name}.original"))
        self.size(self.get(f"/{name}/50x50c.webp"))

    def test_no_room(self) -> None:
        """While the disk has no room for large originals there is a better time."""
        name = self.put(SMALL + bytes(2_000_000))
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_FSIZE, limits)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
        before = len(os.listdir("/proc/self/fd"))
        answer = self.get(f"/{name}/300x300")
        self.assertEqual((503, "5"), (answer.status, answer.fields["Retry-After"]))
        client = Client(self.site, self.clock)
        client.send(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n")
        client.send(bytes(2_000_000))
        (answer,) = client.answers("PUT")
        self.assertEqual((503, "5"), (answer.status, answer.fields["Retry-After"]))
        self.assertLessEqual(len(os.listdir("/proc/self/fd")), before)

    def test_heavy_originals(self) -> None:
        """An original of few pixels and many bytes counts by its bytes."""
        self.start(queue=1)
        name = self.put(SMALL + bytes(4_000_000))
        self.agency.workers[0].patient = True
        self.begin(f"/{name}/300x300")
        self.assertEqual(503, self.get(f"/{name}/600x450").status)

    def test_large_sizes_of_uploads(self) -> None:
        """A small upload that large results are made of counts as those."""
        self.start(queue=1)
        self.agency.workers[0].patient = True
        for sizes in ("sizes=2000x2000_enlarge_avif", "sizes=50x50"):
            client = Client(self.site, self.clock)
            head = f"PUT /?{sizes} HTTP/1.1\r\nHost: x\r\nContent-Length: "
            client.send(f"{head}{len(SMALL)}\r\n\r\n".encode() + SMALL)
        self.assertEqual([503], [each.status for each in client.answers("PUT")])

    def test_impossible(self) -> None:
        """What cannot be made is said so, and not tried again at once."""
        name = self.put()
        worker = self.agency.workers[0]
        for recipe, message, status in (
            ("64x", {"bad": "why"}, 415),
            ("64x_frame-7", {"no_frame": "x"}, 404),
            ("65x", {"too_large": "x"}, 400),
        ):
            path = self.signed(f"/{name}/{recipe}")
            worker.patient = True
            client = self.begin(path)
            worker.sent.clear()
            worker.answer(message)
            self.assertEqual([status], [each.status for each in client.answers("GET")])
            worker.patient = False
            self.assertEqual(status, self.get(path).status)
            self.clock.advance(61)
            self.assertEqual(404 if status == 404 else 200, self.get(path).status)
        path = self.signed(f"/{name}/9999999x_enlarge")
        self.assertEqual(400, self.get(path).status)

    def test_blobs_down(self) -> None:
        """Without the blob service come back later; no word of where it is."""
        name = self.put()
        self.blobs.broken = {"get"}
        for path in (f"/{name}/300x300", f"/{name}/info"):
            answer = self.get(path)
            self.assertEqual((503, "5"), (answer.status, answer.fields["Retry-After"]))
            self.assertEqual(b"The blob service is not available.\n", answer.body)
