"""The data directory of a replica: whose it is, and that nobody else uses it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from attrs import define, field

from clinfra.errors import StartupFailed

LOCK_FILE = "lock"
IDENTITY_FILE = "replica"
INDEX_FILE = "index.sqlite"
STORE_DIRECTORY = "volumes"
RUNNING_FILE = "running"


@define(eq=False)
class DataDirectory:
    """A directory of ours while it is open.

    Args:
        path: made when missing.
        replica: who we are; the first to open a directory writes its name into it.

    Attributes:
        was_killed: whoever had it before did not end in order.
    """

    path: Path
    replica: str
    was_killed: bool = field(init=False, default=False)
    _lock: int = field(init=False, default=-1)

    @property
    def index(self) -> Path:
        """Where the index is."""
        return self.path / INDEX_FILE

    @property
    def store(self) -> Path:
        """Where the volumes are."""
        return self.path / STORE_DIRECTORY

    def free_bytes(self) -> int:
        """Return what its disk has left for us.  Any thread."""
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def open(self) -> None:
        """Take the directory.  Raises StartupFailed."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(
                self.path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.close()
                raise StartupFailed(
                    f"{self.path} is used by another process"
                    f" (it holds {self.path / LOCK_FILE})"
                ) from None
            self._check_identity()
            running = self.path / RUNNING_FILE
            self.was_killed = running.exists()
            running.touch(mode=0o600)
        except OSError as error:
            self.close()
            raise StartupFailed(f"cannot use {self.path}: {error}") from error

    def _check_identity(self) -> None:
        identity = self.path / IDENTITY_FILE
        owner = ""
        if identity.exists():
            owner = identity.read_text(encoding="utf-8", errors="replace").strip()
        if not owner:
            # New, or the first start was killed before this was written.
            with identity.open("w", encoding="utf-8") as file:
                file.write(f"{self.replica}\n")
                file.flush()
                os.fsync(file.fileno())
            return
        if owner != self.replica:
            self.close()
            raise StartupFailed(
                f"{self.path} belongs to replica {owner}, not to {self.replica}"
            )

    def end_well(self) -> None:
        """Everything is closed in order, and the directory about to be."""
        (self.path / RUNNING_FILE).unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the directory."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
