"""Damage that nobody has read yet is found, kept, and put right."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from twisted.internet.defer import Deferred

from clinfra.blob import layout, quarantine
from clinfra.blob.index import Batch
from clinfra.blob.records import BYTES
from clinfra.blob.replica import Write
from clinfra.blob.scrub import FIRST_AFTER_SECONDS, RETRY_SECONDS, SOON_SECONDS
from clinfra.blob.store_files import FilesStore
from clinfra.blob.sweep import STRAYS, Sweeper
from clinfra.blob.versions import GRACE_SECONDS, VERSIONS
from clinfra.config import Bytes, Seconds
from clinfra.errors import NotFound
from tests.blob import test_recovery

MONTH = 30 * 86400


class ScrubCase(test_recovery.DiskCase):
    """A test case that scrubs."""

    def scrub(self) -> None:
        """Make one whole pass, however long it takes."""
        done = Deferred.fromCoroutine(self.rig.service.scrubber.scrub())
        for _ in range(10_000):
            if done.called:
                break
            self.clock.advance(0.1)
        self.successResultOf(done)

    def flip(self, name: str, at: int = 3) -> None:
        """Flip a bit of a blob on disk."""
        row = self.rig.service.replica.index.get(name)
        assert row is not None and row.at is not None
        (path,) = (
            each for each in self.volumes() if int(each.stem, 16) == row.at.volume
        )
        with path.open("r+b") as file:
            file.seek(row.at.offset + row.at.head_bytes + at)
            (byte,) = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 1]))

    def heal_from(self, bodies: dict[str, bytes]) -> list[str]:
        """Let other replicas have these blobs; return who was asked for."""
        asked: list[str] = []
        replica = self.rig.service.replica

        async def refetch(name: str) -> object:
            asked.append(name)
            if name not in bodies:
                raise NotFound("Nobody has it")
            row = replica.index.get(name)
            assert row is not None and row.data is not None
            write = Write(
                modified=row.data.modified,
                deleted=row.expiry.deleted,
                modified_deleted=row.expiry.modified_deleted,
            )
            return await replica.put(name, bodies[name], write, mend=True)

        call: Callable[[str], Awaitable[object]] = refetch
        self.rig.service.scrubber._refetch = call
        return asked

    def kept(self) -> list[dict[str, Any]]:
        """Return what quarantine tells."""
        path = self.directory / "blob" / "quarantine"
        return [json.loads(each.read_text()) for each in path.glob("*.json")]


class ScrubTests(ScrubCase):
    """The pass through all blobs."""

    def test_all_good(self) -> None:
        """Good blobs, large and small, are read and left alone."""
        self.fill()
        before = self.state()
        self.scrub()
        report = self.rig.service.report()["scrub"]

        self.assertEqual(10, report["checked"])
        self.assertEqual(0, report["damaged"])
        self.assertGreater(report["checked_bytes"], 1_500_000)
        self.assertEqual(before, self.state())
        self.assertEqual([], self.kept())

    def test_healed(self) -> None:
        """A damaged blob is found, its remains kept, and fetched from elsewhere."""
        self.rig.put("/a", b"a" * 100)
        self.rig.put("/b", b"b" * 100)
        before = self.state()
        self.flip("000_a")
        asked = self.heal_from({"000_a": b"a" * 100})
        self.scrub()

        self.assertEqual(["000_a"], asked)
        self.assertEqual(before, self.state())
        scrubber = self.rig.service.scrubber
        self.assertEqual((1, {}), (scrubber.healed, scrubber.damaged))
        (told,) = self.kept()
        self.assertEqual(("000_a", 100), (told["name"], told["size"]))
        (remains,) = (self.directory / "blob/quarantine").glob("*.bytes")
        self.assertEqual(b"aaa`" + b"a" * 96, remains.read_bytes())
        self.reopen()
        self.assertEqual(before, self.state())

    def test_large(self) -> None:
        """Damage at the end of a large blob is found, that a reader would not see."""
        self.rig.put("/big", b"big" * 1_000_000)
        self.flip("000_big", 2_999_999)
        asked = self.heal_from({"000_big": b"big" * 1_000_000})
        self.scrub()

        self.assertEqual(["000_big"], asked)
        self.assertEqual(b"big" * 1_000_000, self.rig.get("/000_big"))

    def test_nobody_has_it(self) -> None:
        """What nobody has is an error for readers, and is asked for again later."""
        self.rig.put("/a", b"a" * 100)
        self.flip("000_a")
        bodies: dict[str, bytes] = {}
        asked = self.heal_from(bodies)
        self.clock.advance(FIRST_AFTER_SECONDS)
        self.clock.pump([0.1] * 20)
        self.assertEqual(["000_a"], asked)
        self.assertEqual(500, self.rig.ask("GET", "/000_a").status)
        report = self.rig.service.report()["scrub"]
        self.assertEqual((1, ["000_a"]), (report["damaged"], report["damaged_names"]))
        bodies["000_a"] = b"a" * 100
        self.clock.advance(RETRY_SECONDS)
        self.clock.pump([0.1] * 20)

        self.assertEqual(["000_a"] * 2, asked)
        self.assertEqual(b"a" * 100, self.rig.get("/000_a"))
        self.assertEqual(1, len(self.kept()))

    def test_lost_volume(self) -> None:
        """Blobs whose volume is gone are found, too."""
        self.rig.put("/a", b"a" * 100)
        self.rig.crash()
        self.volumes()[0].unlink()
        self.rig = self.open()
        asked = self.heal_from({"000_a": b"a" * 100})
        self.scrub()

        self.assertEqual(["000_a"], asked)
        self.assertEqual(b"a" * 100, self.rig.get("/000_a"))

    def test_replaced_meanwhile(self) -> None:
        """A blob that is replaced while it is read is not called damaged."""
        self.rig.put("/a", b"a" * 100)
        self.flip("000_a")
        row = self.rig.service.replica.index.get("000_a")
        assert row is not None
        self.rig.put("/a", b"new")
        check = Deferred.fromCoroutine(self.rig.service.scrubber.check(row))
        self.clock.pump([0.1] * 5)

        self.assertTrue(self.successResultOf(check))
        self.assertEqual([], self.kept())

    def test_pace(self) -> None:
        """No more is read in a second than the configuration allows."""
        self.rig.crash()
        self.rig = self.open(scrub_rate=Bytes(100_000))
        for n in range(5):
            self.rig.put(f"/n{n}", bytes(100_000))
        scrubber = self.rig.service.scrubber
        began = self.clock.seconds()
        done = Deferred.fromCoroutine(scrubber.scrub())
        while not done.called:
            self.assertLessEqual(
                scrubber.checked_bytes,
                100_000 * (self.clock.seconds() - began + 1.1),
            )
            self.clock.advance(0.25)

        self.assertGreaterEqual(self.clock.seconds() - began, 4.5)

    def test_schedule(self) -> None:
        """A pass begins some time after the start, and a month after the last."""
        self.rig.put("/a", b"a")
        scrubber = self.rig.service.scrubber
        self.clock.advance(FIRST_AFTER_SECONDS - 60)
        self.assertEqual(0, scrubber.checked)
        self.clock.pump([60.0] * 2)
        self.assertEqual(1, scrubber.checked)
        self.clock.pump([RETRY_SECONDS] * (MONTH // 3600 - 1))
        self.assertEqual(1, scrubber.checked)
        self.clock.pump([RETRY_SECONDS] * 3)
        self.assertEqual(2, scrubber.checked)

    def test_never(self) -> None:
        """An interval of 0 is never."""
        self.rig.crash()
        self.rig = self.open(scrub_interval=Seconds(0))
        self.rig.put("/a", b"a")
        self.clock.advance(FIRST_AFTER_SECONDS * 2)

        self.assertEqual(0, self.rig.service.scrubber.checked)

    def test_restarted(self) -> None:
        """A pass goes on where it was when the process ended."""
        for n in range(250):
            self.rig.put(f"/n{n:03}", b"x")
        self.clock.advance(FIRST_AFTER_SECONDS)
        self.assertEqual(100, self.rig.service.scrubber.checked)
        self.rig.close()
        self.rig = self.open()
        self.clock.pump([0.1] * 10)

        self.assertEqual(150, self.rig.service.scrubber.checked)
        self.assertEqual("", self.rig.service.report()["scrub"]["at"])

    def test_killed(self) -> None:
        """Who was killed soon checks all; a pass that was half done comes first."""
        for n in range(250):
            self.rig.put(f"/n{n:03}", b"x")
        self.reopen()
        scrubber = self.rig.service.scrubber
        self.assertEqual(0, scrubber.checked)
        self.clock.pump([SOON_SECONDS])
        self.assertEqual(100, scrubber.checked)
        self.reopen()
        scrubber = self.rig.service.scrubber
        self.clock.pump([0.1] * 10)
        self.assertEqual(400, scrubber.checked)
        self.clock.pump([60.0] * 100)
        self.assertEqual(400, scrubber.checked)
        self.rig.close()
        self.rig = self.open()
        self.clock.pump([60.0] * 100)
        self.assertEqual(0, self.rig.service.scrubber.checked)

    def test_asked_for(self) -> None:
        """A pass that is asked for begins now, even where passes are never."""
        self.rig.crash()
        self.rig = self.open(scrub_interval=Seconds(0))
        for n in range(150):
            self.rig.put(f"/n{n}", b"x")
        self.clock.pump([3600.0] * 3)
        for _ in range(2):
            checked = self.rig.service.scrubber.checked
            answer = self.rig.ask("POST", "/_scrub")
            self.assertEqual(b'{"queued":true}', answer.body)
            answer = self.rig.ask("POST", "/_scrub")
            self.assertEqual(b'{"queued":false}', answer.body)
            self.clock.pump([0.1] * 20)
            self.assertEqual(checked + 150, self.rig.service.scrubber.checked)
        report = self.rig.service.report()["scrub"]
        self.assertEqual(False, report["running"])
        self.assertLess(report["ended_seconds"], 3)

    def test_rotten_record(self) -> None:
        """A record that would be lost with the index is written anew, body or not."""
        for name in ("a", "b"):
            self.rig.put(f"/{name}", b"body of %s" % name.encode())
        before = self.state()
        self.flip("000_a", -4)
        asked = self.heal_from({})
        self.scrub()

        self.assertEqual(([], 1), (asked, self.rig.service.scrubber.healed))
        self.lose_index()
        self.assertEqual(before, self.state())

    def test_wrong_record(self) -> None:
        """A row that points at another blob's record is found, and put right."""
        for name in ("a", "b"):
            self.rig.put(f"/{name}", b"same bytes")
        before = self.state()
        index = self.rig.service.replica.index
        a, b = index.get("000_a"), index.get("000_b")
        assert a is not None and b is not None
        index.apply(Batch([a.placed(b.at, a.volumes)]))
        asked = self.heal_from({})
        self.scrub()
        healed = index.get("000_a")

        self.assertEqual([], asked)
        assert healed is not None
        self.assertNotEqual(b.at, healed.at)
        self.assertEqual(before, self.state())
        (told,) = self.kept()
        self.assertIn("something else", told["why"])

    def test_quarantine(self) -> None:
        """What is in quarantine is listed, and cleared one by one or all at once."""
        for name in "abc":
            self.rig.put(f"/{name}", name.encode() * 100)
            self.flip(f"000_{name}")
        self.scrub()
        told = json.loads(self.rig.ask("GET", "/_quarantine").body)
        self.assertEqual({"000_a", "000_b", "000_c"}, {each["name"] for each in told})
        self.assertEqual({100}, {each["kept"] for each in told})
        self.assertEqual(3, self.rig.service.report()["scrub"]["quarantined"])

        gone = told[1]["id"]
        answer = self.rig.ask("POST", f"/_discard?id={gone}")
        self.assertEqual(b'{"discarded":1}', answer.body)
        self.assertEqual(404, self.rig.ask("POST", f"/_discard?id={gone}").status)
        for bad in ("id", "id="):
            self.assertEqual(400, self.rig.ask("POST", f"/_discard?{bad}").status)
        self.assertEqual(404, self.rig.ask("POST", "/_discard?id=../scrub").status)
        self.assertEqual(b'{"discarded":2}', self.rig.ask("POST", "/_discard").body)
        self.assertEqual(b"[]", self.rig.ask("GET", "/_quarantine").body)
        path = self.directory / "blob" / "quarantine"
        self.assertEqual([], list(path.iterdir()))
        self.assertEqual(0, self.rig.service.report()["scrub"]["quarantined"])

    def test_spoiled_progress(self) -> None:
        """A file of progress that makes no sense is begun anew."""
        self.rig.put("/a", b"a")
        for nonsense in (b"", b"[]", b"\xff", b'{"at": 1}'):
            self.rig.crash()
            (self.directory / "blob" / "scrub.json").write_bytes(nonsense)
            self.rig = self.open()
            self.clock.advance(FIRST_AFTER_SECONDS)
            self.assertEqual(1, self.rig.service.scrubber.checked)

    def test_quarantine_is_bounded(self) -> None:
        """When quarantine is full, damage is only told."""
        self.patch(quarantine, "MAX_BYTES", 150)
        for name in "ab":
            self.rig.put(f"/{name}", name.encode() * 100)
            self.flip(f"000_{name}")
        self.scrub()

        self.assertEqual(1, len(self.kept()))
        self.assertEqual(2, len(self.rig.service.scrubber.damaged))


class FilesCase(ScrubCase):
    """The same with files."""

    config: Mapping[str, Any] = MappingProxyType({"kept": "files"})

    @property
    def files(self) -> Path:
        return self.directory / "blob" / "files"

    def file(self, name: str) -> Path:
        return self.files / layout.path_of(name)

    def there(self) -> set[str]:
        return {
            str(path.relative_to(self.files))
            for path in self.files.rglob("*")
            if path.is_file()
        }

    def kill(self) -> None:
        """Die without tidying up."""
        store = self.rig.service.replica.store
        assert isinstance(store, FilesStore)
        store.versions._pending.clear()
        self.rig.crash()


class FilesScrubTests(FilesCase):
    """Scrubbing a store of files."""

    def test_healed(self) -> None:
        """A file that rotted, and one that is gone, come back in their places."""
        self.rig.put("/a", b"a" * 100)
        self.rig.put("/b", b"b" * 100)
        before = self.state()
        self.reopen()
        self.file("000_a").write_bytes(b"A" * 100)
        self.file("000_b").unlink()
        self.heal_from({"000_a": b"a" * 100, "000_b": b"b" * 100})
        self.scrub()
        self.clock.advance(GRACE_SECONDS)
        self.rig.purge()

        self.assertEqual(before, self.state())
        self.assertEqual(b"a" * 100, self.file("000_a").read_bytes())
        self.assertEqual(b"b" * 100, self.file("000_b").read_bytes())

    def test_sweeps(self) -> None:
        """What a killed process left over is tidied up."""
        self.rig.put("/a", b"old")
        self.rig.put("/gone", b"gone")
        self.rig.put("/often", b"1")
        self.rig.put("/a", b"new")
        self.rig.put("/often", b"2")
        self.rig.put("/often", b"3")
        self.rig.delete(f"/000_gone?ttl={-2 * 86400}")
        self.rig.purge()
        before = self.state()
        self.kill()
        self.rig = self.open()
        self.assertEqual(before, self.state())
        self.scrub()

        self.assertEqual(before, self.state())
        strays = {path for path in self.there() if path.startswith(STRAYS)}
        self.assertEqual(
            {layout.path_of("000_a"), layout.path_of("000_often")},
            self.there() - strays,
        )
        self.assertEqual(1, len(strays))
        self.assertEqual(b"new", self.file("000_a").read_bytes())
        self.assertEqual(b"3", self.file("000_often").read_bytes())

    def test_strays(self) -> None:
        """A file that is no blob is set aside; what is no file of ours stays."""
        self.rig.put("/a", b"a")
        stray = self.file("000_stray")
        stray.parent.mkdir(parents=True)
        stray.write_text("not a blob")
        (stray.parent / "misplaced").write_text("whatever")
        (self.files / "README").write_text("whatever")
        self.scrub()

        self.assertFalse(stray.exists())
        self.assertTrue((stray.parent / "misplaced").exists())
        self.assertTrue((self.files / "README").exists())
        self.assertEqual(1, len(list((self.files / STRAYS).iterdir())))
        self.assertEqual(b"a", self.rig.get("/000_a"))

    def test_written_meanwhile(self) -> None:
        """Whatever is written while the sweep goes on is unharmed."""
        for n in range(5):
            self.rig.put(f"/n{n}", b"old")
            self.rig.put(f"/n{n}", b"new")
        self.kill()
        self.rig = self.open()
        replica = self.rig.service.replica
        assert isinstance(replica.store, FilesStore)
        sweeper = Sweeper(replica, replica.store, self.rig.service.workers, self.clock)
        done = Deferred.fromCoroutine(sweeper.run())
        for body in (b"old", b"new", b"newer", b"old"):
            for n in range(5):
                self.rig.put(f"/n{n}", body)
            self.rig.put(f"/x{body!r}", body)
            self.clock.advance(0.05)
        self.clock.pump([0.05] * 20)
        self.successResultOf(done)
        self.clock.advance(GRACE_SECONDS)
        self.rig.purge()

        self.assertEqual({b"old"}, {self.rig.get(f"/000_n{n}") for n in range(5)})
        self.assertEqual([], list((self.files / VERSIONS).iterdir()))
        self.reopen()
        self.assertEqual({b"old"}, {self.rig.get(f"/000_n{n}") for n in range(5)})

    def test_waiting_bytes_are_not_sent_twice(self) -> None:
        """Mending is no change: nobody is told of it."""
        self.rig.put("/a", b"a" * 100)
        index = self.rig.service.replica.index
        before = index.get("000_a")
        assert before is not None
        self.reopen()
        self.file("000_a").write_bytes(b"A" * 100)
        self.heal_from({"000_a": b"a" * 100})
        self.scrub()
        after = self.rig.service.replica.index.get("000_a")
        assert after is not None

        self.assertEqual((before.seq, before.state), (after.seq, after.state))
        self.assertEqual(before.fanout & BYTES, after.fanout & BYTES)
