"""Several processes behind one port: reloaded and killed under load, never noticed."""

from __future__ import annotations

import os
import signal
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tests.support import ClinfraProcess, wait_until
from tests.wire.crews import Load, kill_one, reload, soak, workers
from tests.wire.photographs import write_photograph


def test_reloads_and_kills_under_load() -> None:
    """However often workers are replaced or killed: no request fails, nothing grows.

    The long version is ``make soak``.
    """
    went = soak(4, 2, 0.0, lambda line: None)
    assert went.answers > 100


def test_pictures_while_workers_are_replaced(tmp_path: Path) -> None:
    """Uploads and pictures go on while the image service's workers are replaced."""
    photo = tmp_path / "photo.jpg"
    write_photograph(photo, orientation=1)
    tables: dict[str, Any] = {"stop_timeout": 20, "blob": {}, "admin": {}}
    tables["image"] = {"front_workers": 2, "workers": 2}
    with ClinfraProcess(tables) as clinfra:

        def upload() -> str:
            put = urllib.request.Request(
                clinfra.url("image"), data=photo.read_bytes(), method="PUT"
            )
            with urllib.request.urlopen(put, timeout=60) as answer:
                name: str = answer.read().decode()
            return name

        over = threading.Event()

        def upload_until_over() -> list[str]:
            names = []
            while not over.is_set():
                names.append(upload())
            return names

        page = f"/{upload()}/300x300"
        load = Load(clinfra.ports["image"], page, again=False)
        with ThreadPoolExecutor(1) as pool:
            uploads = pool.submit(upload_until_over)
            try:
                for number in (signal.SIGUSR2, signal.SIGHUP):
                    reload(clinfra, number, "image")
            finally:
                over.set()
                load.end()
        assert uploads.result()
        assert load.failures == []
        assert set(load.answers) == {200}


def test_what_lasts_beyond_a_worker() -> None:
    """What operators asked of the fallen holds for their successors."""
    tables = {"stop_timeout": 2, "proxy": {"workers": 2}, "admin": {}, "blob": {}}
    with ClinfraProcess(tables) as clinfra:
        out = clinfra.url("admin", "/maintenance/blob")
        with urllib.request.urlopen(urllib.request.Request(out, method="PUT")):
            pass
        for _ in range(2):
            kill_one(clinfra)
        for _ in range(8):
            with pytest.raises(urllib.error.HTTPError, match="503"):
                urllib.request.urlopen(clinfra.url("proxy", "/blob/x"), timeout=20)
        assert "was killed by SIGKILL" in clinfra.running.output


def test_changes_on_reload() -> None:
    """What the new configuration says holds afterwards, new and other ports too."""
    tables = {"stop_timeout": 1, "proxy": {"workers": 1}, "admin": {}}
    with ClinfraProcess(tables) as clinfra:
        port = clinfra.ports["proxy"]
        socket_path = clinfra.directory / "proxy.sock"
        text = clinfra.config_file.read_text()
        text = text.replace('"workers" = 1', '"workers" = 2, "modules" = []')
        text = text.replace(
            f'["tcp:{port}:interface=127.0.0.1"]', f'["unix:{socket_path}"]'
        )
        clinfra.config_file.write_text(text)
        clinfra.running.signal(signal.SIGHUP)
        clinfra.running.wait_for("new workers serve proxy")
        assert socket_path.is_socket()
        wait_until(lambda: len(workers(clinfra)) == 2, "there are two")
        with pytest.raises(OSError):
            HTTPConnection("127.0.0.1", port, timeout=5).connect()


def test_wrong_configuration_on_reload() -> None:
    """The old one stays in force, and the log says what is wrong with the new one."""
    tables = {"proxy": {"workers": 1}, "admin": {}}
    with ClinfraProcess(tables) as clinfra:
        before = workers(clinfra)
        text = clinfra.config_file.read_text()
        clinfra.config_file.write_text(text.replace('"workers" = 1', '"workers" = -1'))
        clinfra.running.signal(signal.SIGHUP)
        clinfra.running.wait_for("the old configuration stays in force")
        assert "proxy.workers: -1 is less than 0" in clinfra.running.output
        assert workers(clinfra) == before
        with urllib.request.urlopen(clinfra.url("proxy"), timeout=20) as answer:
            assert answer.status == 200


def test_the_main_process_is_killed() -> None:
    """Workers do not outlive it."""
    with ClinfraProcess({"proxy": {"workers": 2}, "admin": {}}) as clinfra:
        left = workers(clinfra)
        os.kill(clinfra.pid, signal.SIGKILL)
        clinfra.running.process.wait()
        deadline = time.monotonic() + 20
        while any(Path(f"/proc/{pid}/cmdline").exists() for pid in left):
            states = [Path(f"/proc/{pid}/stat") for pid in left]
            if all(not s.exists() or " Z " in s.read_text() for s in states):
                break
            assert time.monotonic() < deadline, "they outlive it"
            time.sleep(0.05)


def test_everything_through_workers(tmp_path: Path) -> None:
    """Proxy, image and blob work together across processes; a purge reaches all."""
    photo = tmp_path / "photo.jpg"
    write_photograph(photo, orientation=1)
    tables: dict[str, Any] = {
        "blob": {},
        "image": {"front_workers": 2, "workers": 2},
        "proxy": {"workers": 2},
        "admin": {},
    }
    with ClinfraProcess(tables) as clinfra:
        put = urllib.request.Request(
            clinfra.url("proxy", "/image/"), data=photo.read_bytes(), method="PUT"
        )
        with urllib.request.urlopen(put, timeout=30) as answer:
            name = answer.read().decode()
        page = clinfra.url("proxy", f"/image/{name}/300x300")
        for _ in range(8):
            with urllib.request.urlopen(page, timeout=30) as answer:
                assert answer.headers["Content-Type"] == "image/jpeg"
        purge = urllib.request.Request(
            clinfra.url("admin", "/purge"), data=page.encode(), method="POST"
        )
        with urllib.request.urlopen(purge, timeout=20) as answer:
            assert answer.read() == b"1/1 pages purged\n"
        with urllib.request.urlopen(page, timeout=30) as answer:
            assert "hit" not in answer.headers["Cache-Status"]
        assert len(workers(clinfra, "image")) == 2
        assert clinfra.running.terminate() == 0
