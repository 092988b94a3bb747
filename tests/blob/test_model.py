"""The whole store against a dict: any history over HTTP, crashes included."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

from attrs import define
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from twisted.internet.task import Clock

from clinfra.config import Bytes
from tests.blob.support import NOW, Rig

NAMES = st.sampled_from(["a", "b.txt", "c/d", "ü"])
BODIES = st.one_of(
    st.binary(max_size=40),
    # In memory but not hot, and on a volume of its own.
    st.sampled_from([b"m" * 300_000, b"L" * 1_100_000]),
)
DELAY = 86400


@define
class Known:
    """What the model knows of a blob."""

    body: bytes | None
    ends: int

    def visible(self, now: float) -> bool:
        return self.body is not None and (self.ends == 0 or self.ends > now)


class BlobMachine(RuleBasedStateMachine):
    """Requests, time, crashes; after each, every name is as the model says."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="clinfra-model-"))
        self.clock = Clock()
        self.clock.advance(NOW)
        self.rig = self.open()
        self.known: dict[str, Known] = {}

    def open(self) -> Rig:
        return Rig(self.directory, clock=self.clock, volume_bytes=Bytes(600_000))

    def teardown(self) -> None:
        self.rig.close()
        shutil.rmtree(self.directory)

    def target(self, name: str) -> str:
        return "/" + name.replace("ü", "%C3%BC")

    def visible(self, name: str) -> bytes | None:
        known = self.known.get(name)
        if known is None or not known.visible(self.clock.seconds()):
            return None
        return known.body

    def etag(self, body: bytes) -> str:
        return f'"{hashlib.sha256(body).hexdigest()}"'

    # Changes

    @rule(name=NAMES, body=BODIES, ttl=st.none() | st.integers(-5, 50))
    def put(self, name: str, body: bytes, ttl: int | None) -> None:
        query = "" if ttl is None else f"?ttl={ttl}"
        told = self.rig.put(self.target(name) + query, body)
        ends = 0 if ttl is None else int(self.clock.seconds()) + ttl
        assert (told["size"], told["deleted"]) == (len(body), ends)
        self.known[name] = Known(body, ends)

    @rule(name=NAMES, body=BODIES)
    def put_if_new(self, name: str, body: bytes) -> None:
        answer = self.rig.ask("PUT", self.target(name), body, {"If-None-Match": "*"})
        if self.visible(name) is None:
            assert answer.status == 200
            self.known[name] = Known(body, 0)
        else:
            assert answer.status == 412

    @rule(name=NAMES, body=BODIES, expected=BODIES)
    def put_if_match(self, name: str, body: bytes, expected: bytes) -> None:
        fields = {"If-Match": self.etag(expected)}
        answer = self.rig.ask("PUT", self.target(name), body, fields)
        if self.visible(name) == expected:
            assert answer.status == 200
            self.known[name] = Known(body, 0)
        else:
            assert answer.status == 412

    @rule(name=NAMES, body=st.binary(min_size=2, max_size=30))
    def put_cut_short(self, name: str, body: bytes) -> None:
        self.rig.client.send(
            f"PUT {self.target(name)} HTTP/1.1\r\nHost: b\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body[:-1]
        )
        self.rig.client.hang_up()

    @rule(name=NAMES, ttl=st.integers(-5, 50))
    def delete(self, name: str, ttl: int) -> None:
        told = self.rig.delete("/000_" + self.target(name)[1:] + f"?ttl={ttl}")
        ends = int(self.clock.seconds()) + ttl
        assert told["deleted"] == ends
        body = self.known[name].body if name in self.known else None
        self.known[name] = Known(body, ends)

    @rule(name=NAMES)
    def undelete(self, name: str) -> None:
        self.rig.delete("/000_" + self.target(name)[1:] + "?deleted=0")
        body = self.known[name].body if name in self.known else None
        self.known[name] = Known(body, 0)

    # Reads

    @rule(name=NAMES, start=st.integers(0, 50), length=st.integers(1, 50))
    def get_range(self, name: str, start: int, length: int) -> None:
        target = "/000_" + self.target(name)[1:]
        fields = {"Range": f"bytes={start}-{start + length - 1}"}
        answer = self.rig.ask("GET", target, fields=fields)
        body = self.visible(name)
        if body is None:
            assert answer.status == 404
        elif start >= len(body):
            assert answer.status == 416
        else:
            assert answer.status == 206
            assert answer.body == body[start : start + length]

    @rule(name=NAMES, length=st.integers(1, 50))
    def get_two_ranges(self, name: str, length: int) -> None:
        target = "/000_" + self.target(name)[1:]
        fields = {"Range": f"bytes=0-0,-{length}"}
        answer = self.rig.ask("GET", target, fields=fields)
        body = self.visible(name)
        if body is not None and len(body) > length + 1:
            assert answer.status == 206
            _, _, boundary = answer.fields["Content-Type"].partition("boundary=")
            parts = answer.body.split(b"\r\n--" + boundary.encode())
            assert parts[0].endswith(b"\r\n\r\n" + body[:1])
            assert parts[1].endswith(b"\r\n\r\n" + body[-length:])

    @rule(name=NAMES)
    def get_not_modified(self, name: str) -> None:
        body = self.visible(name)
        tag = self.etag(body or b"")
        target = "/000_" + self.target(name)[1:]
        answer = self.rig.ask("GET", target, fields={"If-None-Match": tag})
        assert answer.status == (404 if body is None else 304)

    # Time and trouble

    @rule(seconds=st.integers(1, 40))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule()
    def wait_and_purge(self) -> None:
        for number in self.rig.service.replica.store.volumes():
            self.rig.service.replica.store.seal(number)
        self.clock.advance(DELAY + 100)
        self.rig.purge()
        now = self.clock.seconds()
        for name, known in list(self.known.items()):
            if known.ends and known.ends < now - DELAY:
                del self.known[name]

    @rule()
    def crash(self) -> None:
        self.rig.crash()
        self.rig = self.open()

    @precondition(lambda self: self.known)
    @rule()
    def lose_index(self) -> None:
        self.rig.crash()
        for path in (self.directory / "blob").glob("index.sqlite*"):
            path.unlink()
        self.rig = self.open()

    @invariant()
    def same(self) -> None:
        for name in ("a", "b.txt", "c/d", "ü"):
            target = "/000_" + self.target(name)[1:]
            assert self.rig.get(target) == self.visible(name), name
            # A second time, from memory where it is small.
            assert self.rig.get(target) == self.visible(name), name


TestModel = BlobMachine.TestCase
TestModel.settings = settings(deadline=None, max_examples=12, stateful_step_count=20)
