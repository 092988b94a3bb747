"""The image service over HTTP, as the original's clients know it."""

from __future__ import annotations

import io
import json
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

from PIL import Image
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from clinfra.config import ImageConfig, Limits
from clinfra.image.badfiles import BadFiles
from clinfra.image.render import Renderer
from clinfra.image.resource import ImageResource
from clinfra.image.storing import Storing
from clinfra.image.uploads import Uploads
from clinfra.web.site import Site
from tests.image.pictures import encode, jpeg, oriented, photograph, scan_bomb
from tests.image.support import Agency, MemoryBlobs, new_directory
from tests.web.clients import Answer, Client

PICTURE = oriented(jpeg(1000, 750), 6)
CHECKSUM = sha256(PICTURE).hexdigest()


def request(method: str, query: str, body: bytes, *fields: str) -> bytes:
    lines = (
        f"{method} /any/path{query} HTTP/1.1",
        "Host: example.com",
        f"Content-Length: {len(body)}",
        *fields,
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class ResourceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.start()

    def start(self, *, patient: bool = False, **changes: Any) -> None:
        """Start a service in memory, with one worker."""
        self.clock = Clock()
        self.blobs = MemoryBlobs()
        self.agency = Agency(patient=patient)
        config = ImageConfig(**{"keep": False, **changes})
        renderer = Renderer(
            self.clock,
            self.agency.hire,
            places=1,
            timeout_seconds=10,
            jobs_per_worker=1000,
            queue=config.queue,
        )
        renderer.start()
        self.agency.workers[0].get_ready()
        self.directory = new_directory(self)
        bad_files = None
        if config.save_bad_path:
            bad_files = BadFiles(Path(config.save_bad_path), 10000, None)
            bad_files.open()
        uploads = Uploads(
            config,
            renderer=renderer,
            storing=Storing(self.blobs),
            spool_directory=self.directory,
            bad_files=bad_files,
            threads=None,
            now=lambda: 1795321273.5,
        )
        resource = ImageResource(uploads)
        self.site = Site(resource, reactor=self.clock, limits=Limits())

    def client(self) -> Client:
        return Client(self.site, self.clock)

    def ask(
        self, query: str = "", body: bytes = PICTURE, *fields: str, method: str = "PUT"
    ) -> Answer:
        client = self.client()
        client.send(request(method, query, body, *fields))
        (answer,) = client.answers(method)
        return answer

    def test_checksum(self) -> None:
        """By default the answer is the checksum, to PUT, POST and even put."""
        for method in ("PUT", "POST", "put"):
            for query in ("", "?response=checksum", "?response=CHECKSUM&unknown=1"):
                answer = self.ask(query, method=method)
                self.assertEqual(200, answer.status)
                self.assertEqual(CHECKSUM.encode(), answer.body)
                self.assertEqual("text/plain", answer.fields["Content-Type"])

    def test_stored(self) -> None:
        """Every size and the info are blobs, with the time to live."""
        self.ask("?ttl=100")
        sizes = {}
        for name, (body, content_type, ttl_seconds) in self.blobs.kept.items():
            self.assertEqual(100, ttl_seconds)
            if name.endswith(".jpg"):
                self.assertEqual("image/jpeg", content_type)
                sizes[name.split("_")[2]] = Image.open(io.BytesIO(body)).size
        self.assertEqual(
            {
                "50x50c.jpg": (50, 50),
                "300x300.jpg": (225, 300),
                "600x450.jpg": (337, 450),
            },
            sizes,
        )
        self.assertTrue(self.blobs.order[-1].endswith(".json"))

    def test_info(self) -> None:
        """The info names the blobs in the answer, and only there."""
        answer = self.ask("?response=info&filename=x.jpg&sizes=20x20,50x50c")
        self.assertEqual("application/json", answer.fields["Content-Type"])
        info = json.loads(answer.body)
        names = info.pop("blob_names")
        stored = self.blobs.kept[info.pop("blob_info_name")][0]
        self.assertEqual(info, json.loads(stored))
        self.assertEqual(["20x20", "50x50c"], list(names))
        self.assertTrue(all(name in self.blobs.kept for name in names.values()))
        self.assertEqual(
            ("x.jpg", 1000, 750, "JPEG", "RGB", CHECKSUM, "6"),
            tuple(
                info[key]
                for key in (
                    "filename",
                    "width",
                    "height",
                    "format",
                    "mode",
                    "checksum",
                    "exif_orientation",
                )
            ),
        )

    def test_none(self) -> None:
        """The answer can be nothing."""
        answer = self.ask("?response=none")
        self.assertEqual((200, b""), (answer.status, answer.body))
        self.assertIsNone(answer.fields["Content-Type"])

    def test_rendition(self) -> None:
        """The answer can be one of the sizes, the same as is stored."""
        answer = self.ask("?response=600x450")
        self.assertEqual("image/jpeg", answer.fields["Content-Type"])
        self.assertEqual((337, 450), Image.open(io.BytesIO(answer.body)).size)
        stored = [body for name, (body, *_) in self.blobs.kept.items() if "600" in name]
        self.assertEqual([answer.body], stored)

    def test_unsaved(self) -> None:
        """Switched off, nothing is stored and no names are told."""
        for query in ("save=false", "save_blob=0"):
            info = json.loads(self.ask(f"?response=info&{query}").body)
            self.assertNotIn("blob_names", info)
            self.assertNotIn("blob_info_name", info)
        self.assertEqual({}, self.blobs.kept)

    def test_no_sizes(self) -> None:
        """Without sizes only the info is stored."""
        self.assertEqual(200, self.ask("?sizes=").status)
        self.assertEqual(1, len(self.blobs.kept))

    def test_same_names(self) -> None:
        """The same bytes have the same names."""
        first = json.loads(self.ask("?response=info").body)
        self.assertEqual(first, json.loads(self.ask("?response=info").body))

    def test_methods(self) -> None:
        """Other methods are told which there are."""
        for method in ("GET", "DELETE", "OPTIONS", "PATCH"):
            answer = self.ask("", b"", method=method)
            self.assertEqual(405, answer.status)
            self.assertEqual("PUT, POST", answer.fields["Allow"])
            self.assertEqual(b"405 Method Not Allowed", answer.body)
        self.assertEqual(405, self.ask("", b"", method="HEAD").status)

    def test_bad_parameters(self) -> None:
        """Parameters are refused with exactly the original's sentence."""
        for query, sentence in (
            ("?sizes=bad", b"Invalid size parameter: bad"),
            ("?quality=abc", b"Invalid int value for quality: abc"),
            ("?save=maybe", b"Invalid boolean value for save: maybe"),
            ("?response=x", b"Invalid response parameter: x"),
            ("?sizes", b"Missing value for sizes"),
        ):
            answer = self.ask(query)
            self.assertEqual((400, sentence), (answer.status, answer.body))
        self.assertEqual([], self.agency.workers[0].sent)

    def test_bad_images(self) -> None:
        """What is no picture is 415 with exactly the original's sentence."""
        picture = photograph(64, 48)
        for body in (
            b"",
            b"bad data",
            PICTURE[:200],
            encode(picture, "PPM"),
            encode(picture, "PNG")[:50],
            scan_bomb(300),
            encode(Image.new("1", (7001, 10)), "PNG"),
            b"GIF89a" + jpeg(8, 8),
        ):
            answer = self.ask("", body)
            self.assertEqual((415, b"Bad image file"), (answer.status, answer.body))
            self.assertIn("image/jpeg", answer.fields["Accept"])
        self.assertEqual(415, self.ask("?sizes=0x0").status)
        self.assertEqual({}, self.blobs.kept)

    def test_form(self) -> None:
        """A form is not a picture; the log says so."""
        notes: list[dict[str, Any]] = []
        self.site.access_log = lambda exchange, seconds: notes.append(exchange.notes)
        form = b"--x\r\nContent-Disposition: form-data\r\n\r\n" + PICTURE + b"\r\n--x--"
        answer = self.ask("", form, "Content-Type: multipart/form-data; boundary=x")
        self.assertEqual((415, b"Bad image file"), (answer.status, answer.body))
        self.assertIn("form", notes[0]["bad"])

    def test_too_large(self) -> None:
        """An upload over the limit is refused, before its body when it says so."""
        self.start(max_bytes=1000)
        client = self.client()
        client.send(
            b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        self.assertEqual([413], [answer.status for answer in client.answers("PUT")])
        client = self.client()
        client.send(
            b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            + b"3e9\r\n"
            + bytes(1001)
            + b"\r\n0\r\n\r\n"
        )
        self.assertEqual([413], [answer.status for answer in client.answers("PUT")])

    def test_chunked(self) -> None:
        """An upload need not say how long it is."""
        client = self.client()
        client.send(
            b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            + b"%x\r\n%b\r\n0\r\n\r\n" % (len(PICTURE), PICTURE)
        )
        (answer,) = client.answers("PUT")
        self.assertEqual(CHECKSUM.encode(), answer.body)

    def test_no_such_frame(self) -> None:
        """A frame that this picture does not have is a bad parameter."""
        self.start()
        answer = self.ask("?sizes=20x20_frame-3")
        self.assertEqual(
            (400, b"No such frame: 20x20_frame-3"), (answer.status, answer.body)
        )

    def test_result_too_large(self) -> None:
        """A size that would be too large for this picture is a bad parameter."""
        self.start(max_size_pixels=10000)
        answer = self.ask("?sizes=2000x2000")
        self.assertEqual(
            (400, b"Size too large: 2000x2000"), (answer.status, answer.body)
        )

    def test_results_too_large_together(self) -> None:
        """So are sizes that would be too much together, whatever they are."""
        self.start(max_size_pixels=10000)
        sizes = [f"{width}x100c" for width in range(100, 94, -1)]
        self.assertEqual(200, self.ask(f"?sizes={','.join(sizes[:4])}").status)
        answer = self.ask(f"?sizes={','.join(sizes)}")
        self.assertEqual(
            (400, b"Size too large: 96x100c"), (answer.status, answer.body)
        )

    def test_overloaded(self) -> None:
        """Beyond the queue uploads are refused before their body is read."""
        self.start(patient=True, queue=1)
        patient = self.client()
        patient.send(request("PUT", "", PICTURE))
        worker = self.agency.workers[0]
        self.assertEqual(1, len(worker.sent))
        client = self.client()
        client.send(
            b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 3500000\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        (answer,) = client.answers("PUT")
        self.assertEqual(503, answer.status)
        self.assertEqual("1", answer.fields["Retry-After"])
        self.assertNotIn(b"100 Continue", client.received)
        worker.work()
        self.assertEqual([200], [each.status for each in patient.answers("PUT")])

    def test_client_gone(self) -> None:
        """A client that goes away is not worked for, and nothing of it stays."""
        self.start(patient=True)
        first, second = self.client(), self.client()
        before = len(os.listdir("/proc/self/fd"))
        first.send(request("PUT", "", PICTURE))
        second.send(request("PUT", "", PICTURE))
        for client in (second, first):
            client.hang_up()
            self.clock.advance(0)
        worker = self.agency.workers[0]
        # What is in work is finished; its file is the worker's own copy by then.
        worker.sent.clear()
        worker.answer({"bad": "whatever"})
        self.assertEqual([], worker.sent)
        self.assertEqual({}, self.blobs.kept)
        self.assertEqual(before, len(os.listdir("/proc/self/fd")))

    def test_cut_short(self) -> None:
        """An upload that ends too early leaves nothing behind."""
        client = self.client()
        before = len(os.listdir("/proc/self/fd"))
        client.send(request("PUT", "", PICTURE)[:-1000])
        client.hang_up()
        self.clock.advance(0)
        self.assertEqual({}, self.blobs.kept)
        self.assertEqual(before, len(os.listdir("/proc/self/fd")))
        self.assertEqual([], os.listdir(self.directory))

    def test_worker_dies(self) -> None:
        """A worker that is killed costs its upload a 503, and others nothing."""
        self.start(patient=True)
        first, second = self.client(), self.client()
        first.send(request("PUT", "", PICTURE))
        second.send(request("PUT", "", PICTURE))
        self.agency.workers[0].end(-9)
        self.assertEqual([503], [each.status for each in first.answers("PUT")])
        self.clock.advance(0.1)
        self.agency.workers[1].get_ready()
        self.agency.workers[1].work()
        self.assertEqual([200], [each.status for each in second.answers("PUT")])

    def test_blobs_down(self) -> None:
        """Without the blob service an upload fails with 503, and says what failed."""
        self.blobs.full_after = 2
        answer = self.ask()
        self.assertEqual(503, answer.status)
        self.assertIn(b"blob service", answer.body)
        self.assertIn("Retry-After", answer.fields)
        self.assertEqual({}, self.blobs.kept)
        for query in ("?save=false", "?save_blob=false"):
            self.assertEqual(200, self.ask(query).status)

    def test_gone_while_storing(self) -> None:
        """A client that goes away while results are stored leaves them whole."""
        gate = self.blobs.gate = Deferred()
        client = self.client()
        client.send(request("PUT", "", PICTURE))
        client.hang_up()
        self.clock.advance(0)
        gate.callback(None)
        self.assertEqual(4, len(self.blobs.kept))

    def test_bad_files(self) -> None:
        """Bad uploads are kept when that is configured."""
        directory = str(new_directory(self))
        self.start(save_bad_path=directory)
        self.ask("?filename=te%20st", b"bad data")
        self.ask("?filename=good", PICTURE)
        self.assertEqual(["1795321273.500000.te%20st"], os.listdir(directory))

    def test_keep_alive(self) -> None:
        """One connection takes several uploads, good and bad."""
        client = self.client()
        for body in (PICTURE, b"bad", PICTURE):
            client.send(request("PUT", "", body))
        self.assertEqual(
            [200, 415, 200], [each.status for each in client.answers(*["PUT"] * 3)]
        )
