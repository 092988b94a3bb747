"""`clinfra blob cluster --kill`: kill a replica under load, and count what is lost.

Clients put blobs through every server.  In the middle of it one server is killed, as
`kill -9` does.  Then every blob that was acknowledged to have two copies is read back
through every server that is left, and compared with what was put.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import threading
import time
from collections.abc import Callable, Mapping
from itertools import count

from attrs import define, field

CLIENTS = 6
SECONDS = 4.0
KILL_AFTER_SECONDS = 1.5
TIMEOUT_SECONDS = 20.0


def body_of(name: str) -> bytes:
    """Return what is put under a name: up to 32 KB, no two alike."""
    digest = hashlib.sha256(name.encode()).digest()
    return digest * (int.from_bytes(digest[:2]) % 1024 + 1)


def ask(
    port: int, method: str, target: str, body: bytes | None = None
) -> tuple[int, bytes, int]:
    """Return an answer's status, body and number of copies told.

    Raises:
        OSError, http.client.HTTPException: when there is no answer.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request(method, target, body)
        answer = connection.getresponse()
        copies = answer.getheader("X-Clblob-Copies", "0").partition("/")[0]
        return answer.status, answer.read(), int(copies)
    finally:
        connection.close()


@define(eq=False)
class Load:
    """Clients that put blobs, each through one server after another.

    Attributes:
        kept: stored name → plain name, of those acknowledged with two copies.
        fewer: how many were acknowledged with fewer.
        unanswered: how many puts had no answer, or were refused.
    """

    ports: Mapping[str, int]
    kept: dict[str, str] = field(factory=dict, init=False)
    fewer: int = field(default=0, init=False)
    unanswered: int = field(default=0, init=False)
    _lock: threading.Lock = field(factory=threading.Lock, init=False)

    def run(self, client: int, until: float) -> None:
        """Put blobs until a time of `time.monotonic`."""
        ports = list(self.ports.values())
        for number in count(client):
            if time.monotonic() > until:
                return
            name = f"kill-{time.time_ns()}-{client}"
            try:
                status, told, copies = ask(
                    ports[number % len(ports)], "PUT", f"/{name}", body_of(name)
                )
            except (OSError, http.client.HTTPException):
                status, told, copies = 0, b"", 0  # Not acknowledged: not promised.
            with self._lock:
                if status != 200:
                    self.unanswered += 1
                elif copies < 2:
                    self.fewer += 1
                else:
                    self.kept[json.loads(told)["name"]] = name


def show(ports: Mapping[str, int], victim: str, kill: Callable[[], object]) -> int:
    """Do it and tell what came of it; return the exit status, 1 if a blob is lost.

    Args:
        ports: of all servers, by name, on 127.0.0.1.
        victim: the one to be killed.
        kill: kills it.
    """
    load = Load(ports)
    until = time.monotonic() + SECONDS
    clients = [
        threading.Thread(target=load.run, args=(number, until), daemon=True)
        for number in range(CLIENTS)
    ]
    print(f"{CLIENTS} clients put blobs through {len(ports)} servers", flush=True)
    for client in clients:
        client.start()
    time.sleep(KILL_AFTER_SECONDS)
    before = len(load.kept)
    kill()
    print(f"kill -9 {victim} after {before} blobs with two copies", flush=True)
    for client in clients:
        client.join()
    left = {name: port for name, port in ports.items() if name != victim}
    print(
        f"{len(load.kept)} blobs acknowledged with two copies, {load.fewer} with fewer;"
        f" {load.unanswered} puts met the dead server"
    )
    lost = 0
    for name, port in left.items():
        for stored, plain in load.kept.items():
            try:
                whole = ask(port, "GET", f"/{stored}")[:2] == (200, body_of(plain))
            except (OSError, http.client.HTTPException):
                whole = False
            lost += not whole
        print(f"read all of them through {name}")
    print(f"lost: {lost}", flush=True)
    return 1 if lost else 0
