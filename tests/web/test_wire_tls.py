"""TLS, which has neither eager writes nor sendfile: the same answers."""

from __future__ import annotations

import datetime
import ssl
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPSConnection
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.web.wire_server import BIG


def make_certificate(path: Path) -> None:
    """Write a key and a certificate for localhost."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    today = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )


@pytest.fixture
def client(tmp_path: Path) -> Iterator[HTTPSConnection]:
    """Run a TLS server, and give a client that trusts it."""
    pem = tmp_path / "pair.pem"
    make_certificate(pem)
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(BIG)
    context = ssl.create_default_context(cafile=str(pem))
    context.set_alpn_protocols(["h2", "http/1.1"])
    with subprocess.Popen(
        [sys.executable, "-m", "tests.web.wire_server", str(big), "tls", str(pem)],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        connection = HTTPSConnection("localhost", port, context=context, timeout=20)
        try:
            yield connection
        finally:
            connection.close()
            process.kill()


def test_answers(client: HTTPSConnection) -> None:
    """Small, large, uploaded and from a file, all on one connection."""
    for _ in range(3):
        client.request("GET", "/")
        assert client.getresponse().read() == b"small"
    client.request("GET", "/who")
    assert client.getresponse().read() == b"127.0.0.1 %d True" % client.port
    client.request("GET", "/at-once")
    assert len(client.getresponse().read()) == 8 << 20
    client.request("PUT", "/", body=bytes(3_000_000))
    assert client.getresponse().read() == b"3000000"
    client.request("GET", "/big")
    response = client.getresponse()
    for _ in range(100):
        assert len(response.read(1 << 17)) == 1 << 17


def test_refused(client: HTTPSConnection) -> None:
    """A refusal closes the connection properly."""
    client.request("PUT", "/refuse", body=bytes(100_000))
    response = client.getresponse()
    assert (response.status, response.read()) == (403, b"Not here.\n")
    assert response.getheader("Connection") == "close"
