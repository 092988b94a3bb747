"""Hostile names in the console: whatever is called what, it stays text."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from urllib.parse import quote

import pytest
from selenium import webdriver

from tests.browser import chromium, complaints
from tests.console_page import Page
from tests.support import ClinfraProcess

ATTACKS = (
    "<script>hurt()</script>",
    "</title></textarea><img src=x onerror=hurt()>",
    "\"' onmouseover=hurt() autofocus onfocus=hurt() x='\"",
    "<svg/onload=hurt()>&lt;b&gt;{{7*7}}${7*7}`",
    "javascript:hurt()//",
    "\u202egnp.exe\u2066\u200b\x07\x00\ufeff",
    "<b>" + "\U0001f4a9" * 40,
)
"""Names that would be markup, run something, or hide what stands beside them."""

SPELLED_OUT = r"\u{202e}gnp.exe\u{2066}\u{200b}\u{7}"
LONG = "x" * 3000
HURT = "window.hurt = () => { window.hurts = (window.hurts ?? 0) + 1; };"

_FOUND = """
const bad = 'main script, main img, main iframe, main b:not(.legend b),'
  + ' main svg:not(.plot svg), [onerror], [onload], [onfocus], [onmouseover],'
  + ' a[href^=javascript]';
return [window.hurts ?? 0, document.title,
  [...document.querySelectorAll(bad)].map(each => each.outerHTML),
  document.documentElement.scrollWidth - innerWidth];
"""


class Hostile(BaseHTTPRequestHandler):
    """An origin whose answers have attacks in their fields; some never come."""

    protocol_version = "HTTP/1.1"
    over = Event()

    def do_GET(self) -> None:
        """Answer, or let the client wait."""
        if self.path.startswith("/hang"):
            self.over.wait(60)
        self.send_response(200)
        self.send_header("Content-Type", f"text/html; x={ATTACKS[1]}\x85\x9f")
        self.send_header("Cache-Control", "max-age=600")
        self.send_header("Surrogate-Key", ATTACKS[0])
        self.send_header("X-Attack", ATTACKS[2])
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def origin() -> Iterator[int]:
    """The port of a hostile origin."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hostile)
    server.daemon_threads = True
    Hostile.over.clear()
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.server_port
    finally:
        Hostile.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    """A page that notices when it is hurt."""
    with chromium(tmp_path / "profile") as browser:
        script = {"source": HURT}
        browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", script)
        yield Page(browser)
        assert complaints(browser) == []


@pytest.fixture
def clinfra(origin: int, tmp_path: Path) -> Iterator[ClinfraProcess]:
    """A proxy whose pools and rules have hostile names."""
    rules = tmp_path / "rules"
    rules.mkdir()
    (rules / "late.py").write_text("# nothing yet\n")
    redirects = [{"paths": [f"/r/{each}"], "redirect": "/x"} for each in ATTACKS]
    blocks = [{"name": each, "paths": ["/blocked"]} for each in (*ATTACKS, LONG)]
    proxy = {
        "rules_dir": str(rules),
        "modules": [
            {"use": "Redirector", "rules": redirects},
            {"use": "Blocker", "rules": blocks},
            {"use": "DirectCache"},
            {"use": "Forwarder"},
        ],
        "pools": {ATTACKS[1]: {"members": [f"127.0.0.1:{origin}"]}},
        "routes": [{"prefix": "/o/", "pool": ATTACKS[1], "strip_prefix": True}],
    }
    with ClinfraProcess({"blob": {}, "proxy": proxy, "admin": {}}) as running:
        yield running


def address(attack: str) -> str:
    """Return a name as it can be in a URL, as little of it quoted as may be."""
    return quote(attack, safe="<>()/='{}$*:;&`").replace("//", "/")


def assert_unhurt(browser: webdriver.Chrome) -> None:
    """Nothing ran, nothing became an element, nothing is wider than the window."""
    hurts, title, elements, excess = browser.execute_script(_FOUND)
    assert (hurts, title, elements) == (0, "clinfra console", [])
    assert excess <= 0


@pytest.mark.parametrize("width", [1200, 360])
def test_proxy(page: Page, clinfra: ClinfraProcess, tmp_path: Path, width: int) -> None:
    """Pools, rules, requests under way, pages in the cache, explanations, problems."""
    page.look(width, 800)
    hanging = []
    try:
        for attack in (*ATTACKS, LONG):
            asked = socket.create_connection(("127.0.0.1", clinfra.ports["proxy"]))
            hanging.append(asked)
            line = f"GET /o/hang/{address(attack)} HTTP/1.1"
            asked.sendall(f"{line}\r\nHost: a.example\r\n\r\n".encode())
        page.open(clinfra.url("admin", "/#proxy"))
        page.wait("8 requests", "#proxy")
        page.wait(address(ATTACKS[0]), "table.active")
        page.wait(ATTACKS[1], "#proxy .stack")
        page.wait(ATTACKS[0], "table.rules")
        page.wait(SPELLED_OUT, ".modules")
        assert_unhurt(page.browser)
    finally:
        for each in hanging:
            each.close()

    kept = clinfra.url("proxy", f"/o/page/{address(ATTACKS[3])}")
    with urllib.request.urlopen(kept, timeout=20) as answer:
        answer.read()
    page.write("#pages", kept)
    page.click("#look")
    page.wait(f"x={ATTACKS[1]}\\u{{85}}\\u{{9f}}", "#found")
    page.wait(f"tags {ATTACKS[0]}", "#found")
    assert_unhurt(page.browser)
    page.click("#purge")
    page.wait("1/1 pages purged", "#found")

    page.write("#url", kept)
    page.click("#proxy details summary")
    page.write("#fields", f"X-Attack: {ATTACKS[1]}")
    page.write("#answer", f"X-Answer: {ATTACKS[0]}")
    page.click("#explain")
    page.wait(f"X-Answer: {ATTACKS[0]}", "#explained")
    assert_unhurt(page.browser)

    (tmp_path / "rules" / "late.py").write_text(f"raise ValueError({ATTACKS[1]!r})\n")
    page.wait(ATTACKS[1], "#attention")
    page.one("nav a[href='#overview']").click()
    assert_unhurt(page.browser)
