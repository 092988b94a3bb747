"""The manual's front, configured and asked as it is printed there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.support import ROOT, Child, lasting_ports, memcached

_PAGE = (ROOT / "docs" / "front.rst").read_text(encoding="utf-8")
_SECTION = _PAGE.split("\nThe cache\n---------\n", 1)[0]
_CHANGING = re.compile(r"ttl=\d+|127\.0\.0\.1:\d+(?:=0\.5)?")


class _Origin(BaseHTTPRequestHandler):
    """Says which pool it is of, and what it was asked for."""

    protocol_version = "HTTP/1.1"
    pool = "web"

    def do_GET(self) -> None:
        body = f"{self.pool}: {self.path}\n".encode()
        self.send_response(200)
        lifetime = "no-store" if self.pool == "api" else "max-age=60"
        self.send_header("Cache-Control", lifetime)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *words: object) -> None:
        pass


class _API(_Origin):
    pool = "api"


@contextmanager
def _served(handler: type[_Origin]) -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def _blocks(mark: str) -> list[str]:
    """Return the indented blocks that come after a mark."""
    found = re.findall(re.escape(mark) + r"\n\n((?:    .*\n|\n)+)", _SECTION)
    return [textwrap.dedent(block).strip() + "\n" for block in found]


def test_the_manuals_front(tmp_path: Path) -> None:
    """Every command prints what the page says, but for ports and seconds."""
    (configuration,) = _blocks(".. code-block:: toml")
    sessions = _blocks("::")
    assert len(sessions) == 2
    (tmp_path / "rules.d").mkdir()
    sample = ROOT / "etc" / "rules.d" / "example.py.sample"
    shutil.copy(sample, tmp_path / "rules.d" / "teapot.py")
    programs = Path(sys.executable).parent
    with ExitStack() as stack:
        proxy, admin = lasting_ports(2)
        ports = {
            8001: stack.enter_context(_served(_Origin)),
            8002: stack.enter_context(_served(_Origin)),
            8003: stack.enter_context(_served(_API)),
            11211: stack.enter_context(memcached()).port,
            11212: stack.enter_context(memcached()).port,
            8080: proxy,
            8090: admin,
        }

        def local(text: str) -> str:
            """Return text with the ports there are here."""
            numbers = "|".join(map(str, ports))
            return re.sub(rf":({numbers})\b", lambda m: f":{ports[int(m[1])]}", text)

        configuration = configuration.replace(
            "[proxy]\n", f'[proxy]\nlisten = ["tcp:{proxy}:interface=127.0.0.1"]\n', 1
        ).replace(
            "[admin]\n",
            f'[admin]\nlisten = ["tcp:{admin}:interface=127.0.0.1"]\n',
        )
        (tmp_path / "front.toml").write_text(local(configuration))
        command = [
            *(str(programs / "twistd"), "-n", "--pidfile=", "clinfra"),
            *("--config", "front.toml", "--data-dir", "data"),
        ]
        child = stack.enter_context(Child(command, cwd=tmp_path))
        child.wait_for("clinfra is ready")
        for session in sessions:
            typed = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", session, re.MULTILINE)
            assert typed, session
            for line, printed in typed:
                done = subprocess.run(
                    ["bash", "-e", "-o", "pipefail", "-c", local(line)],
                    cwd=tmp_path,
                    env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"},
                    capture_output=True,
                    text=True,
                    timeout=60,
                    check=False,
                )
                shown = done.stdout.replace("\r", "")
                assert _CHANGING.sub("…", shown) == _CHANGING.sub("…", printed), (
                    f"{line} printed {shown}{done.stderr}"
                )
