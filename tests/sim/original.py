"""A replica of the original's kind, written from the recordings (WIRE parts 1 and 2).

It keeps blobs in memory, answers byte for byte as the original did where that matters
to a sender, and keeps a record of every byte that it was sent.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote_to_bytes

from twisted.internet.protocol import Factory, Protocol

_JSON = "application/json"


class Original(Factory):
    """One replica that knows no more than the original.

    Args:
        buckets: the buckets of every name, as its answers tell them.
        now: returns unix seconds; without it nothing ever ends.

    Attributes:
        asked: the requests it got, whole, as they came.
        blobs: modified (None for no data), deleted, modified_deleted and body by name.
        broken: names that it answers with 500, whatever is asked.
        outdone: stamp and SHA-256 by name of all that something which came later
            replaced, although it had the same stamp: that is how it decides.
    """

    def __init__(
        self,
        buckets: dict[str, int] | None = None,
        now: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._now = now
        self.asked: list[bytes] = []
        self.blobs: dict[str, tuple[int | None, int, int, bytes]] = {}
        self.broken: set[str] = set()
        self.outdone: dict[str, list[tuple[int, bytes]]] = {}
        self.buckets = buckets or {"0": 0}

    def buildProtocol(self, addr: object) -> Protocol:
        """Answer on one more connection."""
        return _Connection(self)

    def changes(self) -> list[bytes]:
        """Return the first lines of the PUTs and DELETEs that came."""
        lines = [request.partition(b"\r\n")[0] for request in self.asked]
        return [line for line in lines if line.startswith((b"PUT", b"DELETE"))]

    def answer(self, method: str, target: bytes, body: bytes) -> tuple[int, str, bytes]:
        """Return the status, type and body of an answer."""
        path, _, query = target.partition(b"?")
        given = dict(
            (pair.partition("=")[0], pair.partition("=")[2])
            for pair in query.decode("latin-1").split("&")
        )
        try:
            name = unquote_to_bytes(path).strip(b"/").decode("utf-8")
        except UnicodeDecodeError:
            return 500, "text/plain", b"500 Internal Server Error"
        if name.startswith("_"):
            return self._admin(name, given)
        if name in self.broken:
            return 500, "text/plain", b"500 Internal Server Error"
        if method == "GET":
            return self._get(name, given)
        if method not in ("PUT", "DELETE"):
            return 405, "text/plain", b"405 Method Not Allowed"
        # A file name: neither of these fits into a directory.
        if not name or "/" in name or len(name.encode()) > 255:
            return 500, "text/plain", b"500 Internal Server Error"
        modified = int(given["modified"]) if method == "PUT" else None
        deleted, marked = int(given["deleted"]), int(given["modified_deleted"])
        known = self.blobs.get(name)
        if known is not None:
            if modified is None or (known[0] is not None and modified < known[0]):
                modified, body = known[0], known[3]
            elif modified == known[0] and body != known[3]:
                outdone = modified, hashlib.sha256(known[3]).digest()
                self.outdone.setdefault(name, []).append(outdone)
            if marked < known[2]:
                deleted, marked = known[1], known[2]
        self.blobs[name] = modified, deleted, marked, body
        return 200, _JSON, self._info(name)

    def _get(self, name: str, given: dict[str, str]) -> tuple[int, str, bytes]:
        known = self.blobs.get(name)
        if known is None or known[0] is None:
            return 404, "text/plain", b"404 Not Found"
        if given.get("response") == "info":
            return 200, _JSON, self._info(name)
        if 0 != known[1] <= self._now():
            return 404, "text/plain", b"404 Not Found"
        return 200, "application/octet-stream", known[3]

    def _info(self, name: str) -> bytes:
        modified, deleted, marked, _ = self.blobs[name]
        told = {
            "deleted": deleted,
            "buckets": self.buckets,
            "modified": modified,
            "name": name,
            "modified_deleted": marked,
        }
        return json.dumps(told, separators=(",", ":")).encode()

    def _admin(self, name: str, given: dict[str, str]) -> tuple[int, str, bytes]:
        command = name.partition("/")[0]
        told: Any = {"replica": name, "events": {}, "buffer_status": "start delay"}
        if command == "_list":
            told = self._list(given)
        elif command != "_status":
            return 404, "text/plain", b"404 Not Found"
        return 200, _JSON, json.dumps(told).encode()

    def _list(self, given: dict[str, str]) -> list[Any]:
        start = int(given.get("modified_start", 0))
        stop = int(given.get("modified_stop", 1 << 63))
        rows = sorted(
            (modified, deleted, marked, name)
            for name, (modified, deleted, marked, _) in self.blobs.items()
            if modified is not None and start <= modified < stop
        )
        if given.get("checksum") == "False":
            return [[name, at, deleted, marked] for at, deleted, marked, name in rows]
        size = int(given["checksum_modulo"]) << 32
        windows: dict[int, list[Any]] = {}
        for row in rows:
            windows.setdefault(row[0] // size * size, []).append(row)
        return [
            [
                begin,
                begin + size,
                len(found),
                int(
                    float(sum(row[0] for row in found)) / len(found)
                    + float(sum(row[2] for row in found)) / len(found)
                )
                // 2,
            ]
            for begin, found in sorted(windows.items())
        ]


class _Connection(Protocol):
    """Splits what comes into requests, and answers them in order."""

    def __init__(self, original: Original) -> None:
        self._original = original
        self._buffer = b""

    def dataReceived(self, data: bytes) -> None:
        """Answer every request that is there whole."""
        self._buffer += data
        while b"\r\n\r\n" in self._buffer:
            head, _, rest = self._buffer.partition(b"\r\n\r\n")
            size = 0
            for line in head.split(b"\r\n")[1:]:
                key, _, value = line.partition(b":")
                if key.lower() == b"content-length":
                    size = int(value)
            if len(rest) < size:
                return
            self._buffer = rest[size:]
            self._answer(head + b"\r\n\r\n" + rest[:size], rest[:size])

    def _answer(self, request: bytes, body: bytes) -> None:
        self._original.asked.append(request)
        method, target, _ = request.partition(b"\r\n")[0].split(b" ", 2)
        status, kind, said = self._original.answer(method.decode(), target, body)
        reason = {200: "Ok", 404: "Not Found", 405: "Method Not Allowed"}.get(
            status, "Internal Server Error"
        )
        head = (
            f"HTTP/1.1 {status} {reason}\r\nServer: craigslist/0\r\n"
            f"Content-type: {kind}\r\nContent-Length: {len(said)}\r\n\r\n"
        )
        assert self.transport is not None
        self.transport.write(head.encode() + said)
