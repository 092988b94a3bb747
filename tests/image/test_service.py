"""The image service put together and checked before it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.python.threadpool import ThreadPool
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from clinfra.config import ImageConfig
from clinfra.errors import ConfigProblems, StartupFailed
from clinfra.image import deflating, heic
from clinfra.image.service import check, make_image_service
from clinfra.interfaces import IBlobs, IProduct
from tests.image.support import MemoryBlobs, new_directory


class ThreadedClock(Clock):
    """A clock with a pool of threads, never started."""

    def getThreadPool(self) -> ThreadPool:
        return ThreadPool(0, 1)


class CheckTests(SynchronousTestCase):
    def test_problems(self) -> None:
        """Everything that cannot work is told at once, with its key."""
        config = ImageConfig(formats=("JPEG", "PSD"), sizes=("50x50c", "huge"))
        problems = self.assertRaises(ConfigProblems, check, config).problems
        for word in ("PSD", "huge"):
            self.assertTrue(any(word in each for each in problems), word)

    def test_response(self) -> None:
        """The default answer must be one that is possible."""
        self.assertRaises(ConfigProblems, check, ImageConfig(response="all"))
        check(ImageConfig(response="300x300"))

    def test_defaults(self) -> None:
        """The defaults have no problems."""
        check(ImageConfig())


class ServiceTests(SynchronousTestCase):
    def service(self, data_dir: Path, **changes: Any) -> Any:
        return make_image_service(
            ImageConfig(**changes),
            reactor=ThreadedClock(),
            data_dir=data_dir,
            blobs=MemoryBlobs(),
        )

    def test_interface(self) -> None:
        """The service and the stand-in for blobs are what they say."""
        verifyObject(IProduct, self.service(new_directory(self)))
        verifyObject(IBlobs, MemoryBlobs())

    def test_open(self) -> None:
        """The service makes its directory, and says so when it cannot."""
        data_dir = new_directory(self)
        self.service(data_dir).open()
        self.assertTrue((data_dir / "image").is_dir())
        (data_dir / "file").write_bytes(b"")
        self.assertRaises(StartupFailed, self.service(data_dir / "file").open)
        bad = self.service(data_dir, save_bad_path=str(data_dir / "missing"))
        self.assertRaises(StartupFailed, bad.open)

    def test_lacking(self) -> None:
        """What would be better is said once, when the service starts."""
        service = self.service(new_directory(self))
        with capturedLogs() as told:
            service.open()
        self.assertEqual([], list(told))
        self.patch(deflating, "_isal", None)
        self.patch(heic, "is_there", lambda: False)
        with capturedLogs() as told:
            service.open()
        self.assertEqual(2, len(told))
        self.assertEqual(["JPEG"], heic.openable(("JPEG", "HEIC")))
