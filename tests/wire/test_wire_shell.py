"""`clinfra status`, `top`, `doctor` and `bench` as typed."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support import ClinfraProcess, lasting_ports

CLINFRA = str(Path(sys.executable).with_name("clinfra"))


@pytest.fixture(scope="module")
def running() -> Iterator[ClinfraProcess]:
    """Return a blob store behind a proxy."""
    with ClinfraProcess({"blob": {}, "proxy": {}, "admin": {}}) as clinfra:
        yield clinfra


def typed(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [CLINFRA, *arguments], capture_output=True, text=True, timeout=100, check=False
    )


def configured(running: ClinfraProcess) -> tuple[str, ...]:
    """Return what names the configuration of a process."""
    return ("--config", str(running.config_file))


def test_status_and_top(running: ClinfraProcess) -> None:
    """By the configuration or by the listener's URL; for people and programs."""
    shown = typed("status", *configured(running))
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "  ready\n" in shown.stdout
    assert "\nproxy  0 requests, 0 under way" in shown.stdout

    url = running.url("admin", "")
    told = json.loads(typed("status", "--json", "--admin", url).stdout)
    assert set(told["products"]) == {"blob", "proxy"}

    top = typed("top", "--once", "--interval", "0.2", "--admin", url)
    assert (top.returncode, top.stderr) == (0, "")
    assert "requests/s" in top.stdout
    (line,) = typed("top", "--once", "--json", "--admin", url).stdout.splitlines()
    assert json.loads(line)["requests_per_second"]["blob"] == 0


def test_top_on_a_terminal(running: ClinfraProcess) -> None:
    """Pages replace one another until q is typed; then the screen is given back."""
    ours, theirs = pty.openpty()
    command = [CLINFRA, "top", "--interval", "0.1", *configured(running)]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    while shown.count(b"requests/s") < 2:
        shown += os.read(ours, 65536)
    os.write(ours, b"q")
    try:
        while piece := os.read(ours, 65536):
            shown += piece
    except OSError:
        pass  # how a terminal says that nobody is left
    assert process.wait(20) == 0
    os.close(ours)
    assert shown.startswith(b"\x1b[?1049h")
    assert shown.endswith(b"\x1b[?1049l")


def test_nobody_there() -> None:
    """Exit status 4, and one line that says where."""
    (port,) = lasting_ports(1)
    done = typed("status", "--admin", f"http://127.0.0.1:{port}")
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == (
        f"clinfra: http://127.0.0.1:{port} does not answer: Connection refused\n"
    )
    done = typed("bench", f"http://127.0.0.1:{port}/", "--seconds", "0.2")
    assert done.returncode == 4
    assert "Connection" in done.stdout


def test_doctor(running: ClinfraProcess) -> None:
    """Nothing is wrong while it runs; what is wrong comes with what to do."""
    data = ("--data-dir", str(running.data_dir))
    done = typed("doctor", "--all", *configured(running), *data)
    assert done.returncode == 0, done.stdout
    for sentence in (
        "good    the configuration can be read",
        "good    it is ready",
        f"good    proxy takes connections at 127.0.0.1:{running.ports['proxy']}",
        f"good    {running.data_dir} is writable",
    ):
        assert sentence in done.stdout.splitlines()

    (port,) = lasting_ports(1)
    wrong = ("--set", f'proxy.cache.memcached=["127.0.0.1:{port}"]')
    done = typed("doctor", "--json", *configured(running), *data, *wrong)
    assert done.returncode == 1
    (found,) = [each for each in json.loads(done.stdout) if each["grade"] == "wrong"]
    assert found == {
        "grade": "wrong",
        "finding": f"memcached 127.0.0.1:{port} cannot be reached: Connection refused",
        "remedy": "start it, or take it out of proxy.cache.memcached",
    }


def test_bench(running: ClinfraProcess) -> None:
    """Blobs are put and read; answers that refuse count as errors."""
    quick = ("--seconds", "0.3", "--connections", "2", "--json")
    put = typed("bench", running.url("blob", "/?ttl=60"), "--put-bytes", "100", *quick)
    told = json.loads(put.stdout)
    assert put.returncode == 0
    assert (told["method"], told["errors"]) == ("PUT", 0)
    assert told["requests"] >= 1
    assert told["latency_ms"]["p50"] <= told["latency_ms"]["longest"]

    get = typed("bench", running.url("proxy"), *quick)
    assert (get.returncode, json.loads(get.stdout)["errors"]) == (0, 0)

    none = typed("bench", running.url("blob", "/000_none"), *quick)
    told = json.loads(none.stdout)
    assert none.returncode == 1
    assert told["statuses"] == {"404": told["errors"]}


def test_bench_of_a_slow_server() -> None:
    """One that needs longer than the time given is waited for, until it answers."""

    class Slow(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(1)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *words: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        done = typed("bench", url, "--seconds", "0.2", "--connections", "1", "--json")
        server.shutdown()

    told = json.loads(done.stdout)
    assert (done.returncode, told["statuses"]) == (0, {"204": 1})
    assert told["seconds"] > 0.9


def test_explain(running: ClinfraProcess) -> None:
    """The rules are asked that run, and say the same as those of the configuration."""
    asked = ("explain", "http://x.example/a", "--header", "X-A: 1", "--method", "post")
    here = typed(*asked, *configured(running))
    there = typed(*asked, "--admin", running.url("admin", ""))
    assert (there.returncode, there.stderr) == (0, "")
    assert there.stdout == here.stdout
    bad = typed("explain", "ftp://x/", "--admin", running.url("admin", ""))
    assert bad.returncode == 1
    assert "is not an http URL" in bad.stderr


def test_a_reader_that_has_seen_enough() -> None:
    """No traceback when the other end of a pipe is gone."""
    process = subprocess.Popen(
        [CLINFRA, "config"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert process.wait(20) == 1
    process.stderr.close()
