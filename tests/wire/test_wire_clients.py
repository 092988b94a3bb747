"""Clients that know nothing of clinfra: curl, twisted.web, urllib and a browser."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from tests.browser import chromium, complaints
from tests.support import ClinfraProcess

_TWISTED_CLIENT = """
import sys
from twisted.internet import task
from twisted.internet.defer import ensureDeferred
from twisted.web.client import Agent, FileBodyProducer, HTTPConnectionPool, readBody
from io import BytesIO

async def main(reactor, url):
    pool = HTTPConnectionPool(reactor)
    agent = Agent(reactor, pool=pool)
    body = bytes(range(256)) * 4096
    put = await agent.request(
        b"PUT", url + b"twisted.bin", bodyProducer=FileBodyProducer(BytesIO(body)))
    import json
    name = json.loads(await readBody(put))["name"]
    for attempt in range(3):
        got = await agent.request(b"GET", url + name.encode())
        assert got.code == 200 and await readBody(got) == body, got.code
    head = await agent.request(b"HEAD", url + name.encode())
    told = head.headers.getRawHeaders(b"content-length")
    assert told == [b"%d" % len(body)], told
    missing = await agent.request(b"GET", url + b"000_missing")
    assert missing.code == 404, missing.code
    await readBody(missing)
    await pool.closeCachedConnections()
    print("all good")

task.react(lambda reactor: ensureDeferred(main(reactor, sys.argv[1].encode())))
"""


@pytest.fixture(scope="module")
def clinfra() -> Iterator[ClinfraProcess]:
    with ClinfraProcess() as running:
        yield running


def curl(*arguments: str) -> str:
    """Return what curl printed; it must succeed."""
    done = subprocess.run(
        ["curl", "-sS", "--max-time", "20", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("door", ["blob", "proxy"])
def test_an_unmodified_twisted_web_client_works(
    clinfra: ClinfraProcess, door: str
) -> None:
    """Agent with a pool: chunked and sized, kept alive, HEAD and 404, both doors."""
    url = clinfra.url(door, "/" if door == "blob" else "/blob/")
    done = subprocess.run(
        [sys.executable, "-c", _TWISTED_CLIENT, url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.stdout == "all good\n", done.stderr


def test_curl_uploads_resumes_and_asks_politely(
    clinfra: ClinfraProcess, tmp_path: Path
) -> None:
    """A large -T with Expect, chunked from stdin, a resumed download, a 304."""
    original = tmp_path / "large.bin"
    original.write_bytes(bytes(range(256)) * 40000)
    url = clinfra.url("proxy", "/blob/")
    told = json.loads(
        curl("-H", "Expect: 100-continue", "-T", str(original), url + "large.bin")
    )
    address = url + told["name"]
    part = tmp_path / "part.bin"
    part.write_bytes(original.read_bytes()[:1000])
    curl("-C", "-", "-o", str(part), address)
    etag = next(
        line.split(":", 1)[1].strip()
        for line in curl("-I", address).splitlines()
        if line.lower().startswith("etag:")
    )
    status = curl(
        "-o", "/dev/null", "-w", "%{http_code}", "-H", f"If-None-Match: {etag}", address
    )
    shell = f"cat {original} | curl -sS -X PUT -T - {url}piped.bin"
    piped = json.loads(subprocess.check_output(["bash", "-c", shell], text=True))

    assert part.read_bytes() == original.read_bytes()
    assert status == "304"
    assert piped["name"].endswith("_piped.bin")


def test_urllib_works(clinfra: ClinfraProcess) -> None:
    """The standard library's client, which closes each connection."""
    request = urllib.request.Request(
        clinfra.url("blob", "/plain.txt"), data=b"hello", method="PUT"
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        name = json.load(answer)["name"]
    with urllib.request.urlopen(clinfra.url("blob", f"/{name}"), timeout=60) as answer:
        body, kind = answer.read(), answer.headers["Content-Type"]

    assert (body, kind.partition(";")[0]) == (b"hello", "text/plain")


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    """A headless Chromium with an empty profile."""
    with chromium(tmp_path / "profile") as running:
        yield running


def test_a_browser_shows_the_welcome_page(
    clinfra: ClinfraProcess, browser: webdriver.Chrome
) -> None:
    """Headless Chromium renders it, without a complaint in its console."""
    browser.get(clinfra.url("proxy"))
    text = browser.find_element(By.TAG_NAME, "body").text

    assert "clinfra" in browser.title.lower()
    assert "curl" in text and "/image/" in text
    assert complaints(browser) == []
