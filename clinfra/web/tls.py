"""Outbound HTTPS for `pool`: connections that prove whom they lead to."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.interfaces import IConnector
from twisted.internet.protocol import ClientFactory
from twisted.internet.ssl import optionsForClientTLS
from twisted.protocols.tls import TLSMemoryBIOFactory

from clinfra.web.pool import Connect, Origin


def tls_connector(reactor: Any, trust: Any = None) -> Connect:
    """Return how a `Pool` connects by TLS with a real reactor.

    The certificate must be for the origin's host and of an authority that this machine
    trusts (OpenSSL's own places; the environment's SSL_CERT_FILE).

    Args:
        trust: trust these authorities instead (an `IOpenSSLTrustRoot`).
    """

    def connect(origin: Origin, factory: ClientFactory, timeout: float) -> IConnector:
        options = optionsForClientTLS(
            origin.host, trustRoot=trust, acceptableProtocols=[b"http/1.1"]
        )
        wrapped = TLSMemoryBIOFactory(options, True, factory)
        made = reactor.connectTCP(origin.host, origin.port, wrapped, timeout)
        return cast(IConnector, made)

    return connect
