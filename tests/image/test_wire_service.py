"""The image service over real sockets with real workers."""

from __future__ import annotations

import io
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import treq
from PIL import Image
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.web.client import HTTPConnectionPool

from clinfra.config import ImageConfig, Limits
from clinfra.image.service import make_image_service
from clinfra.web.site import Site
from tests.image.live import in_reactor
from tests.image.pictures import jpeg, oriented, scan_bomb
from tests.image.support import MemoryBlobs


@asynccontextmanager
async def service(
    directory: Path, **changes: Any
) -> AsyncIterator[tuple[str, MemoryBlobs, Any]]:
    """Run the service; give its address, its blobs, and a pooled client."""
    blobs = MemoryBlobs()
    product = make_image_service(
        ImageConfig(**changes), reactor=reactor, data_dir=directory, blobs=blobs
    )
    product.open()
    product.startService()
    site = Site(product.resource, reactor=reactor, limits=Limits())
    port = cast(Any, reactor).listenTCP(0, site, interface="127.0.0.1")
    pool = HTTPConnectionPool(reactor, persistent=False)
    try:
        yield f"http://127.0.0.1:{port.getHost().port}/x", blobs, pool
    finally:
        await pool.closeCachedConnections()
        await port.stopListening()
        await product.stopService()


@in_reactor
async def test_photograph(tmp_path: Path) -> None:
    """A photograph of 12 megapixels comes back upright in the classic sizes."""
    photograph = oriented(jpeg(4000, 3000), 6)
    async with service(tmp_path) as (url, blobs, pool):
        response = await treq.put(
            url, photograph, params={"response": "info"}, pool=pool
        )
        assert response.code == 200
        info = json.loads(await response.content())
        sizes = {
            size: Image.open(io.BytesIO(blobs.kept[name][0])).size
            for size, name in info["blob_names"].items()
        }
        expected = {"50x50c": (50, 50), "300x300": (225, 300), "600x450": (337, 450)}
        assert sizes == expected
        assert info["blob_info_name"] in blobs.kept


@in_reactor
async def test_hostile_among_others(tmp_path: Path) -> None:
    """Bombs are refused while pictures beside them are rendered."""
    picture, bomb = jpeg(1200, 900), scan_bomb(3000, side=4000)
    (tmp_path / "bad").mkdir()
    changes = {
        "save_bad_path": str(tmp_path / "bad"),
        "workers": 2,
        "max_scans": 10000,
        "worker_timeout": 2.0,
    }
    async with service(tmp_path, **changes) as (url, _, pool):

        async def put(body: bytes) -> int:
            response = await treq.put(url, body, pool=pool)
            await response.content()
            return int(response.code)

        codes = await gatherResults(
            [
                Deferred.fromCoroutine(put(body))
                for body in (picture, bomb, picture, b"bad", picture)
            ]
        )
        assert codes == [200, 415, 200, 415, 200]
        kept = {path.read_bytes() for path in (tmp_path / "bad").iterdir()}
        assert kept == {bomb, b"bad"}
        assert os.listdir(tmp_path / "image") == []
