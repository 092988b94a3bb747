"""Both ends of the proxy as plain sockets: whatever bytes, at whatever time.

What an origin here makes of the bytes it gets is its own reading of RFC 9112; nothing
of clinfra is used.  It is stricter than any: it takes one way to say a thing, which is
all that a proxy should say.  Told so, it also takes what a client may say.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterable

from attrs import evolve, frozen

_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~\w]+) ([\x21-\x7e]+) HTTP/1\.1")
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~\w]+): ?([\t\x20-\x7e\x80-\xff]*)")
_SIZE = re.compile(rb"[0-9a-fA-F]+")
_CLIENTS_LINE = re.compile(
    rb"([!#$%&'*+\-.^_`|~\w]+) ([\x21-\x7e\x80-\xff]+) HTTP/1\.([01])"
)
_CLIENTS_SIZE = re.compile(rb"([0-9a-fA-F]{1,16})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")
_CLIENTS_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~\w]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)")
_HOST = re.compile(r"(?:[\w\-.~!$&'()*+,;=]+(?::[0-9]{0,5})?)?", re.ASCII)
_ABSOLUTE = re.compile(r"https?://([^/?#]+)([/?][^#]*)?", re.IGNORECASE)


class NotHTTP(Exception):
    """An origin was sent something that it cannot read in exactly one way."""


@frozen
class Received:
    """One request as an origin read it.

    Attributes:
        connection: number of the connection it came on.
        chunked: its body came in chunks.
    """

    connection: int
    method: str
    target: str
    fields: list[tuple[str, str]]
    body: bytes
    chunked: bool

    def all(self, name: str) -> list[str]:
        """Return the values of a field."""
        return [value for known, value in self.fields if known.lower() == name]


@frozen
class Say:
    """What an origin does after a request.

    Attributes:
        pieces: what it sends, with `pause` seconds between them.
        end: "keep" the connection, "close" it, or "reset" it; or be "silent".
    """

    pieces: tuple[bytes, ...] = ()
    end: str = "keep"
    pause: float = 0.05


def ok(body: bytes = b"ok", *fields: str) -> Say:
    """Return a proper answer."""
    head = "".join(f"{line}\r\n" for line in fields)
    return Say(
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%b\r\n%b"
            % (len(body), head.encode("latin-1"), body),
        )
    )


class RawOrigin:
    """An origin that notes down what it is sent, and says what it is told to.

    Attributes:
        answer: what to say to a request.
        received: the requests, as their last byte came.
        faults: what it could not read; to be empty after every test.
        unfinished: requests that were cut before their end.
        connections: how many there have been.

    Args:
        answer: see there.
        of_clients: it takes whatever a client may send to a server.
    """

    def __init__(
        self,
        answer: Callable[[Received], Say] | None = None,
        *,
        of_clients: bool = False,
    ) -> None:
        self._reader = ClientsReader if of_clients else Reader
        self.answer = answer or (lambda received: ok())
        self.received: list[Received] = []
        self.faults: list[str] = []
        self.unfinished = 0
        self.connections = 0
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._ending = False
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=200)
        self.port: int = self._listening.getsockname()[1]
        self._start(self._accept)

    def __enter__(self) -> RawOrigin:
        return self

    def __exit__(self, *_: object) -> None:
        self._ending = True
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)

    @property
    def open(self) -> int:
        """How many connections are open now."""
        return len(self._open)

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads = [each for each in self._threads if each.is_alive()]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._ending:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            self._open.add(connection)
            self._start(self._serve, connection, self.connections)

    def _serve(self, connection: socket.socket, number: int) -> None:
        reader = self._reader(connection)
        try:
            while True:
                received = reader.request(number)
                if received is None:
                    return
                self.received.append(received)
                if not self._say(connection, self.answer(received)):
                    return
        except NotHTTP as fault:
            self.faults.append(f"{fault}: {reader.seen!r}")
        except EOFError:
            self.unfinished += 1
        except OSError:
            pass
        finally:
            self._open.discard(connection)
            connection.close()

    def _say(self, connection: socket.socket, say: Say) -> bool:
        """Do what is to be done; tell whether to go on reading."""
        for number, piece in enumerate(say.pieces):
            if number:
                threading.Event().wait(say.pause)
            connection.sendall(piece)
        if say.end == "reset":
            linger = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        elif say.end == "silent":
            with contextlib.suppress(OSError):
                while connection.recv(65536):
                    pass
        return say.end == "keep"


class Reader:
    """Reads requests from a socket, by the letter."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.seen = b""

    def _more(self) -> None:
        data = self._connection.recv(65536)
        if not data:
            raise EOFError
        self.seen += data

    def _line(self) -> bytes:
        while b"\n" not in self.seen:
            self._more()
        line, _, rest = self.seen.partition(b"\n")
        if not line.endswith(b"\r") or b"\r" in line[:-1]:
            raise NotHTTP("a bare CR or LF")
        self.seen = rest
        return line[:-1]

    def _exactly(self, count: int) -> bytes:
        while len(self.seen) < count:
            self._more()
        data, self.seen = self.seen[:count], self.seen[count:]
        return data

    def request(self, number: int) -> Received | None:
        """Return the next request; None when the connection ended before it."""
        while not self.seen:
            try:
                self._more()
            except EOFError:
                return None
        method, target, http11 = self._request_line()
        fields = list(self._fields())
        names = [name.lower() for name, _ in fields]
        for name in ("host", "content-length", "transfer-encoding"):
            if names.count(name) > 1:
                raise NotHTTP(f"{name} twice")
        values = {name.lower(): value for name, value in fields}
        if http11 and not values.get("host"):
            raise NotHTTP("no Host")
        coding, length = values.get("transfer-encoding"), values.get("content-length")
        if coding is not None:
            if coding.lower() != "chunked" or length is not None or not http11:
                raise NotHTTP("framing in two ways")
            body = b"".join(self._chunks())
        else:
            if length is not None and not re.fullmatch(r"[0-9]{1,19}", length):
                raise NotHTTP("no length")
            body = self._exactly(int(length or 0))
        return Received(number, method, target, fields, body, coding is not None)

    def _request_line(self) -> tuple[str, str, bool]:
        """Return method, target, and whether it is HTTP/1.1."""
        line = _LINE.fullmatch(self._line())
        if line is None:
            raise NotHTTP("no request line")
        return line[1].decode("ascii"), line[2].decode("ascii"), True

    def _fields(self) -> Iterable[tuple[str, str]]:
        while line := self._line():
            yield self._field(line)

    def _field(self, line: bytes) -> tuple[str, str]:
        match = _FIELD.fullmatch(line)
        if match is None:
            raise NotHTTP("no field")
        return match[1].decode("ascii"), match[2].decode("latin-1").strip(" \t")

    def _size(self, line: bytes) -> int:
        if not _SIZE.fullmatch(line):
            raise NotHTTP("no chunk size")
        return int(line, 16)

    def _trailer(self) -> None:
        if self._line():
            raise NotHTTP("a trailer field")

    def _chunks(self) -> Iterable[bytes]:
        while size := self._size(self._line()):
            yield self._exactly(size)
            if self._exactly(2) != b"\r\n":
                raise NotHTTP("a chunk of another size")
        self._trailer()


class ClientsReader(Reader):
    """Reads what clients may send, and notes it down as the same in plain words."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection)
        self._last = False

    def request(self, number: int) -> Received | None:
        """Return the next request; None when there can be none."""
        if self._last:
            return None
        received = super().request(number)
        if received is None:
            return None
        options = ",".join(received.all("connection")).lower().split(",")
        options = [option.strip() for option in options]
        self._last = "close" in options or not (self._http11 or "keep-alive" in options)
        target, host = received.target, "".join(received.all("host"))
        if not target.startswith("/") and target != "*":
            absolute = _ABSOLUTE.fullmatch(target)
            if absolute is None:
                raise NotHTTP("no target")
            host, target = absolute[1], absolute[2] or ""
            if not target.startswith("/"):
                target = (
                    "*" if received.method == "OPTIONS" and not target else "/" + target
                )
        if target == "*" and received.method != "OPTIONS":
            raise NotHTTP("no target")
        if "#" in target:
            raise NotHTTP("a fragment")
        if not _HOST.fullmatch(host):
            raise NotHTTP("no host")
        others = [pair for pair in received.fields if pair[0].lower() != "host"]
        fields = [("Host", host or "localhost"), *others]
        return evolve(received, target=target, fields=fields)

    def _request_line(self) -> tuple[str, str, bool]:
        while not (text := self._line()):
            while not self.seen:
                self._more()
        line = _CLIENTS_LINE.fullmatch(text)
        if line is None:
            raise NotHTTP("no request line")
        self._http11 = line[3] == b"1"
        target = "".join(
            chr(byte) if byte < 128 else f"%{byte:02X}" for byte in line[2]
        )
        return line[1].decode("ascii"), target, self._http11

    def _field(self, line: bytes) -> tuple[str, str]:
        match = _CLIENTS_FIELD.fullmatch(line)
        if match is None:
            raise NotHTTP("no field")
        return match[1].decode("ascii"), match[2].decode("latin-1").strip(" \t")

    def _size(self, line: bytes) -> int:
        match = _CLIENTS_SIZE.fullmatch(line)
        if match is None:
            raise NotHTTP("no chunk size")
        return int(match[1], 16)

    def _trailer(self) -> None:
        list(self._fields())


def talk(
    port: int,
    *pieces: bytes,
    pause: float = 0.0,
    shut: bool = False,
    timeout: float = 10.0,
) -> bytes:
    """Send bytes on a new connection; return all that comes until it is closed.

    Args:
        pause: seconds between the pieces.
        shut: close our side after the last one.

    Raises:
        TimeoutError: it was not closed in time.
    """
    with socket.create_connection(("127.0.0.1", port), timeout) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        received = b""
        try:
            for number, piece in enumerate(pieces):
                if number and pause:
                    threading.Event().wait(pause)
                connection.sendall(piece)
            if shut:
                connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # It was closed already: what was said before is still to be read.
        while True:
            try:
                data = connection.recv(65536)
            except TimeoutError as late:
                raise TimeoutError(f"not closed; so far {received!r}") from late
            except ConnectionError:
                return received
            if not data:
                return received
            received += data
