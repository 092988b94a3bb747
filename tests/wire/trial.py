"""Blobs changed and read by many at once, while it is watched who reads what."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse

from attrs import define, field

_SIZES = (0, 1000, 20_000, 300_000, 1_100_000)
"""Such as are kept in memory, such as are not, and such as are sent from the file."""
_HOW_OFTEN = (20, 20, 10, 3, 1)


class Client:
    """One connection; what it was cut off from is asked again on a new one.

    Attributes:
        cut: how often that was so.
    """

    def __init__(self, port: int) -> None:
        self._connection = HTTPConnection("127.0.0.1", port, timeout=60)
        self.cut = 0

    def ask(
        self, method: str, path: str, body: bytes | None = None, **fields: str
    ) -> tuple[HTTPResponse, bytes]:
        """Return an answer and its body."""
        for _ in range(3):
            try:
                self._connection.request(method, path, body, fields)
                answer = self._connection.getresponse()
                return answer, answer.read()
            except (ConnectionError, HTTPException):
                self._connection.close()
                self.cut += 1
        raise AssertionError("cut off three times")

    def close(self) -> None:
        self._connection.close()


@define(eq=False)
class Name:
    """What is known of one blob by who changes it.

    Attributes:
        path: where it is put; it is read by the name it is stored under.
        begun, done: number of the last change that was sent, acknowledged.
        deletes: how many of those sent were deletes.
        there: after the last one acknowledged.
    """

    path: str
    begun: int = 0
    done: int = 0
    deletes: int = 0
    there: bool = False

    @property
    def stored(self) -> str:
        return self.path.replace("/", "/000_")


@define(eq=False)
class Trial:
    """Writers, each with names of its own, and readers of all names.

    Attributes:
        wrong: what should not have been.
        changes, reads: how many were answered.
        cut: how many were cut off, and asked again.
    """

    port: int
    names: Sequence[Name]
    writers: int = 4
    wrong: list[str] = field(factory=list)
    changes: int = 0
    reads: int = 0
    cut: int = 0
    _over: threading.Event = field(factory=threading.Event)

    @contextmanager
    def running(self, readers: int = 4) -> Iterator[None]:
        """Have it going on meanwhile."""
        works: list[tuple[Callable[[int], None], int]] = [
            *((self._write, number) for number in range(self.writers)),
            *((self._read, number) for number in range(readers)),
        ]
        threads = [
            threading.Thread(target=self._do, args=each, daemon=True) for each in works
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join()

    def _do(self, work: Callable[[int], None], number: int) -> None:
        try:
            work(number)
        except Exception as error:
            self.wrong.append(repr(error))

    def _going_on(self) -> bool:
        return not self._over.is_set() and not self.wrong

    @contextmanager
    def _clients(self, count: int) -> Iterator[list[Client]]:
        with ExitStack() as stack:
            clients = [
                stack.enter_context(closing(Client(self.port))) for _ in range(count)
            ]
            yield clients
            self.cut += sum(client.cut for client in clients)

    def _write(self, number: int) -> None:
        """Change blobs; read each change back, on the same connection and on others."""
        rng = random.Random(number)
        mine = self.names[number :: self.writers]
        with self._clients(5) as clients:
            while self._going_on():
                name = rng.choice(mine)
                self._change(rng, clients[0], name)
                for client in (clients[0], *rng.sample(clients[1:], 2)):
                    self._look(client, name)

    def _change(self, rng: random.Random, client: Client, name: Name) -> None:
        name.begun += 1
        there = not name.there or rng.random() < 0.7
        if there:
            size = rng.choices(_SIZES, _HOW_OFTEN)[0] + rng.randrange(1000)
            answer, said = client.ask("PUT", name.path, body_of(name.begun, size))
        else:
            name.deletes += 1
            answer, said = client.ask("DELETE", name.stored)
        if answer.status != 200:
            self.wrong.append(f"a change of {name}: {answer.status} {said[:99]!r}")
        name.there, name.done = there, name.begun
        self.changes += 1

    def _read(self, number: int) -> None:
        """Read all names, over and over."""
        rng = random.Random(-number)
        with self._clients(1) as (client,):
            while self._going_on():
                self._look(client, rng.choice(self.names))

    def _look(self, client: Client, name: Name) -> None:
        """Read a blob; it is not older than what was acknowledged before."""
        done, there, deletes = name.done, name.there, name.deletes
        quiet = name.begun == done
        answer, body = client.ask("GET", name.stored)
        self.reads += 1
        if answer.status == 200:
            version = int(body[:8])
            if body != body_of(version, len(body) - 8):
                self.wrong.append(f"{name}: broken bytes of {version}")
            elif version < done:
                self.wrong.append(f"{name}: {version} after {done}")
        elif answer.status != 404:
            self.wrong.append(f"{name}: {answer.status} {body[:99]!r}")
        elif there and quiet and name.deletes == deletes:
            self.wrong.append(f"{name}: not there after {done}")


def body_of(version: int, size: int) -> bytes:
    """Return bytes that tell their version, and are those of no other one."""
    piece = b"%08d" % version
    return piece + (piece * (size // 8 + 1))[:size]
