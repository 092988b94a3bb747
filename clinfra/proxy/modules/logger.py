"""Logger: one datagram per request, in the original's two formats.

* UDP (or multicast) to `log_host_ip`:`log_host_port`: version 4, values joined by
  newlines; see `udp_datagram`.
* UNIX datagrams to `domain_sock`: tab-separated `k:value`; see `unix_datagram`.

Datagrams are sent without waiting; what cannot be sent is dropped.  The access log of
the process is `logs`, and needs no module.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from ipaddress import ip_address

from attrs import define, field, frozen

from clinfra.config import key
from clinfra.proxy.message import Request
from clinfra.proxy.rules import RuleModule, Surroundings

MAX_UDP_BYTES = 1472
_CUT = b"%BORK%"
_RECONNECT_SECONDS = 2.0
_TRIES = 3
_MULTICAST_TTL = 2
_SHORTEST_PIECE = 3


@frozen
class Options:
    """Options of Logger."""

    log_host_ip: str = key("", "Address to send UDP datagrams to; empty for none.")
    log_host_port: int = key(25678, "Port to send them to.", most=65535)
    domain_sock: str = key("", "UNIX datagram socket to send to; empty for none.")
    node: str = key("127.0.0.1", "Address of this machine, as the logs show it.")
    session_cookie: str = key("", "Name of the cookie logged as the session.")
    format_cookie: str = key("", "Name of the cookie logged as the format.")


@frozen
class Line:
    """What is logged of a request; empty texts are not known."""

    timestamp: float
    node: str
    port: int
    client_ip: str
    method: str
    host: str
    protocol: str
    status: int
    bytes_out: int
    served_by: str
    origin_host: str
    origin_port: str
    request_seconds: float
    forward_seconds: float
    wants_gzip: bool
    x_forwarded_for: str
    throttled: str
    session_cookie: str
    format_cookie: str
    uri: str
    user_agent: str
    referer: str


def udp_datagram(line: Line) -> bytes:
    """Return the 30 values of format version 4, the version first."""
    values = (
        "4",
        int(line.timestamp),
        line.node,
        line.client_ip,
        line.method,
        line.host,
        line.port,
        line.protocol,
        line.status,
        line.bytes_out,
        line.served_by,
        line.origin_host,
        line.origin_port,
        "",  # forward_host_confidence
        "",  # forward_retry_num
        f"{line.request_seconds:.6f}",
        f"{max(0.0, line.request_seconds - line.forward_seconds):.6f}",
        0,  # timer_response
        0,  # timer_forward_connect
        f"{line.forward_seconds:.6f}" if line.forward_seconds else 0,
        0,  # timer_cache_fetch
        0,  # timer_send
        int(line.wants_gzip),
        line.x_forwarded_for,
        line.throttled,
        "",  # throttle_header
        line.session_cookie,
        line.format_cookie,
        line.uri,
        line.user_agent,
        line.referer,
    )
    texts = [str(value).replace("\n", " ") or "-" for value in values]
    raw = "\n".join(texts).encode("latin-1", "replace")
    if len(raw) > MAX_UDP_BYTES:
        raw = raw[: MAX_UDP_BYTES - len(_CUT)] + _CUT
    return raw


def unix_datagram(line: Line, max_bytes: int) -> bytes:
    """Return the tab-separated line, cut to `max_bytes` from its end."""
    origin = f":{line.origin_host}:{line.origin_port}" if line.origin_host else ""
    pairs = (
        ("t", f"{line.timestamp:.0f}"),
        ("n", f"{line.node}:{line.port}"),
        ("i", line.client_ip),
        ("o", line.served_by + origin),
        ("s", str(line.status)),
        ("b", str(line.bytes_out)),
        ("c", line.session_cookie),
        ("m", line.method),
        ("h", line.host),
        ("p", line.uri),
        ("u", line.user_agent),
        ("r", line.referer),
    )
    end = b"\t\n"
    pieces: list[bytes] = []
    left = max_bytes - len(b"\tx:0") - len(end)
    cut = 0
    for name, value in pairs:
        if not value:
            continue
        text = value.replace("\t", " ").replace("\n", " ")
        piece = f"\t{name}:{text}".encode("latin-1", "replace")
        if len(piece) > left:
            cut = 1
            shortest = len(f"\t{name}:") + _SHORTEST_PIECE
            if left >= shortest:
                pieces.append(piece[:left])
            break
        pieces.append(piece)
        left -= len(piece)
    return b"".join((b"\tx:%d" % cut, *pieces, end))


@define(eq=False)
class UdpTarget:
    """Sends datagrams to an address."""

    address: tuple[str, int]
    _socket: socket.socket | None = field(default=None, init=False)

    def send(self, line: Line) -> None:
        """Send one; drop it when that would block."""
        try:
            if self._socket is None:
                ip = ip_address(self.address[0])
                family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
                self._socket = socket.socket(family, socket.SOCK_DGRAM)
                self._socket.setblocking(False)
                if ip.version == 4 and ip.is_multicast:
                    self._socket.setsockopt(
                        socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, _MULTICAST_TTL
                    )
            self._socket.sendto(udp_datagram(line), self.address)
        except OSError:
            pass  # a log line is not worth more

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()


@define(eq=False)
class UnixTarget:
    """Sends datagrams to a UNIX socket; connects again at most every two seconds."""

    path: str
    now: Callable[[], float]
    _socket: socket.socket | None = field(default=None, init=False)
    _tried_at: float = field(default=-_RECONNECT_SECONDS, init=False)

    def send(self, line: Line) -> None:
        """Send one; drop it after three tries."""
        for _ in range(_TRIES):
            if self._socket is None and not self._connect():
                return
            assert self._socket is not None
            try:
                size = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
                self._socket.send(unix_datagram(line, size))
                return
            except BlockingIOError:
                return
            except OSError:
                self.close()

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connect(self) -> bool:
        now = self.now()
        if now - self._tried_at < _RECONNECT_SECONDS:
            return False
        self._tried_at = now
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        made.setblocking(False)
        try:
            made.connect(self.path)
        except OSError:
            made.close()
            return False
        self._socket = made
        return True


class Logger(RuleModule):
    """Sends a datagram per request; does nothing without a target."""

    Config = Options
    head_only = True

    def __init__(self, config: Options) -> None:
        self._config = config
        self._targets: list[UdpTarget | UnixTarget] = []
        if not (config.log_host_ip or config.domain_sock):
            # A hook that does nothing would still keep hits from the fast lane.
            self.done = None  # type: ignore[method-assign,assignment]  # see above

    def attach(self, surroundings: Surroundings) -> None:
        """Make the targets."""
        config = self._config
        self._now = surroundings.reactor.seconds
        if config.log_host_ip:
            self._targets.append(UdpTarget((config.log_host_ip, config.log_host_port)))
        if config.domain_sock:
            self._targets.append(UnixTarget(config.domain_sock, self._now))

    def stop(self) -> None:
        """Close the sockets."""
        for target in self._targets:
            target.close()

    def done(self, request: Request) -> None:
        """Send a datagram to each target, if there was an answer."""
        if request.exchange.status:
            line = self._line(request)
            for target in self._targets:
                target.send(line)

    def _line(self, request: Request) -> Line:
        exchange = request.exchange
        now = self._now()
        host, _, port = request.origin.rpartition(":")
        config = self._config

        def text(name: bytes) -> str:
            return (request.head.get(name) or b"").decode("latin-1")

        return Line(
            now,
            config.node,
            exchange.local_port,
            request.client_ip,
            request.method.decode("latin-1"),
            request.host,
            "HTTP/1.1" if request.head.http11 else "HTTP/1.0",
            exchange.status,
            exchange.bytes_out,
            request.reply.served_by if request.reply is not None else "",
            host,
            port if host else "",
            now - exchange.started_at,
            now - request.asked_at if request.asked_at else 0.0,
            b"gzip" in (request.head.get(b"accept-encoding") or b""),
            text(b"x-forwarded-for"),
            str(exchange.notes.get("throttled", "")),
            request.cookies.get(config.session_cookie, ""),
            request.cookies.get(config.format_cookie, ""),
            request.target,
            text(b"user-agent"),
            text(b"referer"),
        )
