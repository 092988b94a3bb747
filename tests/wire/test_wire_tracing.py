"""One photograph's way through all processes, by one id."""

from __future__ import annotations

import json
import tempfile
import urllib.request
from contextlib import ExitStack
from pathlib import Path

from tests.support import ClinfraProcess, lasting_ports, wait_until
from tests.wire.photographs import write_photograph

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def test_one_way_through_all() -> None:
    """Proxy, image service, the replica that is asked and its peer log the same id."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        replicas = ("one", "two")
        ports = dict(zip(replicas, lasting_ports(2), strict=True))
        cluster = directory / "cluster.json"
        told = {
            "clusters": [[{"replicas": list(replicas), "write_weight": 1}]],
            "replicas": {
                name: {"ip": "127.0.0.1", "port": port, "read_weight": 1}
                for name, port in ports.items()
            },
        }
        cluster.write_text(json.dumps({"clblob": {"client": told}}))

        def start(name: str, **tables: object) -> ClinfraProcess:
            form = "json" if name in ("image", "two") else "text"
            logging = {"format": form, "trace": True}
            return stack.enter_context(ClinfraProcess({"logging": logging, **tables}))

        blobs = {
            name: start(
                name,
                blob={
                    "listen": [f"tcp:{port}:interface=127.0.0.1"],
                    "cluster_file": str(cluster),
                    "replica": name,
                },
            )
            for name, port in ports.items()
        }
        image = start("image", image={"blob_url": f"http://127.0.0.1:{ports['one']}"})
        proxy = start(
            "proxy",
            proxy={
                "default_pool": "photos",
                "pools": {"photos": {"members": [f"127.0.0.1:{image.ports['image']}"]}},
            },
        )
        photograph = directory / "photo.jpg"
        write_photograph(photograph, size=(800, 600))
        request = urllib.request.Request(
            proxy.url("proxy", "/photo"),
            data=photograph.read_bytes(),
            headers={
                "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01",
                "X-Request-Id": "photo-7",
            },
            method="POST",
        )

        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.status == 200

        for running in (proxy, image, *blobs.values()):
            wait_until(
                lambda running=running: TRACE in running.running.output,  # type: ignore[misc] # bound here
                f"the id is in the log of {running.config_file.read_text()}",
            )
        lines = [line for line in image.running.output.splitlines() if TRACE in line]
        assert json.loads(lines[0])["request_id"] == "photo-7"
        assert f"trace={TRACE} id=photo-7" in proxy.running.output


def test_nobody_asked() -> None:
    """Unless it is asked for there are no ids, and what clients send goes through."""
    with ClinfraProcess({"logging": {"format": "text"}, "blob": {}}) as blob:
        request = urllib.request.Request(
            blob.url("blob", "/_status"),
            headers={"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            answer.read()
        assert blob.running.terminate() == 0

        assert "/_status" in blob.running.output
        assert "trace" not in blob.running.output
