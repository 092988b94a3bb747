"""clinfra under twistd, as an operator starts and stops it."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.support import (
    ROOT,
    WITHOUT_PRIVILEGE,
    Child,
    ClinfraProcess,
    accepts,
    lasting_ports,
    toml,
    wait_until,
)

TWISTD = str(Path(sys.executable).with_name("twistd"))


def get(url: str) -> tuple[int, bytes]:
    """Return status and body."""
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def run(directory: Path, *arguments: str) -> tuple[int, str]:
    """Run `twistd -n clinfra` to its end; return status and output."""
    command = [TWISTD, "-n", "clinfra", *arguments]
    with Child(command, cwd=directory, env={"PYTHONUNBUFFERED": "1"}) as child:
        return child.wait(), child.output


def write(directory: Path, tables: dict[str, Any]) -> str:
    """Write a configuration file; return its path."""
    path = directory / "x.toml"
    path.write_text("".join(f"{k} = {toml(v)}\n" for k, v in tables.items()))
    return str(path)


def section(port: int) -> dict[str, Any]:
    return {"listen": [f"tcp:{port}:interface=127.0.0.1"]}


def test_everything_starts_and_says_where() -> None:
    """Each part answers where it said it would; status 0 at the end."""
    with ClinfraProcess() as clinfra:
        for name, port in clinfra.ports.items():
            assert f"{name:<6} http://127.0.0.1:{port}/\n" in clinfra.running.output
            assert accepts(port)
        assert "try    curl" in clinfra.running.output
        assert get(clinfra.url("admin", "/health/ready")) == (200, b"ready\n")
        status = json.loads(get(clinfra.url("admin", "/status"))[1])
        assert set(status["products"]) == {"blob", "image", "proxy"}
        assert get(clinfra.url("proxy"))[0] == 200

        assert clinfra.running.terminate() == 0
        assert "stopped" in clinfra.running.output
        assert "Traceback" not in clinfra.running.output


def test_defaults(tmp_path: Path) -> None:
    """Without a file everything is on, below the current directory."""
    sets = [
        f"{name}.listen={toml([f'tcp:0:interface=127.0.0.{number}'])}"
        for number, name in enumerate(("proxy", "blob", "image", "admin"), start=1)
    ]
    command = [TWISTD, "-n", "clinfra"]
    for each in sets:
        command += ["--set", each]
    with Child(command, cwd=tmp_path, env={"PYTHONUNBUFFERED": "1"}) as child:
        child.wait_for("clinfra is ready")
        assert f"data   {tmp_path}/clinfra-data" in child.output
        assert child.terminate() == 0
    assert not (tmp_path / "twistd.pid").exists()


def test_requests_in_flight_finish() -> None:
    """A slow upload is taken to its end after SIGTERM, while nobody else gets in."""
    with ClinfraProcess({"blob": {}, "admin": {}}) as clinfra:
        port = clinfra.ports["blob"]
        with socket.create_connection(("127.0.0.1", port), timeout=60) as slow:
            slow.sendall(b"PUT /slow HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n")
            slow.sendall(b"12345")
            # The second answer proves that the first connection was served, too.
            assert get(clinfra.url("blob", "/000_nothing"))[0] == 404
            clinfra.running.signal(signal.SIGTERM)
            wait_until(lambda: not accepts(port), "it stops listening")
            assert clinfra.running.process.poll() is None

            slow.sendall(b"67890")

            answer = slow.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"\r\nConnection: close\r\n" in answer
        assert clinfra.running.wait() == 0

        clinfra.restart()
        name = json.loads(answer.partition(b"\r\n\r\n")[2])["name"]
        assert get(clinfra.url("blob", f"/{name}")) == (200, b"1234567890")


def test_requests_in_flight_through_the_proxy_finish() -> None:
    """What the proxy is passing on is answered: blob outlives it."""
    with ClinfraProcess() as clinfra:
        port = clinfra.ports["proxy"]
        with socket.create_connection(("127.0.0.1", port), timeout=60) as slow:
            slow.sendall(
                b"PUT /blob/slow HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n12345"
            )
            assert get(clinfra.url("proxy"))[0] == 200
            clinfra.running.signal(signal.SIGTERM)
            wait_until(lambda: not accepts(port), "it stops listening")

            slow.sendall(b"67890")

            answer = slow.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        assert clinfra.running.wait() == 0
        assert "Traceback" not in clinfra.running.output


def test_requests_without_end_are_cut() -> None:
    """A client that never finishes does not hold the end for longer than it may."""
    with ClinfraProcess({"stop_timeout": 0.5, "blob": {}}) as clinfra:
        address = ("127.0.0.1", clinfra.ports["blob"])
        with socket.create_connection(address, timeout=60) as slow:
            slow.sendall(b"PUT /slow HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n")
            slow.sendall(b"12345")
            assert get(clinfra.url("blob", "/000_nothing"))[0] == 404

            assert clinfra.running.terminate(timeout_seconds=10) == 0


def test_busy_port(tmp_path: Path) -> None:
    """A port that is taken is named in one line; status 1."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        status, output = run(
            tmp_path, "--config", write(tmp_path, {"blob": section(port)})
        )

    assert status == 1
    assert output == (
        f"clinfra: cannot listen on tcp:{port}:interface=127.0.0.1: "
        "Address already in use\n"
    )
    assert not (tmp_path / "twistd.pid").exists()


@pytest.mark.parametrize("place", ["a-file/data", "/proc/data"])
def test_unwritable_data_directory(tmp_path: Path, place: str) -> None:
    """A data directory that cannot be made is named in one line; status 1."""
    (tmp_path / "a-file").touch()
    config = write(tmp_path, {"blob": section(0)})

    status, output = run(tmp_path, "--config", config, "--data-dir", place)

    assert status == 1
    assert output.startswith(
        f"clinfra: cannot use the data directory {tmp_path / place}"
    )
    assert output.count("\n") == 1


def test_read_only_data_directory(tmp_path: Path) -> None:
    """Nor is one that is there but cannot be written to (also by root)."""
    config = write(tmp_path, {"blob": section(0)})

    status, output = run(tmp_path, "--config", config, "--data-dir", "/proc/self")

    assert status == 1
    assert output.startswith("clinfra: ")
    assert "/proc/self" in output
    assert output.count("\n") == 1


def test_second_process_on_one_data_directory(tmp_path: Path) -> None:
    """Two processes cannot share a blob store; the second one says so."""
    with ClinfraProcess({"blob": {}}) as first:
        config = write(tmp_path, {"blob": section(0)})
        status, output = run(
            tmp_path, "--config", config, "--data-dir", str(first.data_dir)
        )

        assert status == 1
        assert output.startswith("clinfra: ")
        assert "used by another process" in output
        assert output.count("\n") == 1
        assert get(first.url("blob", "/000_nothing"))[0] == 404


def test_every_mistake_is_told(tmp_path: Path) -> None:
    """All that is wrong is listed at once, with file and key; status 1."""
    path = write(
        tmp_path,
        {
            "blob": {"listn": [], "ttl": "soon"},
            "image": {"formats": ["XBM"]},
            "proxy": {
                "listen": ["nonsense:1"],
                "modules": [{"use": "Forwarder"}],
                "routes": [{"match": "("}],
            },
        },
    )

    status, output = run(tmp_path, "--config", path, "--set", "admin.listen=[3]")

    assert status == 1
    for line in (
        f"{path}: blob.listn: there is no such key (did you mean listen?)",
        f"{path}: blob.ttl: ",
        f"{path}: image.formats: ",
        f"{path}: proxy.listen[0]: ",
        f"{path}: proxy.routes[0].match: ",
        "--set: admin.listen[0]: ",
    ):
        assert line in output, output
    assert "Traceback" not in output


def test_unreadable_places_are_told(tmp_path: Path) -> None:
    """What may not be read is never taken for empty: above all not rules."""
    places = [tmp_path / name for name in ("conf.d", "rules.d")]
    for place in places:
        place.mkdir(mode=0)
    config, rules = places
    file = write(tmp_path, {"proxy": {"rules_dir": str(rules)}})
    command = [*WITHOUT_PRIVILEGE, TWISTD, "-n", "clinfra", "--config"]

    for path, told in (
        (config, f"{config}"),
        (file, f"{file}: proxy.rules_dir: {rules}"),
    ):
        with Child([*command, str(path)], cwd=tmp_path) as child:
            assert child.wait() == 1
            assert f"{told}: Permission denied\n" in child.output


def test_bad_rule_modules_are_told(tmp_path: Path) -> None:
    """A rule module that is not there, or has bad options, is a start-up error."""
    path = write(
        tmp_path,
        {"proxy": {"modules": [{"use": "NoSuch"}, {"use": "Redirector", "odd": 1}]}},
    )

    status, output = run(tmp_path, "--config", path)

    assert status == 1
    assert f"{path}: proxy.modules[0]" in output
    assert f"{path}: proxy.modules[1]" in output
    assert "Traceback" not in output


def test_logging_to_a_file_as_json(tmp_path: Path) -> None:
    """[logging] chooses form and place; every line is JSON, one per request."""
    log = tmp_path / "clinfra.log"
    logging = {"format": "json", "file": str(log)}
    with ClinfraProcess({"blob": {}, "logging": logging}) as clinfra:
        for number in range(3):
            get(clinfra.url("blob", f"/000_{number}?token=hunter2"))
        assert clinfra.running.terminate() == 0

    records = [json.loads(line) for line in log.read_text().splitlines()]
    requests = [each for each in records if each["event"] == "request"]
    assert [(each["service"], each["status"]) for each in requests] == [
        ("blob", 404)
    ] * 3
    assert "hunter2" not in log.read_text()


def test_a_full_log_disk_does_not_stop_service() -> None:
    """Requests are answered although no log line can be written."""
    with ClinfraProcess({"blob": {}, "logging": {"file": "/dev/full"}}) as clinfra:
        for number in range(100):
            assert get(clinfra.url("blob", f"/000_{number}"))[0] == 404
        assert clinfra.running.terminate() == 0


def test_unix_socket(tmp_path: Path) -> None:
    """Endpoint strings are Twisted's: a UNIX socket works as well."""
    path = tmp_path / "admin.sock"
    config = write(tmp_path, {"admin": {"listen": [f"unix:{path}"]}})
    command = [TWISTD, "-n", "clinfra", "--config", config]
    with Child(command, cwd=tmp_path, env={"PYTHONUNBUFFERED": "1"}) as child:
        child.wait_for("clinfra is ready")
        assert f"admin  unix:{path}\n" in child.output
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            connection.sendall(
                b"GET /health/live HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
            )
            assert b"alive" in connection.makefile("rb").read()
        assert child.terminate() == 0


def test_as_a_daemon(tmp_path: Path) -> None:
    """twistd without -n: a pid file, a log file, and trouble told to the parent.

    A pid file that a killed daemon has left is no hindrance.
    """
    (port,) = lasting_ports(1)
    config = write(tmp_path, {"admin": section(port)})
    command = [TWISTD, "clinfra", "--config", config]
    pid_file = tmp_path / "twistd.pid"
    with Child(["true"]) as gone:
        gone.wait()
        pid_file.write_text(str(gone.pid))
    with Child(command, cwd=tmp_path) as parent:
        assert parent.wait() == 0
    pid = int(pid_file.read_text())
    try:
        wait_until(lambda: accepts(port), "the daemon listens")
        wait_until(
            lambda: "clinfra is ready" in (tmp_path / "twistd.log").read_text(),
            "the daemon says so in its log",
        )
        other = tmp_path / "other"
        other.mkdir()
        with Child(command, cwd=other) as second:
            assert second.wait() == 1
            assert "Address already in u" in second.output
        assert "Traceback" not in (other / "twistd.log").read_text()
    finally:
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not pid_file.exists(), "the daemon ends")


def test_command_line(tmp_path: Path) -> None:
    """`clinfra check` and `clinfra config` work, with their exit status."""
    command = str(Path(sys.executable).with_name("clinfra"))

    def clinfra(*arguments: str) -> tuple[int, str]:
        with Child([command, *arguments], cwd=tmp_path) as child:
            return child.wait(), child.output

    assert clinfra("check") == (0, "The configuration is good.\n")
    reference = str(ROOT / "etc" / "clinfra.toml")
    assert clinfra("check", "--config", reference)[0] == 0
    status, output = clinfra("check", "--set", "blob.ttl=x")
    assert (status, output.startswith("--set: blob.ttl: ")) == (1, True)
    assert clinfra("config") == (0, Path(reference).read_text())
    assert clinfra("nonsense")[0] == 2
    status, output = clinfra("blob", "rebuild-index", "--data-dir", "nowhere")
    assert (status, output.startswith("no blob store in nowhere")) == (1, True)


def test_the_index_is_rebuilt(tmp_path: Path) -> None:
    """`clinfra blob rebuild-index` works on a stopped store, and only then."""
    command = [str(Path(sys.executable).with_name("clinfra"))]
    with ClinfraProcess({"blob": {}}) as clinfra:
        command += ["blob", "rebuild-index", "--data-dir", str(clinfra.data_dir)]
        request = urllib.request.Request(
            clinfra.url("blob", "/a"), data=b"kept", method="PUT"
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            name = json.load(answer)["name"]
        with Child(command) as refused:
            assert refused.wait() == 1
            assert "used by another process" in refused.output
        assert clinfra.running.terminate() == 0
        with Child(command) as child:
            assert child.wait() == 0, child.output
            assert "1 records indexed" in child.output

        clinfra.restart()

        assert get(clinfra.url("blob", f"/{name}")) == (200, b"kept")
