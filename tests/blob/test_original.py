"""An original replica's data directory is taken over where it is."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from clinfra.blob import layout, stamps
from clinfra.blob.commit import Committer
from clinfra.blob.original import SET_ASIDE
from clinfra.blob.records import BYTES, CLUSTERS, PEERS
from clinfra.errors import StartupFailed
from tests.blob.support import NOW, Rig

T = stamps.stamp_at(NOW - 86400)


class Original:
    """Makes what an original replica leaves on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "_tmp").mkdir(parents=True)
        (path / "_replica").write_text("blob")
        self.database = path / "_index"
        with closing(sqlite3.connect(self.database)) as index:
            index.executescript(
                """
                CREATE TABLE blob (
                    name TEXT PRIMARY KEY, modified INTEGER, deleted INTEGER,
                    modified_deleted INTEGER
                );
                CREATE INDEX m ON blob (modified, modified_deleted);
                CREATE INDEX d ON blob (deleted);
                CREATE TABLE replica (name TEXT PRIMARY KEY);
                CREATE TABLE replica_event (
                    replica INTEGER, blob INTEGER, flags INTEGER
                );
                CREATE TABLE cluster_event (
                    cluster INTEGER, bucket INTEGER, blob INTEGER, flags INTEGER
                );
                """
            )

    def put(
        self,
        name: str,
        body: bytes | None,
        modified: int | None = T,
        deleted: int = 0,
        modified_deleted: int = T,
    ) -> int:
        """Add a blob, or its row alone; return the number of the row."""
        if body is not None:
            path = self.file(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)
            written = stamps.seconds_of(modified or T) + 1
            os.utime(path, (written, written))
        return self.do(
            "INSERT INTO blob VALUES (?, ?, ?, ?)",
            name,
            modified,
            deleted,
            modified_deleted,
        )

    def do(self, query: str, *arguments: Any) -> int:
        with closing(sqlite3.connect(self.database)) as index, index:
            return index.execute(query, arguments).lastrowid or 0

    def file(self, name: str) -> Path:
        return self.path / layout.path_of(name)

    def upload(self, name: str, body: bytes) -> Path:
        path = self.path / "_tmp" / name
        path.write_bytes(body)
        return path


class TakeOverTests(SynchronousTestCase):
    """Starting on it."""

    rig: Rig

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="clinfra-blob-"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.clock = Clock()
        self.clock.advance(NOW)
        self.files = self.directory / "original"
        self.original = Original(self.files)
        self.config = {"kept": "files", "path": str(self.files)}

    def start(self, **config: Any) -> None:
        self.rig = Rig(
            self.directory / "new", clock=self.clock, **{**self.config, **config}
        )
        rig = self.rig
        self.addCleanup(lambda: rig.close() if rig is self.rig else None)

    def row(self, name: str) -> Any:
        return self.rig.service.replica.index.get(name)

    def test_everything(self) -> None:
        """Blobs, deletes and expiries are there, and the files where they were."""
        self.original.put("000_a", b"a" * 100)
        self.original.put("000_big", b"big" * 1_000_000)
        self.original.put("000_empty", b"", T + 1)
        end = int(NOW) + 1000
        self.original.put("000_ends", b"e", T, end, T + 5)
        self.original.put("000_gone", b"g", T, int(NOW) - 5, T + 9)
        self.original.put("000_never", None, None, int(NOW) - 5, T + 9)
        inode = self.original.file("000_big").stat().st_ino
        self.start()

        self.assertEqual(b"a" * 100, self.rig.get("/000_a"))
        self.assertEqual(b"big" * 1_000_000, self.rig.get("/000_big"))
        self.assertEqual(b"", self.rig.get("/000_empty"))
        self.assertIsNone(self.rig.get("/000_gone"))
        self.assertIsNone(self.rig.get("/000_never"))
        told = self.rig.info("/000_ends")
        assert told is not None
        self.assertEqual(
            (T, end, T + 5),
            (told["modified"], told["deleted"], told["modified_deleted"]),
        )
        self.assertEqual(T + 9, self.row("000_never").expiry.modified_deleted)
        self.assertEqual(inode, self.original.file("000_big").stat().st_ino)

    def test_goes_on(self) -> None:
        """After that it is a store like any other, through restarts and all."""
        self.original.put("000_a", b"old")
        self.original.put("000_b", b"kept")
        self.original.put("000_c", b"deleted")
        self.start()
        self.rig.put("/a", b"new")
        self.rig.delete(f"/000_c?ttl={-2 * 86400}")
        self.rig.purge()
        self.clock.advance(100)
        self.rig.purge()
        self.assertEqual(b"new", self.original.file("000_a").read_bytes())
        self.assertFalse(self.original.file("000_c").exists())
        self.rig.crash()
        for path in (self.directory / "new" / "blob").glob("index.sqlite*"):
            path.unlink()
        self.start()

        self.assertEqual(b"new", self.rig.get("/000_a"))
        self.assertEqual(b"kept", self.rig.get("/000_b"))
        self.assertIsNone(self.rig.get("/000_c"))

    def test_interrupted(self) -> None:
        """A take-over that was killed goes on, and reads nothing twice."""
        for n in range(3):
            self.original.put(f"000_{n}", b"%d" % n)
        real = Committer.run

        def killed(committer: Any, jobs: Any) -> None:
            real(committer, jobs[:2])
            raise KeyboardInterrupt

        patch = self.patch(Committer, "run", killed)
        with self.assertRaises(KeyboardInterrupt):
            self.start()
        patch.restore()
        # A process that was killed holds nothing.
        for fd in os.listdir("/proc/self/fd"):
            try:
                if os.readlink(f"/proc/self/fd/{fd}").endswith("new/blob/lock"):
                    os.close(int(fd))
            except OSError:
                continue
        self.original.file("000_0").chmod(0)
        self.start()

        self.assertEqual([b"1", b"2"], [self.rig.get(f"/000_{n}") for n in (1, 2)])
        self.assertIsNotNone(self.row("000_0").data)

    def test_missing_bytes(self) -> None:
        """A row without its file is no blob, and stops nothing."""
        self.original.put("000_lost", None)
        self.original.put("000_a", b"a")
        self.start()

        self.assertIsNone(self.rig.get("/000_lost"))
        self.assertIsNone(self.row("000_lost").data)
        self.assertEqual(b"a", self.rig.get("/000_a"))
        self.rig.put("/lost", b"found")
        self.assertEqual(b"found", self.rig.get("/000_lost"))

    def test_02_partial_repeat(self) -> None:
        """Fault 2: a repeat that was cut short never replaces the good bytes."""
        self.original.put("000_a", b"twenty bytes of blob")
        self.original.upload(f"{T}.123", b"twe")
        self.start()

        self.assertEqual(b"twenty bytes of blob", self.rig.get("/000_a"))
        self.assertEqual(1, len(list((self.files / SET_ASIDE).iterdir())))
        self.assertEqual([], list((self.files / "_tmp").iterdir()))

    def test_02_other_bytes(self) -> None:
        """Nor do other bytes of that stamp that came after the file was written."""
        self.original.put("000_a", b"twenty bytes of blob")
        self.original.upload(f"{T}.123", b"XXX")
        self.start()

        self.assertEqual(b"twenty bytes of blob", self.rig.get("/000_a"))

    def test_03_two_names(self) -> None:
        """Fault 3: bytes are not given to a name that only has the same stamp."""
        self.original.put("000_a", None)
        self.original.put("000_b", None)
        self.original.upload(f"{T}.123", b"of whom?")
        self.start()

        self.assertIsNone(self.rig.get("/000_a"))
        self.assertIsNone(self.rig.get("/000_b"))

    def test_two_uploads(self) -> None:
        """Of two uploads with one stamp neither is believed."""
        self.original.put("000_a", None)
        self.original.upload(f"{T}.123", b"whole")
        self.original.upload(f"{T}.124", b"who")
        self.start()

        self.assertIsNone(self.rig.get("/000_a"))
        self.assertEqual(2, len(list((self.files / SET_ASIDE).iterdir())))

    def test_committed_upload(self) -> None:
        """Dead between index and rename, the original's blob is completed."""
        self.original.put("000_new", None)
        self.original.upload(f"{T}.123", b"new")
        self.original.put("000_again", b"old bytes", T + 1)
        old = NOW - 10 * 86400
        os.utime(self.original.file("000_again"), (old, old))
        self.original.upload(f"{T + 1}.123", b"newer bytes")
        self.start()

        self.assertEqual(b"new", self.rig.get("/000_new"))
        self.assertEqual(b"newer bytes", self.rig.get("/000_again"))

    def test_27_bricked(self) -> None:
        """Fault 27: what stopped the original from starting stops nothing."""
        self.original.upload("foo", b"x")
        self.original.upload("12x.5", b"x")
        self.original.upload(f"{1 << 70}.5", b"x")
        (self.files / "_tmp" / f"{T + 7}.1").mkdir()
        self.original.do("INSERT INTO blob VALUES ('000_dir/a', ?, 0, ?)", T + 1, T)
        self.original.upload(f"{T + 1}.5", b"in a directory")
        long = "000_" + "x" * 300
        self.original.do("INSERT INTO blob VALUES (?, ?, 0, ?)", long, T + 2, T)
        self.original.upload(f"{T + 2}.5", b"long")
        self.original.put("000_dirs", None, T + 7)
        self.start()

        self.assertEqual(b"in a directory", self.rig.get("/000_dir/a"))
        self.assertEqual(b"long", self.rig.get(f"/{long}"))
        self.assertIsNone(self.rig.get("/000_dirs"))

    def test_hostile_rows(self) -> None:
        """Rows that could do harm are left behind; strange values stop nothing."""
        secret = self.directory / "secret"
        secret.write_text("secret")
        for name in ("../../../secret", "000_a\nb", "", "_x", b"\xff\xfe", None):
            self.original.do("INSERT INTO blob VALUES (?, ?, 0, ?)", name, T, T)
        self.original.do("INSERT INTO blob VALUES ('000_t', 'x', 'y', NULL)")
        self.original.do("INSERT INTO blob VALUES ('000_n', -5, NULL, -7)")
        self.original.put("000_a", b"a")
        self.original.file("000_link").parent.mkdir(parents=True)
        self.original.file("000_link").symlink_to(secret)
        self.original.put("000_link", None)
        self.start()

        names = [r.name for r in self.rig.service.replica.index.names_after("", 99)]
        self.assertEqual(["000_a", "000_link", "000_n", "000_t"], names)
        self.assertIsNone(self.rig.get("/000_link"))
        self.assertEqual("secret", secret.read_text())

    def test_unsent(self) -> None:
        """What the original had still to send is sent by us, the rest is not."""
        peers = self.original.put("000_p", b"p")
        clusters = self.original.put("000_c", b"c")
        self.original.put("000_n", b"n")
        self.original.do("INSERT INTO replica_event VALUES (1, ?, 1)", peers)
        self.original.do("INSERT INTO cluster_event VALUES (1, 0, ?, 1)", clusters)
        self.start()

        self.assertEqual(
            [PEERS | BYTES, CLUSTERS | BYTES, 0],
            [self.row(f"000_{name}").fanout for name in "pcn"],
        )

    def test_other_replica(self) -> None:
        """A directory of another replica is refused, naming both."""
        (self.files / "_replica").write_text("r7\n")
        with self.assertRaises(StartupFailed) as caught:
            self.start()

        self.assertIn("belongs to replica r7, not to blob", str(caught.exception))

    def test_other_depth(self) -> None:
        """Files in other depths are none that seem to be missing: it does not start."""
        for depth in (1, 3):
            self.original.put("000_a", b"here")
            old = self.original.file("000_a")
            top = old.parent.parent
            digest = hashlib.md5(b"000_a").hexdigest()
            deeper = old.parent / digest[4:6] / "000_a"
            new = top / "000_a" if depth == 1 else deeper
            new.parent.mkdir(exist_ok=True)
            old.rename(new)
            with self.assertRaisesRegex(StartupFailed, f"path_depth {depth}; only 2"):
                self.start()
            self.original.do("DELETE FROM blob")
            new.unlink()

    def test_index_elsewhere(self) -> None:
        """Its index may be anywhere, and is never silently done without."""
        self.original.put("000_a", b"a")
        elsewhere = self.directory / "somewhere.db"
        self.original.database.rename(elsewhere)
        with self.assertRaises(StartupFailed) as caught:
            self.start()
        self.assertIn("blob.original_index", str(caught.exception))
        self.start(original_index=str(elsewhere))

        self.assertEqual(b"a", self.rig.get("/000_a"))

    def test_damaged_index(self) -> None:
        """An index that cannot be read is told as such."""
        self.original.database.write_bytes(b"rot" * 5000)
        with self.assertRaises(StartupFailed) as caught:
            self.start()

        self.assertIn("cannot take over", str(caught.exception))
