"""An origin as a process of its own, for tests: it answers, hangs and dies as asked.

    python -m tests.proxy.origin_process NAME ADDRESS [PEM [CA]]

ADDRESS is "host:port" or a path.  With PEM it speaks TLS; with CA it wants certificates
of clients.  What a path gets:

    /hang              nothing, ever
    /head /body /chunk half a head, half a body, half a chunk, then nothing
    /cut               half a body, then the end
    /deaf              as /hang, and the request's body is not read
    /check             200 while there is no file "NAME.sick" in its directory, else 500
    anything else      200 and its NAME, with what it knows of the request in fields
"""

from __future__ import annotations

import socket
import ssl
import sys
import threading
import time
from pathlib import Path
from typing import Any

HALVES = {
    "/head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "/body": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
    "/chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nhalf",
    "/cut": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
}


def answer(name: str, sock: Any, number: int) -> None:
    """Answer the requests of one connection."""
    received = b""
    asked = 0
    while True:
        while b"\r\n\r\n" not in received:
            data = sock.recv(65536)
            if not data:
                return
            received += data
        head, _, received = received.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        path = lines[0].split(" ")[1].partition("?")[0]
        fields = dict(line.lower().split(": ", 1) for line in lines[1:])
        asked += 1
        if path in ("/hang", "/deaf"):
            time.sleep(600)
        left = int(fields.get("content-length", 0)) - len(received)
        while left > 0:
            left -= len(sock.recv(min(left, 65536)))
        received = b""
        if path in HALVES:
            sock.sendall(HALVES[path])
            if path == "/cut":
                return
            time.sleep(600)
        status = "200 OK"
        if path == "/check" and Path(f"{name}.sick").exists():
            status = "500 Internal Server Error"
        shown = ""
        if isinstance(sock, ssl.SSLSocket):
            shown = f"X-Client: {(sock.getpeercert() or {}).get('subject')}\r\n"
        sock.sendall(
            f"HTTP/1.1 {status}\r\nContent-Length: {len(name)}\r\n{shown}"
            f"X-Connection: {number}.{asked}\r\nX-Host: {fields['host']}\r\n\r\n"
            f"{name}".encode()
        )


def serve(name: str, sock: Any, number: int, context: ssl.SSLContext | None) -> None:
    """Serve one connection."""
    try:
        if context is not None:
            sock = context.wrap_socket(sock, server_side=True)
        answer(name, sock, number)
    except OSError:
        pass
    finally:
        sock.close()


def main(name: str, address: str, pem: str = "", ca: str = "") -> None:
    """Run it."""
    context = None
    if pem:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        if ca:
            context.load_verify_locations(ca)
            context.verify_mode = ssl.CERT_REQUIRED
    if address.startswith("/"):
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(address)
    else:
        host, _, port = address.rpartition(":")
        listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, int(port)))
    listening.listen(128)
    print("listening", flush=True)
    number = 0
    while True:
        sock, _ = listening.accept()
        number += 1
        threading.Thread(
            target=serve, args=(name, sock, number, context), daemon=True
        ).start()


if __name__ == "__main__":
    main(*sys.argv[1:])
