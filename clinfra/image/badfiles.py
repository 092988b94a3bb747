"""Keep uploads that could not be read, for whoever wants to know why.

The directory never grows beyond its bound: what does not fit is not kept.
"""

from __future__ import annotations

import os
from pathlib import Path

from attrs import define, field
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from clinfra.errors import StartupFailed
from clinfra.web.streams import Threads

_NAME_CHARACTERS = 100
_PIECE = 1 << 20


def safe_name(seconds: float, filename: str | None) -> str:
    """Return the original's name of a bad file: when, and what the client called it.

    Only visible ASCII is kept, and no slash: nothing leaves the directory.
    """
    kept = "".join(
        each for each in filename or "" if "!" <= each <= "~" and each != "/"
    )
    return f"{seconds:f}.{kept[:_NAME_CHARACTERS]}"


@define(eq=False)
class BadFiles:
    """A bounded directory of bad uploads.

    Args:
        directory: where; it must be there.
        max_bytes: of all files in it.
        threads: where the copying happens; None means at once.
    """

    log = Logger()

    _directory: Path
    _max_bytes: int
    _threads: Threads | None
    _used: int = field(init=False, default=0)

    def open(self) -> None:
        """Count what is there.  Raises StartupFailed."""
        try:
            with os.scandir(self._directory) as entries:
                self._used = sum(
                    entry.stat(follow_symlinks=False).st_size for entry in entries
                )
        except OSError as error:
            raise StartupFailed(f"image.save_bad_path: {error}") from error
        if not os.access(self._directory, os.W_OK):
            raise StartupFailed(
                f"image.save_bad_path: {self._directory} cannot be written to"
            )

    async def keep(
        self, upload: int, length: int, filename: str | None, seconds: float
    ) -> str:
        """Copy an upload; return the path, "" when it is not kept.

        Args:
            upload: an open descriptor.
            seconds: unix time.
        """
        if self._used + length > self._max_bytes:
            return ""
        path = self._directory / safe_name(seconds, filename)
        self._used += length
        try:
            if self._threads is None:
                _copy(upload, length, path)
            else:
                await deferToThreadPool(
                    self._threads.reactor,
                    self._threads.pool,
                    _copy,
                    upload,
                    length,
                    path,
                )
        except OSError as error:
            self._used -= length
            self.log.warn("cannot keep a bad image: {error}", error=str(error))
            return ""
        return str(path)


def _copy(upload: int, length: int, path: Path) -> None:
    out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        offset = 0
        while offset < length:
            sent = os.sendfile(out, upload, offset, min(length - offset, _PIECE))
            if not sent:
                break
            offset += sent
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(out)
