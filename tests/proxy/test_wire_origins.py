"""Origins as real processes: they die, hang, come back; TLS, UNIX sockets, DNS."""

from __future__ import annotations

import http.client
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.proxy.real_origins import (
    Authority,
    NameServer,
    OriginChild,
    ask,
    config_of,
    forwarder,
    members,
)
from tests.support import ClinfraProcess, lasting_ports, wait_until


def test_an_origin_dies_and_comes_back(tmp_path: Path) -> None:
    """Under load one of two is killed and started again: no client notices."""
    here, there = (f"127.0.0.1:{port}" for port in lasting_ports(2))
    pool = {"members": [here, there], "circuit_pause": 0.3}
    answers: Counter[tuple[int, bytes]] = Counter()
    over = threading.Event()

    def load(clinfra: ClinfraProcess) -> None:
        while not over.is_set():
            answer = ask(clinfra)
            answers[answer.status, answer.body] += 1

    with (
        OriginChild("one", here, tmp_path),
        OriginChild("two", there, tmp_path) as dying,
        ClinfraProcess(config_of(pool)) as clinfra,
        ThreadPoolExecutor(8) as threads,
    ):
        loads = [threads.submit(load, clinfra) for _ in range(8)]
        try:
            wait_until(lambda: answers[200, b"two"] > 50, "both answer")
            dying.kill()
            wait_until(
                lambda: members(clinfra)[there]["state"] == "open", "it is seen to fail"
            )
            seen = answers[200, b"one"]
            wait_until(lambda: answers[200, b"one"] > seen + 50, "one answers")
            with OriginChild("two", there, tmp_path):
                seen = answers[200, b"two"]
                wait_until(lambda: answers[200, b"two"] > seen + 50, "two is back")
                over.set()
                for each in loads:
                    each.result()
        finally:
            over.set()

    assert {status for status, _ in answers} == {200}, answers


def test_a_stopped_origin(tmp_path: Path) -> None:
    """One that takes connections and says nothing costs a few requests some time."""
    here, there = (f"127.0.0.1:{port}" for port in lasting_ports(2))
    pool = {
        "members": [here, there],
        "response_timeout": 0.3,
        "circuit_failures": 3,
        "circuit_pause": 1,
    }
    with (
        OriginChild("one", here, tmp_path),
        OriginChild("two", there, tmp_path) as stopped,
        ClinfraProcess(config_of(pool)) as clinfra,
    ):
        stopped.signal(signal.SIGSTOP)
        slow = 0
        for _ in range(60):
            began = time.monotonic()
            answer = ask(clinfra)
            assert (answer.status, answer.body) == (200, b"one")
            slow += time.monotonic() - began > 0.25
        assert slow <= 8, slow
        assert members(clinfra)[there]["state"] == "open"
        stopped.signal(signal.SIGCONT)
        wait_until(lambda: ask(clinfra).body == b"two", "it is back")


def test_hanging_at_every_point(tmp_path: Path) -> None:
    """Wherever an origin stops, its client hears in time, and nothing is mixed up."""
    (address,) = (f"127.0.0.1:{port}" for port in lasting_ports(1))
    pool = {
        "members": [address],
        "attempts": 1,
        "response_timeout": 0.4,
        "read_timeout": 0.4,
        "circuit_failures": 0,
    }
    with (
        OriginChild("one", address, tmp_path),
        ClinfraProcess(config_of(pool)) as clinfra,
    ):
        for path, body in (
            ("/hang", None),
            ("/head", None),
            ("/body", None),
            ("/chunk", None),
            ("/cut", None),
            ("/hang", b"x" * 100),
            ("/deaf", b"x" * 30_000_000),
        ):
            began = time.monotonic()
            method = "GET" if body is None else "POST"
            if path in ("/body", "/chunk", "/cut"):
                with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
                    ask(clinfra, path, method, body=body)
            else:
                try:
                    assert ask(clinfra, path, method, body=body).status == 504
                except ConnectionError:
                    assert path == "/deaf", "only a client that still sends may miss it"
            assert time.monotonic() - began < 15, path
            after = ask(clinfra, "/after")
            assert (after.status, after.body) == (200, b"one"), path
        wait_until(
            lambda: (
                forwarder(clinfra)["connections"]
                in ([{}], [{address: {"active": 0, "idle": 1, "waiting": 0}}])
            ),
            "no connection is left hanging",
        )


def test_a_connection_that_is_not_taken() -> None:
    """A machine that does not answer at all costs `connect_timeout`, then 504."""
    # A documentation network: nothing is there, and nothing says so.
    pool = {"members": ["192.0.2.1:80"], "connect_timeout": 0.3, "attempts": 1}
    with ClinfraProcess(config_of(pool)) as clinfra:
        began = time.monotonic()
        assert ask(clinfra).status in (503, 504)
        assert time.monotonic() - began < 3


def test_checks(tmp_path: Path) -> None:
    """A sick member gets no requests until it is well; a lone one always does."""
    here, there = (f"127.0.0.1:{port}" for port in lasting_ports(2))
    check = {"kind": "http", "path": "/check", "interval": 0.1, "timeout": 0.5}
    with (
        OriginChild("one", here, tmp_path),
        OriginChild("two", there, tmp_path),
    ):
        sick = tmp_path / "two.sick"
        sick.touch()
        pool = {"members": [here, there], "check": check}
        with ClinfraProcess(config_of(pool)) as clinfra:
            wait_until(
                lambda: members(clinfra)[there]["state"] == "down", "two is down"
            )
            assert members(clinfra)[there]["last_failure"] == (
                "the check was answered 500"
            )
            assert {ask(clinfra).body for _ in range(30)} == {b"one"}
            sick.unlink()
            wait_until(lambda: members(clinfra)[there]["state"] == "up", "two is up")
            assert {ask(clinfra).body for _ in range(40)} == {b"one", b"two"}
        sick.touch()
        alone = {"members": [there], "check": check}
        with ClinfraProcess(config_of(alone)) as clinfra:
            wait_until(
                lambda: members(clinfra)[there]["state"] == "down", "two is down"
            )
            assert {ask(clinfra).body for _ in range(20)} == {b"two"}


def test_connecting_is_a_check(tmp_path: Path) -> None:
    """kind = "tcp" finds out who listens; the backup stands in, and steps back."""
    here, there = (f"127.0.0.1:{port}" for port in lasting_ports(2))
    check = {"kind": "tcp", "interval": 0.1}
    pool = {"members": [here], "backups": [there], "check": check}
    with (
        OriginChild("spare", there, tmp_path),
        ClinfraProcess(config_of(pool)) as clinfra,
    ):
        wait_until(lambda: members(clinfra)[here]["state"] == "down", "it is down")
        assert {ask(clinfra).body for _ in range(20)} == {b"spare"}
        with OriginChild("first", here, tmp_path):
            wait_until(lambda: members(clinfra)[here]["state"] == "up", "it is up")
            assert {ask(clinfra).body for _ in range(20)} == {b"first"}


def test_a_unix_socket(tmp_path: Path) -> None:
    """An origin behind a UNIX socket, checked there as well."""
    path = str(tmp_path / "o.sock")
    check = {"kind": "http", "path": "/check", "interval": 0.1}
    pool = {"members": [f"unix:{path}"], "check": check}
    with (
        OriginChild("one", path, tmp_path),
        ClinfraProcess(config_of(pool)) as clinfra,
    ):
        assert ask(clinfra).body == b"one"
        assert ask(clinfra, method="POST", body=b"x" * 100_000).status == 200
        time.sleep(0.4)
        assert members(clinfra)[f"unix:{path}"]["state"] == "up"


def test_tls(tmp_path: Path) -> None:
    """Certificates are checked: who signed them, and for whom; ours is shown."""
    authority, stranger = Authority(tmp_path), Authority(tmp_path, "stranger")
    good, bad = (f"127.0.0.1:{port}" for port in lasting_ports(2))
    pair, other = authority.pair("127.0.0.1"), authority.pair("other.example")
    mine = authority.pair("a-proxy")
    base = {"tls": True, "circuit_failures": 0}
    check = {"kind": "http", "path": "/check", "interval": 0.1}
    with (
        OriginChild("good", good, tmp_path, pair, authority.file),
        OriginChild("bad", bad, tmp_path, other),
    ):
        shown = {"tls_ca_file": authority.file, "tls_certificate_file": mine}
        for pool, expected in (
            ({"members": [good], "check": check, **shown}, b"good"),
            ({"members": [good, bad], **shown}, b"good"),
            ({"members": [good], "tls_ca_file": authority.file}, None),
            ({"members": [bad], "tls_ca_file": authority.file}, None),
            (
                {
                    "members": [bad],
                    "tls_ca_file": authority.file,
                    "tls_name": "other.example",
                },
                b"bad",
            ),
            ({"members": [bad], "tls_ca_file": stranger.file}, None),
            ({"members": [bad]}, None),
            ({"members": [bad], "tls_verify": False}, b"bad"),
        ):
            with ClinfraProcess(config_of({**base, **pool})) as clinfra:
                for method in ("GET", "POST", "GET"):
                    answer = ask(clinfra, method=method, body=b"x" * 50_000)
                    if expected is None:
                        assert answer.status in (502, 503), pool
                    else:
                        assert (answer.status, answer.body) == (200, expected), pool
                if expected == b"good":
                    assert "a-proxy" in answer.fields["X-Client"]


def test_a_handshake_that_hangs(tmp_path: Path) -> None:
    """Time to connect includes the handshake; then another member is asked."""
    authority = Authority(tmp_path)
    good, silent = (f"127.0.0.1:{port}" for port in lasting_ports(2))
    pool = {
        "members": [good, silent],
        "tls": True,
        "tls_ca_file": authority.file,
        "connect_timeout": 0.3,
    }
    with (
        OriginChild("good", good, tmp_path, authority.pair("127.0.0.1")),
        # It waits for a request and gets a handshake.
        OriginChild("silent", silent, tmp_path),
        ClinfraProcess(config_of(pool)) as clinfra,
    ):
        for _ in range(20):
            # Also a POST: nothing of it was sent.
            answer = ask(clinfra, method="POST", body=b"x")
            assert (answer.status, answer.body) == (200, b"good")


def test_names_are_asked_again(tmp_path: Path) -> None:
    """An origin that moves is found as soon as DNS says so; DNS may even die."""
    (port,) = lasting_ports(1)
    pool = {"members": [f"origin.test:{port}"]}
    with (
        OriginChild("old", f"127.0.0.1:{port}", tmp_path),
        OriginChild("new", f"127.0.0.2:{port}", tmp_path),
        NameServer({"origin.test": (1, ["127.0.0.1"])}) as server,
        ClinfraProcess(
            config_of(pool, nameservers=[f"127.0.0.1:{server.port}"])
        ) as clinfra,
    ):
        assert ask(clinfra).body == b"old"
        server.table["origin.test"] = (1, ["127.0.0.1", "127.0.0.2"])
        wait_until(lambda: ask(clinfra).body == b"new", "both are asked")
        server.table["origin.test"] = (1, ["127.0.0.2"])
        wait_until(lambda: len(members(clinfra)) == 1, "the old one is forgotten")
        assert {ask(clinfra).body for _ in range(20)} == {b"new"}
        del server.table["origin.test"]
        wait_until(
            lambda: "failure" in forwarder(clinfra)["names"]["origin.test"],
            "DNS says there is no such name",
        )
        server.silent = True
        assert {ask(clinfra).body for _ in range(20)} == {b"new"}


def test_a_name_of_ipv6_only(tmp_path: Path) -> None:
    """Where there is no address of IPv4, those of IPv6 are asked; literally, too."""
    (port,) = lasting_ports(1)
    with (
        OriginChild("six", f"::1:{port}", tmp_path),
        NameServer({"six.test": (60, ["::1"])}) as server,
    ):
        for member in (f"six.test:{port}", f"[::1]:{port}"):
            pool = {"members": [member]}
            servers = [f"127.0.0.1:{server.port}"]
            with ClinfraProcess(config_of(pool, nameservers=servers)) as clinfra:
                assert {ask(clinfra).body for _ in range(5)} == {b"six"}


def test_a_name_that_is_none(tmp_path: Path) -> None:
    """Of two members one cannot be looked up: the other answers; alone it is 503."""
    (port,) = lasting_ports(1)
    with (
        OriginChild("one", f"127.0.0.1:{port}", tmp_path),
        NameServer({}) as server,
    ):
        for names, expected in (
            ([f"127.0.0.1:{port}", f"none.test:{port}"], 200),
            ([f"none.test:{port}"], 503),
        ):
            pool = {"members": names}
            with ClinfraProcess(
                config_of(pool, nameservers=[f"127.0.0.1:{server.port}"])
            ) as clinfra:
                assert {ask(clinfra).status for _ in range(20)} == {expected}


def test_localhost(tmp_path: Path) -> None:
    """The system's resolver does as well, hosts file and all."""
    (port,) = lasting_ports(1)
    pool = {"members": [f"localhost:{port}"]}
    with (
        OriginChild("one", f"127.0.0.1:{port}", tmp_path),
        ClinfraProcess(config_of(pool)) as clinfra,
    ):
        assert ask(clinfra).body == b"one"
        wait_until(
            lambda: list(members(clinfra)) == [f"localhost:{port} (127.0.0.1)"],
            "its address is known",
        )
        assert ask(clinfra).body == b"one"


def test_maintenance(tmp_path: Path) -> None:
    """A member is taken out by the admin side while others answer."""
    here, there = (f"127.0.0.1:{port}" for port in lasting_ports(2))
    with (
        OriginChild("one", here, tmp_path),
        OriginChild("two", there, tmp_path),
        ClinfraProcess(config_of({"members": [here, there]})) as clinfra,
    ):
        path = f"/maintenance/web/{there}"
        assert ask(clinfra, path, "PUT", "admin").status == 200
        assert {ask(clinfra).body for _ in range(20)} == {b"one"}
        assert ask(clinfra, "/maintenance", "PUT", "admin").status == 200
        assert ask(clinfra).status == 503
        ask(clinfra, "/maintenance", "DELETE", "admin")
        ask(clinfra, path, "DELETE", "admin")
        assert {ask(clinfra).body for _ in range(40)} == {b"one", b"two"}
