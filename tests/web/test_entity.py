"""Entities: preconditions, ranges and the whole, as every product serves them."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

from twisted.trial.unittest import SynchronousTestCase

from clinfra.web.entity import Entity, entity_response
from clinfra.web.exchange import FileBody, IExchange, Response
from clinfra.web.headers import ETag
from clinfra.web.ranges import Range
from tests.web.clients import Answer, Client, get, make_site

DATA = bytes(range(256)) * 4
WHEN = 1_700_000_000


class EntityTests(SynchronousTestCase):
    """What a client gets of an entity."""

    def ask(
        self, *fields: bytes, method: bytes = b"GET", in_file: bool = False
    ) -> Answer:
        """Ask for DATA."""
        self.opened: list[Range] = []
        self.closed = 0

        async def respond(exchange: IExchange) -> Response:
            return await entity_response(
                exchange.head,
                Entity(
                    length=len(DATA),
                    content_type=b"image/x-data",
                    open=self.open_file() if in_file else self.open_bytes,
                    etag=ETag(b"tag"),
                    last_modified=WHEN,
                    fields=(
                        (b"Cache-Control", b"max-age=9"),
                        (b"Content-Language", b"en"),
                    ),
                ),
            )

        site, clock = make_site(respond)
        client = Client(site, clock)
        client.send(get(b"/", *fields).replace(b"GET", method, 1))
        (answer,) = client.answers(method.decode())
        return answer

    async def open_bytes(self, part: Range) -> bytes:
        self.opened.append(part)
        return DATA[part.start : part.stop]

    def open_file(self) -> Callable[[Range], Awaitable[FileBody]]:
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(b"before" + DATA)

        async def open_part(part: Range) -> FileBody:
            self.opened.append(part)
            fd = os.open(path, os.O_RDONLY)

            def close() -> None:
                os.close(fd)
                self.closed += 1

            return FileBody(fd, 6 + part.start, part.length, close)

        return open_part

    def test_whole(self) -> None:
        """Without conditions the whole comes with its validators."""
        answer = self.ask()

        self.assertEqual((200, DATA), (answer.status, answer.body))
        self.assertEqual('"tag"', answer.fields["ETag"])
        self.assertEqual(
            "Tue, 14 Nov 2023 22:13:20 GMT", answer.fields["Last-Modified"]
        )
        self.assertEqual("bytes", answer.fields["Accept-Ranges"])
        self.assertEqual("image/x-data", answer.fields["Content-Type"])

    def test_head(self) -> None:
        """HEAD says what GET would say, and opens nothing."""
        answer = self.ask(method=b"HEAD")

        self.assertEqual((200, b"", []), (answer.status, answer.body, self.opened))
        self.assertEqual("1024", answer.fields["Content-Length"])

    def test_not_modified(self) -> None:
        """304 has the validators, and no field that describes a body."""
        answer = self.ask(b'If-None-Match: "other", W/"tag"')

        self.assertEqual((304, b"", []), (answer.status, answer.body, self.opened))
        self.assertEqual('"tag"', answer.fields["ETag"])
        self.assertEqual("max-age=9", answer.fields["Cache-Control"])
        self.assertNotIn("Content-Language", answer.fields)
        self.assertNotIn("Content-Length", answer.fields)

    def test_precondition_failed(self) -> None:
        """412 when the entity is another than the client thinks."""
        answer = self.ask(b'If-Match: "other"')

        self.assertEqual((412, []), (answer.status, self.opened))

    def test_range(self) -> None:
        """206 with the bytes asked for."""
        answer = self.ask(b"Range: bytes=10-19")

        self.assertEqual((206, DATA[10:20]), (answer.status, answer.body))
        self.assertEqual("bytes 10-19/1024", answer.fields["Content-Range"])

    def test_range_of_a_file(self) -> None:
        """The same from a file, which is closed."""
        answer = self.ask(b"Range: bytes=-20", in_file=True)

        self.assertEqual(
            (206, DATA[-20:], 1), (answer.status, answer.body, self.closed)
        )

    def test_unsatisfiable(self) -> None:
        """416 says how long the entity is."""
        answer = self.ask(b"Range: bytes=5000-")

        self.assertEqual((416, []), (answer.status, self.opened))
        self.assertEqual("bytes */1024", answer.fields["Content-Range"])

    def test_several_ranges(self) -> None:
        """Several come as multipart/byteranges of the length announced."""
        for in_file in (False, True):
            answer = self.ask(b"Range: bytes=0-3,100-103,-1", in_file=in_file)
            self.assertEqual(206, answer.status)
            kind = answer.fields["Content-Type"]
            boundary = kind.partition("boundary=")[2].encode()
            self.assertTrue(kind.startswith("multipart/byteranges; "))
            self.assertEqual(str(len(answer.body)), answer.fields["Content-Length"])
            parts = answer.body.split(b"--" + boundary)
            self.assertEqual(5, len(parts))
            self.assertEqual(DATA[:4], parts[1].partition(b"\r\n\r\n")[2][:-2])
            self.assertEqual(DATA[100:104], parts[2].partition(b"\r\n\r\n")[2][:-2])
            self.assertIn(b"Content-Range: bytes 1023-1023/1024", parts[3])
            self.assertEqual(3 if in_file else 0, self.closed)

    def test_if_range(self) -> None:
        """A range of something that has changed is the whole."""
        answer = self.ask(b"Range: bytes=0-3", b'If-Range: "old"')

        self.assertEqual((200, DATA), (answer.status, answer.body))
