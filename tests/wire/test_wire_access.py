"""Who can reach what, as it is when nobody has configured anything."""

from __future__ import annotations

import http.client
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ClinfraProcess

COMMANDS = ("_status", "_config", "_list", "_purge", "_sync", "_buffer", "_logstatus")


@pytest.fixture(scope="module")
def clinfra() -> Iterator[ClinfraProcess]:
    """Everything, on its defaults."""
    with ClinfraProcess() as running:
        yield running


def ask(port: int, method: str, target: str, **fields: str) -> tuple[int, str]:
    """Return status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        named = {name.replace("_", "-"): value for name, value in fields.items()}
        connection.request(method, target, headers=named)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("path", ["/blob/{}", "/blob//{}", "/blob/%5F{}", "/blob/{}/x"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_proxy_is_no_way_to_commands(
    clinfra: ClinfraProcess, method: str, path: str, command: str
) -> None:
    """Whoever may use the proxy may not see or set off what operators do."""
    target = path.format(command.removeprefix("_") if "%5F" in path else command)

    status, _ = ask(clinfra.ports["proxy"], method, target)

    assert status in (400, 403, 404, 405)


@pytest.mark.parametrize(
    "fields",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Origin": "http://evil.example", "Host": "evil.example"},
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("part, target", [("blob", "/_purge"), ("admin", "/purge")])
def test_a_page_elsewhere_sets_nothing_off(
    clinfra: ClinfraProcess,
    part: str,
    target: str,
    method: str,
    fields: dict[str, str],
) -> None:
    """A browser on this machine is no tool for other people's pages."""
    status, _ = ask(clinfra.ports[part], method, target, **fields)

    looks = (part, method) == ("admin", "GET") and "Host" not in fields
    assert status == (405 if looks else 403)


def test_a_name_made_to_point_here_sets_nothing_off(clinfra: ClinfraProcess) -> None:
    """Nor is one whose page is of the same origin, by a trick with DNS."""
    statuses = [
        ask(clinfra.ports["blob"], "GET", "/_purge", Host=host)[0]
        for host in ("evil.example", "127.0.0.1:8081", "localhost")
    ]

    assert statuses == [403, 200, 200]


def test_listening_here_alone(clinfra: ClinfraProcess) -> None:
    """Nothing listens but the four ports, and they only on the loopback."""
    inodes = set()
    for entry in Path(f"/proc/{clinfra.pid}/fd").iterdir():
        link = os.readlink(entry)
        if link.startswith("socket:["):
            inodes.add(link[8:-1])
    listening = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{clinfra.pid}/net/{table}").read_text().splitlines():
            words = line.split()
            if words[3] == "0A" and words[9] in inodes:
                address, port = words[1].split(":")
                listening.add((address, int(port, 16)))

    assert listening == {("0100007F", port) for port in clinfra.ports.values()}


def test_secrets_are_not_written_down() -> None:
    """Neither the log nor the status shows what was sent to prove who one is."""
    with ClinfraProcess() as clinfra:
        for part in ("proxy", "blob", "image"):
            ask(
                clinfra.ports[part],
                "GET",
                "/blob/000_x?token=hunter2&signature=hunter2",
                Authorization="Bearer hunter2",
                Cookie="session=hunter2",
            )
        _, status = ask(clinfra.ports["admin"], "GET", "/status")
        assert clinfra.running.terminate() == 0

        assert "hunter2" not in status
        assert "token=***" in clinfra.running.output
        assert "hunter2" not in clinfra.running.output
