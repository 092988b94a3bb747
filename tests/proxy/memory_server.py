"""A memcached in memory: the commands that the proxy sends, time by hand."""

from __future__ import annotations

import re

from twisted.internet.task import Clock

from tests.web.origins import Line

_STORE = re.compile(rb"(set|add|append) (\S+) \d+ (\d+) (\d+)\r\n")
_LINE = re.compile(rb"(get|delete) ([^\r]+)\r\n")


class MemoryServer:
    """One server; any number of connections.

    Attributes:
        items: key → value and when it lapses.
        commands: what was asked, in order: b"get KEY", b"set KEY", ....
        frozen: it answers nothing.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.items: dict[bytes, tuple[bytes, float]] = {}
        self.commands: list[bytes] = []
        self.lines: list[Line] = []
        self.frozen = False

    def serve(self, line: Line) -> None:
        """Answer on a connection."""
        self.lines.append(line)
        _Session(self, line)

    def value(self, key: bytes) -> bytes | None:
        """Return what is kept."""
        found = self.items.get(key)
        if found is None or found[1] <= self.clock.seconds():
            return None
        return found[0]

    def store(self, command: bytes, key: bytes, ttl: int, value: bytes) -> bytes:
        """Carry out a command that stores; return the answer."""
        known = self.value(key)
        if command == b"append":
            if known is None:
                return b"NOT_STORED\r\n"
            self.items[key] = (known + value, self.items[key][1])
            return b"STORED\r\n"
        if command == b"add" and known is not None:
            return b"NOT_STORED\r\n"
        lapses = self.clock.seconds() + ttl if ttl else float("inf")
        self.items[key] = (value, lapses)
        return b"STORED\r\n"


class _Session:
    def __init__(self, server: MemoryServer, line: Line) -> None:
        self._server = server
        self._line = line
        self._received = line.take()
        line.write = self._written  # type: ignore[method-assign] # its server listens
        self._look()

    def _written(self, data: bytes) -> None:
        self._received += data
        self._look()

    def _look(self) -> None:
        answers = b""
        while not self._server.frozen:
            answer = self._next()
            if answer is None:
                break
            answers += answer
        if answers:
            self._server.clock.callLater(0, self._line.send, answers)

    def _next(self) -> bytes | None:
        server = self._server
        store = _STORE.match(self._received)
        if store is not None:
            end = store.end() + int(store[4])
            if len(self._received) < end + 2:
                return None
            value = self._received[store.end() : end]
            self._received = self._received[end + 2 :]
            server.commands.append(store[1] + b" " + store[2])
            return server.store(store[1], store[2], int(store[3]), value)
        line = _LINE.match(self._received)
        if line is None:
            return None
        self._received = self._received[line.end() :]
        if line[1] == b"delete":
            server.commands.append(line[0].strip())
            known = server.value(line[2]) is not None
            server.items.pop(line[2], None)
            return b"DELETED\r\n" if known else b"NOT_FOUND\r\n"
        answer = b""
        for key in line[2].split(b" "):
            server.commands.append(b"get " + key)
            found = server.value(key)
            if found is not None:
                answer += b"VALUE %b 0 %d\r\n%b\r\n" % (key, len(found), found)
        return answer + b"END\r\n"
