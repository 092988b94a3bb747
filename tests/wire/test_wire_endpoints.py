"""Where clinfra can be told to listen, each kind for real."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support import WITHOUT_PRIVILEGE, Child, ClinfraProcess

TWISTD = str(Path(sys.executable).with_name("twistd"))
GET = b"GET /health/live HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
AS_SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Sets up what systemd hands over: the first socket is descriptor 3."""


def ask(connection: socket.socket) -> bytes:
    """Return what /health/live answers on a connection."""
    connection.settimeout(10)
    connection.sendall(GET)
    with connection.makefile("rb") as answer:
        return answer.read()


def admin(*endpoints: str, **more: Any) -> ClinfraProcess:
    """Return clinfra with an admin listener, not started yet."""
    section = {"listen": list(endpoints), "allow_remote": True}
    return ClinfraProcess({"admin": section, **more})


def address(child: Child) -> str:
    """Return what it said of where the admin pages are."""
    return child.output.split("admin  ", 1)[1].split("\n", 1)[0]


def test_ipv6() -> None:
    """The address is told as a URL, in brackets."""
    with admin(r"tcp:0:interface=\:\:1") as clinfra:
        url = address(clinfra.running)
        assert url.startswith("http://[::1]:")
        port = int(url.rstrip("/").rpartition(":")[2])
        with socket.create_connection(("::1", port), 10) as connection:
            assert ask(connection).endswith(b"alive\n")
        assert clinfra.running.terminate() == 0


def test_the_proxy_reaches_a_blob_store_on_ipv6() -> None:
    """A listener of any address family is an origin of the proxy."""
    blob = {"listen": [r"tcp6:0:interface=\:\:1"]}
    with (
        ClinfraProcess({"blob": blob, "proxy": {}}) as clinfra,
        pytest.raises(urllib.error.HTTPError, match="404"),
    ):
        urllib.request.urlopen(clinfra.url("proxy", "/blob/000_a"), timeout=60)


def make_certificate() -> tuple[str, str]:
    """Return a key and a certificate of its own for localhost, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private.decode(), certificate.public_bytes(pem).decode()


@pytest.mark.parametrize(
    "endpoint",
    [
        "ssl:0:interface=127.0.0.1:privateKey={pem}",
        r"tls:{pem.parent}:port=0:interface=\:\:1",
    ],
)
def test_tls(tmp_path: Path, endpoint: str) -> None:
    """HTTPS, with one certificate or a directory of them."""
    key, certificate = make_certificate()
    pem = tmp_path / "localhost.pem"
    pem.write_text(key + certificate)
    context = ssl.create_default_context(cadata=certificate)

    with admin(endpoint.format(pem=pem)) as clinfra:
        url = urlsplit(address(clinfra.running))
        assert url.scheme == "https"
        with (
            socket.create_connection((url.hostname, url.port), 10) as raw,
            context.wrap_socket(raw, server_hostname="localhost") as connection,
        ):
            assert ask(connection).endswith(b"alive\n")
        assert clinfra.running.terminate() == 0


@pytest.mark.parametrize("systemd", [False, True])
def test_open_to_all(systemd: bool) -> None:
    """The admin pages are not open to other machines by chance, however bound."""
    with socket.create_server(("0.0.0.0", 0)) as passed:
        endpoint = "systemd:domain=INET:name=admin" if systemd else "tcp:0"
        clinfra = ClinfraProcess({"admin": {"listen": [endpoint]}})
        descriptor = str(passed.fileno())
        ended = subprocess.run(
            [sys.executable, "-c", AS_SYSTEMD, descriptor, *clinfra.command],
            env={**os.environ, "LISTEN_FDS": "1", "LISTEN_FDNAMES": "admin"},
            pass_fds=[passed.fileno()],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        clinfra.close()
    assert ended.returncode == 1
    said = ended.stdout + ended.stderr
    assert "can be reached from other machines: set admin.token" in said
    assert "Traceback" not in said


def test_a_socket_of_systemd() -> None:
    """A socket passed by number and name (LISTEN_FDS) is listened on."""
    with (
        socket.create_server(("127.0.0.1", 0)) as passed,
        socket.create_connection(passed.getsockname(), 10) as early,
    ):
        clinfra = admin("systemd:domain=INET:name=admin")
        descriptor = str(passed.fileno())
        command = [sys.executable, "-c", AS_SYSTEMD, descriptor, *clinfra.command]
        names = {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "admin", "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(
            command,
            env={**os.environ, **names},
            pass_fds=[passed.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            # Whoever came before us is served as well.
            assert ask(early).endswith(b"alive\n")
            process.terminate()
            assert process.wait(20) == 0
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            clinfra.close()


def test_a_stale_unix_socket() -> None:
    """What a killed process left in the file system is no hindrance."""
    with ClinfraProcess({"admin": {"listen": ["unix:admin.sock"]}}) as clinfra:
        path = clinfra.directory / "admin.sock"
        clinfra.running.kill()
        assert path.is_socket()

        clinfra.restart()

        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            assert ask(connection).endswith(b"alive\n")


@pytest.mark.parametrize(
    "endpoint, sentence",
    [
        ("stdio:", "stdio: is not a place to listen at"),
        (
            "systemd:domain=INET:name=x",
            "cannot listen on systemd:domain=INET:name=x: "
            "systemd passed no such socket",
        ),
        (
            "unix:/nonexistent/s",
            "cannot listen on unix:/nonexistent/s: No such file or directory",
        ),
        (
            "tcp:0:interface=192.0.2.1",
            "cannot listen on tcp:0:interface=192.0.2.1: "
            "Cannot assign requested address",
        ),
    ],
)
def test_nowhere_to_listen(endpoint: str, sentence: str) -> None:
    """What cannot be listened on is told in one line; status 1."""
    clinfra = admin(endpoint)
    try:
        child = clinfra.start(wait=False)

        assert child.wait() == 1
        assert child.output == f"clinfra: {sentence}\n"
    finally:
        clinfra.close()


def test_a_port_that_needs_privilege() -> None:
    """Without the right to a low port, one line says so; status 1."""
    clinfra = admin("tcp:1:interface=127.0.0.1")
    try:
        clinfra.command[:0] = WITHOUT_PRIVILEGE
        child = clinfra.start(wait=False)

        assert child.wait() == 1
        assert child.output == (
            "clinfra: cannot listen on tcp:1:interface=127.0.0.1: Permission denied\n"
        )
    finally:
        clinfra.close()
