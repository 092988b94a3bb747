"""A peer: a store that keeps one file per blob, as durable as ours.

A PUT writes a temporary file, syncs it, renames it into place and syncs the directory;
then it answers.  With one thread blobs are stored one after the other; with more, the
file system may merge their syncs.  HTTP is stock twisted.web.

    python -m benchmarks.file_store PORT DIRECTORY THREADS
"""

from __future__ import annotations

import os
import sys
from hashlib import sha256
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IReactorThreads
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from benchmarks.plain_site import ENDPOINT, QuietSite

FOLDERS = 256


def path_of(root: Path, name: bytes) -> Path:
    """Return where the blob of that name is kept."""
    digest = sha256(name).hexdigest()
    return root / digest[:2] / digest


def store(path: Path, body: bytes) -> None:
    """Keep `body` under `path`; it survives a power cut once this returns."""
    temporary = path.with_suffix(".new")
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        os.write(file, body)
        os.fdatasync(file)
    finally:
        os.close(file)
    os.rename(temporary, path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


class Files(Resource):
    """GET and PUT of one file per path."""

    isLeaf = True

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root

    def render_GET(self, request: Request) -> bytes:
        """Answer with the file, or 404."""
        try:
            return path_of(self.root, request.path).read_bytes()
        except FileNotFoundError:
            request.setResponseCode(404)
            return b""

    def render_PUT(self, request: Request) -> int:
        """Store the body in a thread, then answer 201."""

        def stored(result: object) -> None:
            request.setResponseCode(500 if isinstance(result, Failure) else 201)
            request.finish()

        gone: list[object] = []
        request.notifyFinish().addErrback(gone.append)
        assert request.content is not None
        body = request.content.read()
        deferToThread(store, path_of(self.root, request.path), body).addBoth(
            lambda result: None if gone else stored(result)
        )
        return NOT_DONE_YET


def main(port: int, root: Path, threads: int) -> None:
    """Serve until a signal comes."""
    for number in range(FOLDERS):
        (root / f"{number:02x}").mkdir(parents=True, exist_ok=True)
    IReactorThreads(reactor).suggestThreadPoolSize(threads)
    endpoint = serverFromString(reactor, ENDPOINT.format(port=port))
    endpoint.listen(QuietSite(Files(root)))
    reactor.run()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
