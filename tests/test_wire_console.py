"""The console in a browser: counts that move, purges, rules, a killed replica."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.browser import chromium, complaints
from tests.console_page import Page
from tests.image.pictures import encode, photograph
from tests.support import ClinfraProcess, lasting_ports, wait_until

HOSTILE = "<img src=x onerror=alert(1)>"
SECRET = "correct-horse-battery"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture(scope="module")
def clinfra() -> Iterator[ClinfraProcess]:
    """One of everything, and an origin that is not there, with a hostile name."""
    rules = [
        {"use": "Welcome"},
        {
            "use": "Redirector",
            "rules": [{"match": "/old$", "redirect": "/new", "status": 301}],
        },
        {"use": "DirectCache"},
        {"use": "Forwarder"},
        {"use": "Exceptions"},
    ]
    config = {
        "blob": {},
        "image": {},
        "proxy": {
            "modules": rules,
            "pools": {HOSTILE: {"members": ["127.0.0.1:9"]}},
        },
        "admin": {},
    }
    with ClinfraProcess(config) as running:
        yield running


@pytest.fixture
def page(browser: webdriver.Chrome) -> Iterator[Page]:
    page = Page(browser)
    page.look(1200, 900)
    yield page
    assert complaints(browser) == []


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=20) as answer:
        body: bytes = answer.read()
    return body


def put(url: str, body: bytes) -> str:
    """Put a blob; return its stored name."""
    request = urllib.request.Request(url, data=body, method="PUT")
    with urllib.request.urlopen(request, timeout=20) as answer:
        name: str = json.load(answer)["name"]
    return name


def test_counts_move(page: Page, clinfra: ClinfraProcess) -> None:
    """An upload and a few reads are seen without reloading; no name is markup."""
    page.open(clinfra.url("admin"))
    page.wait("running for", "#state")
    page.wait("0 pictures", "#overview")

    picture = encode(photograph(400, 300), quality=85)
    upload = clinfra.url("proxy", "/image/a.jpg")
    request = urllib.request.Request(upload, data=picture)
    with urllib.request.urlopen(request, timeout=20) as answer:
        answer.read()
    for _ in range(9):
        get(clinfra.url("proxy"))
    page.wait("1 pictures", "#overview")
    page.wait("10 requests", "#overview")
    points = page.one(".card polyline").get_attribute("points") or ""
    assert len(points.split()) >= 2

    # What was before it was opened is drawn at once.
    page.open("about:blank")
    wait_until(
        lambda: len(json.loads(get(clinfra.url("admin", "/history")))["moments"]) > 3,
        "there is something to draw",
    )
    page.open(clinfra.url("admin"))
    page.wait("10 requests", "#overview")
    points = page.one(".card polyline").get_attribute("points") or ""
    assert len(points.split()) >= 3

    page.one("nav a[href='#image']").click()
    page.wait("jpeg", "#image")
    link = page.one("#image a.button").get_attribute("href")
    assert link == clinfra.url("image")

    page.one("nav a[href='#proxy']").click()
    page.wait(HOSTILE, "#proxy")
    assert page.browser.find_elements(By.CSS_SELECTOR, "main img") == []


def test_cache(page: Page, clinfra: ClinfraProcess) -> None:
    """A page is looked up, purged, and gone."""
    name = put(clinfra.url("proxy", "/blob/page.txt"), b"hello")
    url = clinfra.url("proxy", f"/blob/{name}")
    get(url)
    get(url)
    page.open(clinfra.url("admin", "/#proxy"))
    page.wait("Look up", "#proxy")
    page.write("#pages", url)
    page.click("#look")
    page.wait("memory", "#found")
    assert "5 B" in page.text("#found")

    page.click("#purge")
    page.wait("1/1 pages purged", "#found")
    page.click("#look")
    page.wait("Nothing is kept", "#found")


def test_explain(page: Page, clinfra: ClinfraProcess) -> None:
    """What the rules make of a URL is told, and what is wrong with one."""
    page.open(clinfra.url("admin", "/#proxy"))
    page.wait("Explain a URL", "#proxy")
    page.write("#url", "http://localhost/old" + Keys.ENTER)
    page.wait("Redirector: answers 301", "#explained")
    page.write("#url", "http://localhost/blob/x")
    page.click("#explain")
    page.wait("the pool 'blob'", "#explained")
    page.write("#url", f"http://localhost/{HOSTILE}")
    page.click("#explain")
    page.wait("400", "#explained")
    # The refusal is no mistake of the page's.
    page.browser.get_log("browser")


def test_maintenance(page: Page, clinfra: ClinfraProcess) -> None:
    """An origin is taken out and put back, by keyboard alone."""
    page.open(clinfra.url("admin", "/#proxy"))
    selector = f'button[aria-label*="{HOSTILE} 127.0.0.1:9"]'
    wait_until(
        lambda: bool(page.browser.find_elements(By.CSS_SELECTOR, selector)),
        "the origin",
    )
    page.one(selector).send_keys(Keys.SPACE)
    page.wait("is asked no more", "#told")
    page.wait("maintenance", "#proxy table.pool")
    told = json.loads(get(clinfra.url("admin", "/maintenance")))
    assert told["members"] == {HOSTILE: ["127.0.0.1:9"]}
    # The poll has not taken the focus away.
    assert page.one(selector) == page.browser.switch_to.active_element
    page.one(selector).send_keys(Keys.ENTER)
    wait_until(
        lambda: json.loads(get(clinfra.url("admin", "/maintenance")))["members"] == {},
        "it is asked again",
    )


def test_looks(page: Page, clinfra: ClinfraProcess) -> None:
    """Light and dark differ, and on a phone nothing is wider than the screen."""
    grounds = set()
    for scheme in ("light", "dark"):
        page.look(360, 740, scheme)
        page.open(clinfra.url("admin"))
        page.wait("Image", "nav")
        for part in ("overview", "proxy", "blob", "image"):
            page.one(f"nav a[href='#{part}']").click()
            wait_until(lambda part=part: page.text(f"#{part}") != "", part)  # type: ignore[misc] # each its own
            wide = "return document.documentElement.scrollWidth"
            assert page.browser.execute_script(wide) <= 360, part
        grounds.add(page.colour("body"))
    assert len(grounds) == 2


def test_no_actions(page: Page, browser: webdriver.Chrome) -> None:
    """Switched off, no button is there, and a token is asked for where there is one."""
    config = {"blob": {}, "proxy": {}, "admin": {"actions": False, "token": SECRET}}
    with ClinfraProcess(config) as clinfra:
        with pytest.raises(urllib.error.HTTPError, match="401"):
            get(clinfra.url("admin"))
        assert get(clinfra.url("admin", "/health/live")) == b"alive\n"
        url = clinfra.url("admin").replace("//", f"//operator:{SECRET}@")
        page.open(f"{url}#proxy")
        page.wait("Look up", "#proxy")
        assert not page.browser.find_elements(By.ID, "purge")
        page.open(f"{url}#blob")
        page.wait("Refresh", "#replicas")
        assert not page.browser.find_elements(By.CSS_SELECTOR, "[data-chore]")
        refused = browser.execute_async_script(
            "const done = arguments[0];"
            "fetch(new URL('/purge', location.origin), {method: 'POST', body: 'h/'})"
            ".then(answer => done(answer.status));"
        )
        assert refused == 403
    browser.get_log("browser")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[list[ClinfraProcess]]:
    """A bucket of three replicas; the first has admin pages."""
    names = [HOSTILE.replace("/", ""), "002", "003"]
    ports = lasting_ports(3)
    file = tmp_path / "cluster.json"
    replicas = {
        name: {"ip": "127.0.0.1", "port": port, "read_weight": 1}
        for name, port in zip(names, ports, strict=True)
    }
    clusters = [[{"replicas": names, "write_weight": 1}]]
    client = {"clusters": clusters, "replicas": replicas}
    file.write_text(json.dumps({"clblob": {"client": client}}))
    running: list[ClinfraProcess] = []
    try:
        for name, port in zip(names, ports, strict=True):
            section = {
                "cluster_file": str(file),
                "replica": name,
                "listen": [f"tcp:{port}:interface=127.0.0.1"],
            }
            config: dict[str, object] = {"blob": section}
            if not running:
                config["admin"] = {}
            process = ClinfraProcess(config)
            process.ports["blob"] = port
            running.append(process)
            process.start(wait=False)
        for process in running:
            process.running.wait_for("clinfra is ready")
        yield running
    finally:
        for process in running:
            process.close()


def test_cluster(page: Page, cluster: list[ClinfraProcess]) -> None:
    """A replica that is killed turns red; buttons and keys set off what they say."""
    first, second, third = cluster
    put(first.url("blob", "/a.txt"), b"hello")
    page.open(first.url("admin", "/#blob"))
    page.wait("3 of 3 copies", "#blob")
    page.wait(HOSTILE, "#blob")
    assert page.browser.find_elements(By.CSS_SELECTOR, "main img") == []
    tile = "button.tile[aria-label^='Replica 003']"
    before = page.colour(tile)

    page.click(tile)
    page.wait("Replica 003", "#replicas")
    page.click("#replicas [data-chore=scrub]")
    page.wait("Scrub: 003 begins with it.", "#told")

    third.running.kill()
    page.press("R")
    page.wait("2 of 3 copies", "#blob")
    wait_until(lambda: "bad" in (page.one(tile).get_attribute("class") or ""), "red")
    assert page.colour(tile) != before
    red, green, blue = map(
        int, page.colour(tile, "color").split("(")[1].rstrip(")").split(",")[:3]
    )
    assert red > green + 60
    assert red > blue + 60
    page.browser.get_log("browser")  # the answer that failed

    third.restart()
    page.press("R")
    page.wait("3 of 3 copies", "#blob")

    # The same at the original's place, of any server.
    page.browser.get_log("browser")
    page.open(second.url("blob", "/_console"))
    page.wait("3 of 3 copies", "#blob")
    page.press("s")
    page.wait("Sync: 002 begins with it.", "#told")
    page.press("H")
    page.wait("Replica 003", "#replicas")
    page.press("b")
    page.wait("Buffer: all 3 begin with it.", "#told")
    page.press("h")
    wait_until(lambda: page.text("#replicas") == "", "all cards are hidden")
    page.press(Keys.ARROW_RIGHT)
    page.wait("Its own console", "#replicas")
    page.press("i")
    page.wait("3 of 3 answer", "#blob")
    page.press("?")
    page.wait("send what waits", "#help")
