"""The parts in processes of their own, as on several hosts."""

from __future__ import annotations

import io
import json
import urllib.error
import urllib.request

from PIL import Image

from tests.support import ClinfraProcess, wait_until


def picture() -> bytes:
    """Return a small JPEG."""
    file = io.BytesIO()
    Image.linear_gradient("L").resize((800, 600)).save(file, "JPEG")
    return file.getvalue()


def test_blob_and_edge_in_two_processes() -> None:
    """Image and proxy work over a blob store that is elsewhere."""
    with ClinfraProcess({"blob": {}}) as store:
        edge_config = {
            "image": {"blob_url": store.url("blob")},
            "proxy": {
                "pools": {"blob": {"members": [f"127.0.0.1:{store.ports['blob']}"]}}
            },
            "admin": {},
        }
        with ClinfraProcess(edge_config) as edge:
            request = urllib.request.Request(
                edge.url("proxy", "/image/?response=info"), data=picture()
            )
            with urllib.request.urlopen(request, timeout=60) as answer:
                names = json.load(answer)["blob_names"]

            assert set(names) == {"50x50c", "300x300", "600x450"}
            for door in (edge.url("proxy", "/blob/"), store.url("blob")):
                with (
                    urllib.request.urlopen(door + names["300x300"]) as answer,
                    Image.open(answer) as result,
                ):
                    assert result.size == (300, 225)
            assert edge.running.terminate() == 0
            assert "Traceback" not in edge.running.output


def upload(url: str) -> tuple[int, str | None]:
    """Return status and Retry-After of an upload."""
    try:
        request = urllib.request.Request(url, data=picture())
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, None
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Retry-After"]


def test_a_blob_store_that_is_away() -> None:
    """An image service whose blob store is away says 503, until it is there again."""
    with ClinfraProcess({"blob": {}}) as store:
        store.running.kill()
        with ClinfraProcess({"image": {"blob_url": store.url("blob")}}) as edge:
            status, retry_after = upload(edge.url("image"))
            assert status == 503
            assert retry_after is not None

            store.restart()

            wait_until(lambda: upload(edge.url("image"))[0] == 200, "it is stored")
