"""`make cluster`: a whole cluster by one command, and what it shows."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

from clinfra.blob.playground import LAYOUTS, cluster_file
from clinfra.blob.topology import read
from tests.support import Child, accepts, lasting_ports, wait_until

CLINFRA = str(Path(sys.executable).with_name("clinfra"))


def test_layouts() -> None:
    """Every layout is a good cluster file; 12 processes are the original's example."""
    for processes in LAYOUTS:
        told = cluster_file(processes, range(8101, 8101 + processes))
        assert len(told["clblob"]["client"]["replicas"]) == processes
        whole = read(json.dumps(told), "000", "cluster.json")
        assert (whole.cluster, whole.bucket) == (0, 0)
    assert [len(buckets) for buckets in whole.clusters] == [2, 2]


def test_kill(tmp_path: Path) -> None:
    """With --kill it kills a replica under load, finds nothing lost, and ends."""
    port = lasting_ports(3)[0]
    arguments = ("--kill", "--port", str(port), "--directory", str(tmp_path / "x"))
    done = subprocess.run(
        [CLINFRA, "blob", "cluster", *arguments],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done
    assert "kill -9 001 after" in done.stdout
    assert done.stdout.endswith("\nlost: 0\n")
    assert not any(accepts(port + n) for n in range(3))


def test_stop(tmp_path: Path) -> None:
    """It says where everything is, who ended, and stops all of it with itself."""
    port = lasting_ports(3)[0]
    arguments = ("--port", str(port), "--directory", str(tmp_path / "x"))
    with Child([CLINFRA, "blob", "cluster", *arguments]) as cluster:
        cluster.wait_for("Ctrl-C stops everything.", timeout_seconds=60)
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/hello.txt", b"hello\n", method="PUT"
        )
        urllib.request.urlopen(request).close()
        words = cluster.output.split()
        with urllib.request.urlopen(
            next(word for word in words if word.endswith("_hello.txt"))
        ) as answer:
            assert answer.read() == b"hello\n"
        victim = int(words[words.index("process") + 1])
        subprocess.run(["kill", "-9", str(victim)], check=True)
        cluster.wait_for("000 ended (SIGKILL); 2 go on")

        cluster.signal(signal.SIGTERM)
        assert cluster.wait() == 0
        assert not any(accepts(port + n) for n in range(3))


def test_port_taken(tmp_path: Path) -> None:
    """A replica that does not start is told of, and the others are stopped."""
    port = lasting_ports(3)[0]
    with Child([sys.executable, "-m", "http.server", str(port + 2)]):
        wait_until(lambda: accepts(port + 2), "the port is taken")
        done = subprocess.run(
            [CLINFRA, "blob", "cluster", "--port", str(port)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
    assert done.returncode == 1
    assert "002 did not start" in done.stderr
    assert not any(accepts(port + n) for n in range(2))
