"""Real origins for wire tests: child processes, certificates, and a DNS server."""

from __future__ import annotations

import datetime
import http.client
import ipaddress
import json
import socket
import struct
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support import ROOT, Child, ClinfraProcess


class OriginChild(Child):
    """An origin process; see `origin_process`.

    Args:
        directory: where its file "NAME.sick" may be.
    """

    def __init__(self, name: str, address: str, directory: Path, *pems: str) -> None:
        self.address = address
        super().__init__(
            [sys.executable, "-m", "tests.proxy.origin_process", name, address, *pems],
            cwd=directory,
            env={"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        )
        self.wait_for("listening")


def config_of(pool: dict[str, Any], **proxy: Any) -> dict[str, Any]:
    """Return a configuration with everything routed to one pool."""
    return {
        "proxy": {
            "pools": {"web": pool},
            "routes": [{"pool": "web", "prefix": "/"}],
            **proxy,
        },
        "admin": {},
    }


class Answer:
    """What a client got."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.fields = response.headers
        self.body = response.read()


def ask(
    clinfra: ClinfraProcess,
    path: str = "/",
    method: str = "GET",
    product: str = "proxy",
    body: bytes | None = None,
) -> Answer:
    """Send a request on a new connection.  Raises HTTPException when it is cut."""
    port = clinfra.ports[product]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body)
        return Answer(connection.getresponse())
    finally:
        connection.close()


def forwarder(clinfra: ClinfraProcess) -> Any:
    """Return what /status says of the origins."""
    status = json.loads(ask(clinfra, "/status", product="admin").body)
    return status["products"]["proxy"]["modules"]["Forwarder"]


def members(clinfra: ClinfraProcess) -> dict[str, Any]:
    """Return what it says of the members of the pool."""
    told: dict[str, Any] = forwarder(clinfra)["pools"]["web"]["members"]
    return told


class Authority:
    """A certificate authority; everything is in files of one directory."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        ca = x509.BasicConstraints(ca=True, path_length=None)
        self._certificate = self._sign(self._name, self._key.public_key(), [(ca, True)])
        self.file = str(directory / f"{name}.pem")
        Path(self.file).write_bytes(
            self._certificate.public_bytes(serialization.Encoding.PEM)
        )

    def pair(self, name: str) -> str:
        """Return the file of a new key and its certificate for a host or a client."""
        key = ec.generate_private_key(ec.SECP256R1())
        try:
            known: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            known = x509.DNSName(name)
        certificate = self._sign(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]),
            key.public_key(),
            [(x509.SubjectAlternativeName([known]), False)],
        )
        path = self._directory / f"{name}.pair.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        return str(path)

    def _sign(self, subject: x509.Name, key: Any, extensions: Any) -> x509.Certificate:
        today = datetime.datetime.now(datetime.UTC)
        day = datetime.timedelta(days=1)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(today - day)
            .not_valid_after(today + day)
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self._key, hashes.SHA256())


class NameServer:
    """A DNS server in a thread: answers questions for addresses from a table.

    Attributes:
        table: name → (TTL in seconds, addresses); others are NXDOMAIN.
        silent: it does not answer.
        asked: how many questions came.
    """

    def __init__(self, table: dict[str, tuple[int, list[str]]]) -> None:
        self.table = table
        self.silent = False
        self.asked = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            question, sender = self._socket.recvfrom(512)
            if question == b"stop":
                return
            self.asked += 1
            if not self.silent:
                self._socket.sendto(self._answer(question), sender)

    def _answer(self, question: bytes) -> bytes:
        labels, at = [], 12
        while question[at]:
            labels.append(question[at + 1 : at + 1 + question[at]].decode())
            at += question[at] + 1
        section = question[12 : at + 5]
        (kind,) = struct.unpack("!H", section[-4:-2])
        ttl, addresses = self.table.get(".".join(labels), (0, None))
        family = {1: socket.AF_INET, 28: socket.AF_INET6}[kind]
        found = [each for each in addresses or () if (":" in each) == (kind == 28)]
        flags = 0x8180 if addresses is not None else 0x8183
        head = question[:2] + struct.pack("!HHHHH", flags, 1, len(found), 0, 0)
        records = [
            b"\xc0\x0c"
            + struct.pack("!HHIH", kind, 1, ttl, 4 if kind == 1 else 16)
            + socket.inet_pton(family, each)
            for each in found
        ]
        return head + section + b"".join(records)

    def __enter__(self) -> NameServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stopper:
            stopper.sendto(b"stop", ("127.0.0.1", self.port))
        self._thread.join()
        self._socket.close()
