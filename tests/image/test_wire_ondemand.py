"""Renditions on demand over real processes: blob store, image service, proxy."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPMessage
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen
from PIL import Image

from clinfra.cli import main
from tests.image.live import alive
from tests.image.pictures import jpeg
from tests.support import ClinfraProcess, wait_until

OLD, NEW = "the old key of all pictures", "the new key of all pictures"


@frozen
class Got:
    """An answer."""

    status: int
    fields: HTTPMessage
    body: bytes

    @property
    def size(self) -> tuple[int, int]:
        return Image.open(io.BytesIO(self.body)).size


def ask(
    port: int,
    path: str,
    method: str = "GET",
    body: bytes | None = None,
    fields: Mapping[str, str] | None = None,
) -> Got:
    """Send a request on a connection of its own."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, dict(fields or {}))
        response = connection.getresponse()
        return Got(response.status, response.headers, response.read())
    finally:
        connection.close()


@frozen
class Running:
    """The processes."""

    clinfra: ClinfraProcess

    def get(self, path: str, method: str = "GET", **fields: str) -> Got:
        names = {key.replace("_", "-"): value for key, value in fields.items()}
        return ask(self.clinfra.ports["image"], path, method, None, names)

    def put(self, body: bytes, query: str = "sizes=") -> str:
        """Upload a picture; return its name."""
        path = f"/?{query}&response=info"
        answer = ask(self.clinfra.ports["image"], path, "PUT", body)
        assert answer.status == 200, answer.body
        name: str = json.loads(answer.body)["blob_info_name"]
        return name.removesuffix(".json")

    def report(self) -> Any:
        status = ask(self.clinfra.ports["admin"], "/status")
        return json.loads(status.body)["products"]["image"]

    def rendered(self) -> int:
        return int(self.report()["kinds"]["demand"]["rendered"])

    def workers(self) -> list[int]:
        path = f"/proc/{self.clinfra.pid}/task/{self.clinfra.pid}/children"
        return [pid for pid in map(int, Path(path).read_text().split()) if alive(pid)]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Run everything once for all tests here."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"{NEW}\n")
    image = {
        "signing_keys_file": str(keys),
        "signing_keys": [OLD],
        "presets": {"card": "64x48c_auto"},
        "workers": 2,
    }
    config: dict[str, Any] = {"blob": {}, "image": image, "proxy": {}, "admin": {}}
    with ClinfraProcess(config) as clinfra:
        yield Running(clinfra)


def sign(
    capsys: pytest.CaptureFixture[str], path: str, *options: str, key: str = NEW
) -> str:
    """Sign an address by the command."""
    keys = ("--set", f'image.signing_keys=["{key}"]')
    assert main(["image", "sign", path, *options, *keys]) == 0
    return capsys.readouterr().out.strip()


def test_fifty_at_once(running: Running) -> None:
    """Fifty clients at once have one rendition made, and all get the same."""
    name = running.put(jpeg(2400, 1800))
    before = running.rendered()
    with ThreadPoolExecutor(50) as pool:
        path = f"/{name}/600x450.webp"
        answers = list(pool.map(lambda _: running.get(path), range(50)))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
    assert answers[0].size == (600, 450)
    assert running.rendered() == before + 1
    blobs, stored = running.clinfra.ports["blob"], f"/{name}_600x450.webp"
    # It is answered first and stored then.
    wait_until(lambda: ask(blobs, stored).status == 200, "the rendition is stored")
    assert ask(blobs, stored).body == answers[0].body


def test_served_from_the_store(running: Running) -> None:
    """What was made has validators, ranges and lifetimes, and stays what it was."""
    name = running.put(jpeg(1000, 750), "sizes=&ttl=5000")
    path = f"/{name}/300x300"
    head = running.get(path, "HEAD")
    first = running.get(path)
    assert (head.status, head.body) == (200, b"")
    assert head.fields["Content-Length"] == str(len(first.body))
    assert first.size == (300, 225)
    before = running.rendered()
    etag = first.fields["ETag"]
    assert running.get(path, If_None_Match=etag).status == 304
    modified = running.get(path).fields["Last-Modified"]
    assert running.get(path, If_Modified_Since=modified).status == 304
    part = running.get(path, Range="bytes=100-199", If_Range=etag)
    assert (part.status, part.body) == (206, first.body[100:200])
    assert running.get(path, Range="bytes=-10").body == first.body[-10:]
    age = int(first.fields["Cache-Control"].partition("max-age=")[2])
    assert 4990 <= age <= 5000
    assert running.rendered() == before


def test_expired(running: Running) -> None:
    """When the original has expired, so has all that was made of it."""
    name = running.put(jpeg(640, 480), "sizes=&ttl=2")
    assert running.get(f"/{name}/300x300").status == 200
    wait_until(lambda: running.get(f"/{name}/300x300").status == 404, "it expires")
    assert running.get(f"/{name}/info").status == 404


def test_not_kept(running: Running) -> None:
    """Without its original nothing more is made of a picture, and the reason told."""
    name = running.put(jpeg(641, 480), "sizes=50x50c&keep=false")
    assert running.get(f"/{name}/50x50c").size == (50, 50)
    answer = running.get(f"/{name}/300x300")
    assert answer.status == 404
    assert b"original of this picture was not kept" in answer.body


def test_signatures(running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    """Old and new keys both open what strangers cannot have, until it expires."""
    name = running.put(jpeg(642, 480))
    path = f"/{name}/123x_png"
    assert running.get(path).status == 403
    for key in (NEW, OLD):
        assert running.get(sign(capsys, path, key=key)).size == (123, 91)
    other = sign(capsys, path, key="a key of somebody else")
    assert running.get(other).status == 403
    soon = sign(capsys, path, "--expires", "2s")
    answer = running.get(soon)
    assert answer.status == 200
    assert int(answer.fields["Cache-Control"].partition("max-age=")[2]) <= 2
    wait_until(lambda: running.get(soon).status == 403, "it expires")
    assert b"expired" in running.get(soon).body


def is_busy(pid: int) -> bool:
    """Tell whether a process is running at this moment, not waiting."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "R"


def test_worker_killed(running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    """A worker killed in the middle costs nobody an answer, and is replaced."""
    name = running.put(jpeg(4000, 3000))
    path = sign(capsys, f"/{name}/full_webp")
    killed = running.report()["died"]
    with ThreadPoolExecutor(10) as pool:
        waiting = [pool.submit(running.get, path) for _ in range(10)]
        busy: list[int] = []

        def look() -> bool:
            busy.extend(filter(is_busy, running.workers()))
            return bool(busy)

        wait_until(look, "a worker is busy")
        # Only that one: the next is given the same work again, and once is enough.
        os.kill(busy[0], signal.SIGKILL)
        answers = [each.result() for each in waiting]
    assert {answer.status for answer in answers} == {200}
    assert answers[0].size == (4000, 3000)
    assert running.report()["died"] == killed + 1
    wait_until(lambda: running.report()["workers"] == 2, "there are two again")


def test_client_gone(running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    """What nobody waits for any more is not made."""
    name = running.put(jpeg(3999, 3000))
    cancelled = running.report()["kinds"]["demand"]["cancelled"]
    connections = []
    for width in range(3000, 3012):
        connection = HTTPConnection("127.0.0.1", running.clinfra.ports["image"])
        connection.request("GET", sign(capsys, f"/{name}/{width}x_webp"))
        connections.append(connection)
    wait_until(lambda: running.report()["waiting"] > 3, "some wait")
    for connection in connections:
        # A client that only ends its sending side is given a few seconds: reset.
        gone = struct.pack("ii", 1, 0)
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, gone)
        connection.close()
    wait_until(lambda: running.report()["waiting"] == 0, "nothing waits")
    wait_until(lambda: running.report()["busy"] == 0, "what was begun is done")
    assert running.report()["kinds"]["demand"]["cancelled"] > cancelled + 3


def test_through_the_proxy(running: Running) -> None:
    """The proxy keeps what was negotiated apart, and asks once for each."""
    name = running.put(jpeg(643, 480))
    port = running.clinfra.ports["proxy"]
    before = running.rendered()
    for _ in range(3):
        for accept, kind in (
            ("image/avif,*/*", "image/avif"),
            ("image/webp,*/*", "image/webp"),
            ("*/*", "image/jpeg"),
        ):
            answer = ask(port, f"/image/{name}/card", fields={"Accept": accept})
            assert (answer.status, answer.fields["Content-Type"]) == (200, kind)
            assert answer.fields["Vary"] == "Accept"
            assert answer.size == (64, 48)
    assert running.rendered() == before + 3
    assert "hit" in answer.fields["Cache-Status"]


def test_no_secrets(running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    """Keys are in no log and on no page."""
    name = running.put(jpeg(644, 480))
    running.get(sign(capsys, f"/{name}/64x"))
    running.get(f"/{name}/64x?s={'A' * 43}")
    status = ask(running.clinfra.ports["admin"], "/status").body.decode()
    time.sleep(0.1)
    for text in (running.clinfra.running.output, status):
        assert OLD not in text and NEW not in text
