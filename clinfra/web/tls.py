"""Outbound HTTPS for `pool`: connections that prove whom they lead to.

A connection counts as made when the handshake is over: what hangs or breaks in it is
trouble with connecting, under the same time-out, and no request has been sent yet.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from attrs import frozen
from OpenSSL import SSL, crypto
from twisted.internet.error import ConnectError, VerifyError
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.interfaces import (
    IConnector,
    IDelayedCall,
    IHandshakeListener,
    IOpenSSLClientConnectionCreator,
)
from twisted.internet.protocol import ClientFactory, Protocol, connectionDone
from twisted.internet.ssl import (
    Certificate,
    CertificateOptions,
    PrivateCertificate,
    optionsForClientTLS,
    trustRootFromCertificates,
)
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from clinfra.web.pool import Connect, Origin

_PROTOCOLS = [b"http/1.1"]


@frozen
class TlsSettings:
    """How origins prove who they are, and how we do; paths of PEM files.

    Attributes:
        verify: their certificates are checked.
        name: what to ask for and to find in the certificate; "" is the origin's own.
        ca_file: who may have signed it; "" are those that this machine trusts.
        certificate_file: ours, if any.
        key_file: its key; "" is in the same file.
    """

    verify: bool = True
    name: str = ""
    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""

    def trust(self) -> Any:
        """Return whom to trust; None for this machine's own.  Raises ValueError."""
        if not self.ca_file:
            return None
        blocks = _pem_blocks(self.ca_file)
        if not blocks:
            raise ValueError(f"{self.ca_file}: there is no certificate in it")
        try:
            return trustRootFromCertificates(
                Certificate.loadPEM(block.encode()) for block in blocks
            )
        except (crypto.Error, ValueError):
            raise ValueError(f"{self.ca_file}: a certificate is damaged") from None

    def own(self) -> PrivateCertificate | None:
        """Return the certificate that we show, with its key.  Raises ValueError."""
        if not self.certificate_file:
            return None
        paths = [self.certificate_file]
        if self.key_file:
            paths.append(self.key_file)
        pem = "\n".join(map(_read, paths)).encode()
        if b"ENCRYPTED" in pem:
            raise ValueError(f"{paths[-1]}: the key is encrypted")
        try:
            pair = PrivateCertificate.loadPEM(pem)
        except (crypto.Error, ValueError, TypeError, VerifyError):
            raise ValueError(
                f"{self.certificate_file}: no certificate with its key"
            ) from None
        return cast(PrivateCertificate, pair)

    def creator(self, name: str, trust: Any, own: PrivateCertificate | None) -> Any:
        """Return what makes connections to a name, for `trust` and `own` as above."""
        if self.verify:
            return optionsForClientTLS(name, trust, own, acceptableProtocols=_PROTOCOLS)
        if own is None:
            options = CertificateOptions(acceptableProtocols=_PROTOCOLS)
        else:
            options = own.options()
        return _Unverified(options.getContext(), name)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii")
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: this is not a PEM file") from None


def _pem_blocks(path: str) -> list[str]:
    end = "-----END CERTIFICATE-----"
    parts = _read(path).split(end)[:-1]
    return [part[part.find("-----BEGIN CERTIFICATE-----") :] + end for part in parts]


@implementer(IOpenSSLClientConnectionCreator)
class _Unverified:
    """Asks for a name, and takes whoever answers."""

    def __init__(self, context: SSL.Context, name: str) -> None:
        self._context = context
        self._name = name.encode("idna")

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        connection = SSL.Connection(self._context, None)
        connection.set_tlsext_host_name(self._name)
        return connection


def tls_connector(
    reactor: Any, trust: Any = None, settings: TlsSettings | None = None
) -> Connect:
    """Return how a `Pool` connects by TLS with a real reactor.

    The certificate must be for the origin's host and of an authority that this machine
    trusts (OpenSSL's own places; the environment's SSL_CERT_FILE), unless the settings
    say otherwise.

    Args:
        trust: trust these authorities instead (an `IOpenSSLTrustRoot`).

    Raises ValueError when a file of the settings cannot be used.
    """
    settings = settings or TlsSettings()
    trust = trust or settings.trust()
    own = settings.own()
    creators: dict[str, Any] = {}

    def connect(origin: Origin, factory: ClientFactory, timeout: float) -> IConnector:
        name = settings.name or origin.tls_name or origin.host
        creator = creators.get(name)
        if creator is None:
            # One context for all connections: sessions can be resumed.
            creator = creators[name] = settings.creator(name, trust, own)
        begun = _Handshakes(reactor, factory, timeout)
        wrapped = TLSMemoryBIOFactory(creator, True, begun)
        made = reactor.connectTCP(origin.host, origin.port, wrapped, timeout)
        return cast(IConnector, made)

    return connect


class _Handshakes(ClientFactory):
    """Tells the factory of a connection when its handshake is over, or has failed."""

    noisy = False

    def __init__(self, reactor: Any, factory: ClientFactory, timeout: float) -> None:
        self.factory = factory
        self.connector: IConnector | None = None
        self.timer: IDelayedCall = reactor.callLater(timeout, self._late)
        self.late = False
        self._line: _Handshake | None = None

    def startedConnecting(self, connector: IConnector) -> None:
        self.connector = connector
        self.factory.startedConnecting(connector)

    def buildProtocol(self, addr: object) -> Protocol:
        self._line = _Handshake(self, addr)
        return self._line

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        self.end()
        self.factory.clientConnectionFailed(connector, reason)

    def end(self) -> None:
        """It is decided."""
        if self.timer.active():
            self.timer.cancel()

    def _late(self) -> None:
        self.late = True
        if self._line is not None:
            self._line.transport.abortConnection()


@implementer(IHandshakeListener)
class _Handshake(Protocol):
    """The connection until then."""

    transport: Any

    def __init__(self, dial: _Handshakes, addr: object) -> None:
        self._dial = dial
        self._addr = addr

    def handshakeCompleted(self) -> None:
        self._dial.end()
        protocol = self._dial.factory.buildProtocol(self._addr)  # type: ignore[arg-type] # whatever the transport says
        assert protocol is not None
        # From here on the connection is the real protocol's.
        self.transport.wrappedProtocol = protocol
        protocol.makeConnection(self.transport)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._dial.end()
        if self._dial.late:
            reason = Failure(ConnectTimeout())
        elif not isinstance(reason.value, ConnectError):
            reason = Failure(ConnectError(string=_why(reason)))
        assert self._dial.connector is not None
        self._dial.factory.clientConnectionFailed(self._dial.connector, reason)


def _why(reason: Failure) -> str:
    return f"the TLS handshake failed: {reason.value!r}"
