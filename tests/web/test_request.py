"""Ordinary twisted.web resources under our Site."""

from __future__ import annotations

import os
import warnings
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web import server, util
from twisted.web.resource import Resource

from tests.web.clients import Answer, Client, get, make_site

with warnings.catch_warnings():
    # Importing it makes a deprecated error page of its own.
    warnings.simplefilter("ignore", DeprecationWarning)
    from twisted.web import static


class Leaf(Resource):
    """Renders with a function."""

    isLeaf = True

    def __init__(self, render: Any) -> None:
        super().__init__()
        self._render = render

    def render(self, request: Any) -> Any:
        return self._render(request)


class OrdinaryTests(SynchronousTestCase):
    """They see what they would see under a stock Site."""

    def open(self, resource: Any) -> Client:
        if callable(resource):
            resource = Leaf(resource)
        site, self.clock = make_site(resource=resource)
        return Client(site, self.clock)

    def open_file(self, data: bytes) -> Client:
        """Open a site whose `/file` is a static file."""
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(data)
        root = Resource()
        root.putChild(b"file", static.File(path))
        return self.open(root)

    def ask(self, resource: Any, request: bytes = get()) -> Answer:
        self.client = self.open(resource)
        self.client.send(request)
        self.clock.pump([0] * 50)
        (answer,) = self.client.answers(request.split()[0].decode())
        return answer

    def test_what_it_sees(self) -> None:
        """Method, path, arguments, fields, cookies, peer and host."""
        seen: list[Any] = []

        def render(request: Any) -> bytes:
            seen.extend((request.method, request.uri, request.path, request.args))
            seen.extend((request.prepath, request.postpath, request.clientproto))
            seen.extend((request.getHeader(b"x"), request.getHeader("X")))
            seen.append(request.getCookie(b"c"))
            seen.append(request.getClientAddress().host)
            seen.append(request.getRequestHostname())
            seen.append((request.isSecure(), request.getHost().port))
            return b""

        self.ask(render, get(b"/a/b%20c?d=e&d=f&g=", b"X: y", b"Cookie: c=v"))
        target = b"/a/b%20c?d=e&d=f&g="
        self.assertEqual([b"GET", target, b"/a/b%20c"], seen[:3])
        self.assertEqual({b"d": [b"e", b"f"], b"g": [b""]}, seen[3])
        self.assertEqual([[], [b"a", b"b c"], b"HTTP/1.1"], seen[4:7])
        self.assertEqual([b"y", "y", b"v", "192.0.2.7", b"example.com"], seen[7:12])
        self.assertEqual((False, 8080), seen[12])

    def test_bytes(self) -> None:
        """Bytes returned are the body, of type text/html as ever."""
        answer = self.ask(lambda request: b"hello")

        self.assertEqual((200, b"hello"), (answer.status, answer.body))
        self.assertEqual("5", answer.fields["Content-Length"])
        self.assertEqual("text/html", answer.fields["Content-Type"])
        self.assertEqual("clinfra", answer.fields["Server"])
        self.assertEqual(1, len(answer.fields.get_all("Date") or []))

    def test_fake_head(self) -> None:
        """HEAD is faked from render_GET."""

        class Page(Resource):
            isLeaf = True

            def render_GET(self, request: Any) -> bytes:
                return b"hello"

        answer = self.ask(Page(), get().replace(b"GET", b"HEAD"))
        self.assertEqual((200, b""), (answer.status, answer.body))
        self.assertEqual("5", answer.fields["Content-Length"])
        answer = self.ask(Page(), get().replace(b"GET", b"POST"))
        self.flushWarnings()  # twisted.web's own page is deprecated
        self.assertEqual(405, answer.status)

    def test_later(self) -> None:
        """NOT_DONE_YET, then writes of unknown length, then finish."""
        requests: list[Any] = []
        finished: list[Any] = []

        def render(request: Any) -> int:
            requests.append(request)
            request.notifyFinish().addBoth(finished.append)
            request.write(b"abc")
            return server.NOT_DONE_YET

        client = self.open(render)
        client.send(get() + get())
        requests[0].write(b"def")
        requests[0].finish()
        requests[1].finish()

        first, second = client.answers()
        self.assertEqual((b"abcdef", b"abc"), (first.body, second.body))
        self.assertEqual("chunked", first.fields["Transfer-Encoding"])
        self.assertEqual([None, None], finished)

    def test_gone(self) -> None:
        """notifyFinish fails when the client goes away."""
        finished: list[Any] = []

        def render(request: Any) -> int:
            request.notifyFinish().addBoth(finished.append)
            return server.NOT_DONE_YET

        client = self.open(render)
        client.send(get())
        client.hang_up()

        self.assertIsInstance(finished[0], Failure)

    def test_form(self) -> None:
        """Forms are read, small or large, in either encoding."""

        def render(request: Any) -> bytes:
            return b"|".join(request.args[b"name"] + request.args[b"q"])

        for value in (b"anna", b"a" * 200_000):
            body = b"name=" + value
            head = (
                b"POST /?q=1 HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n"
                b"Content-Type: application/x-www-form-urlencoded\r\n\r\n" % len(body)
            )
            self.assertEqual(value + b"|1", self.ask(render, head + body).body)
        body = (
            b'--xx\r\nContent-Disposition: form-data; name="name"\r\n\r\nanna\r\n--xx--'
        )
        head = (
            b"POST /?q=1 HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n"
            b"Content-Type: multipart/form-data; boundary=xx\r\n\r\n" % len(body)
        )
        self.assertEqual(b"anna|1", self.ask(render, head + body).body)

    def test_bad_form(self) -> None:
        """A form that cannot be read is the client's fault."""
        request = (
            b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n"
            b"Content-Type: multipart/form-data\r\n\r\nabc"
        )

        self.assertEqual(400, self.ask(lambda request: b"", request).status)

    def test_content(self) -> None:
        """A body is there as a file, chunked or not; too long a one is refused."""

        def render(request: Any) -> bytes:
            content: bytes = request.content.read()
            return content

        chunked = (
            b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3\r\nabc\r\n0\r\n\r\n"
        )
        self.assertEqual(b"abc", self.ask(render, chunked).body)
        large = os.urandom(500_000)
        head = b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(large)
        self.assertEqual(large, self.ask(render, head + large).body)
        head = b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % (1 << 21)
        self.assertEqual(413, self.ask(render, head).status)

    def test_broken_body(self) -> None:
        """A bad chunk is a 400 and never rendered."""
        rendered: list[Any] = []
        request = (
            b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nxx\r\n"
        )

        self.assertEqual(400, self.ask(rendered.append, request).status)
        self.assertEqual([], rendered)

    def test_session(self) -> None:
        """Sessions work by their cookie, on the site's own clock."""
        sessions: list[Any] = []

        def render(request: Any) -> bytes:
            sessions.append(request.getSession())
            return b""

        client = self.open(render)
        client.send(get())
        cookie = client.answers()[0].fields["Set-Cookie"].partition(";")[0]
        client.send(get(b"/", b"Cookie: " + cookie.encode()))
        self.assertIs(sessions[0], sessions[1])
        sessions[0].expire()

    def test_redirect(self) -> None:
        """redirectTo works."""
        answer = self.ask(lambda request: util.redirectTo(b"/there", request))

        self.assertEqual((302, "/there"), (answer.status, answer.fields["Location"]))

    def test_bug(self) -> None:
        """An exception is logged and answered 500, and the connection goes on."""

        def render(request: Any) -> bytes:
            raise LookupError("secret")

        answer = self.ask(render)
        self.assertEqual(500, answer.status)
        self.assertNotIn(b"secret", answer.body)
        self.assertEqual(1, len(self.flushLoggedErrors(LookupError)))
        self.client.send(get())
        self.assertEqual(2, len(self.client.answers()))
        self.flushLoggedErrors(LookupError)

    def test_pull_producer(self) -> None:
        """static.File serves large files with a pull producer, to slow clients too."""
        data = os.urandom(1_000_000)
        client = self.open_file(data)
        client.send(get(b"/file"))
        self.clock.pump([0] * 50)
        self.assertEqual(data, client.answers()[0].body)
        client = self.open_file(data)
        client.reading = False
        client.send(get(b"/file"))
        self.clock.pump([0] * 50)
        self.assertLess(client.transport.most_waiting, 300_000)
        client.take()
        self.clock.pump([0] * 50)

        self.assertEqual(data, client.answers()[0].body)

    def test_static_ranges(self) -> None:
        """static.File serves ranges and conditional requests."""
        client = self.open_file(b"0123456789")
        client.send(get(b"/file", b"Range: bytes=2-4"))
        client.send(get(b"/file", b"Range: bytes=0-1,8-9"))
        one, two = client.answers()
        self.assertEqual((206, b"234"), (one.status, one.body))
        self.assertIn(b"89", two.body)
        when = one.fields["Last-Modified"].encode()
        client.send(get(b"/file", b"If-Modified-Since: " + when))
        self.assertEqual(304, client.answers()[2].status)

    def test_coroutine(self) -> None:
        """A Deferred-based resource that finishes late does so in its turn."""
        go: Deferred[bytes] = Deferred()

        def render(request: Any) -> int:
            def finish(body: bytes) -> None:
                request.setHeader(b"Content-Length", b"%d" % len(body))
                request.write(body)
                request.finish()

            go.addCallback(finish)
            return server.NOT_DONE_YET

        client = self.open(render)
        client.send(get())
        go.callback(b"late")

        self.assertEqual(b"late", client.answers()[0].body)

    def test_star(self) -> None:
        """OPTIONS * is answered by twisted.web itself."""
        answer = self.ask(lambda request: b"", b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n")

        self.assertIn(answer.status, (200, 405))

    def test_lose_connection(self) -> None:
        """A resource may cut its connection."""

        def render(request: Any) -> int:
            request.loseConnection()
            return server.NOT_DONE_YET

        client = self.open(render)
        client.send(get())

        self.assertTrue(client.closed)
        self.assertIsInstance(self.clock, Clock)
