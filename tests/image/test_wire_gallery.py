"""The gallery in a browser: uploads, their sizes, the playground, and how it looks."""

from __future__ import annotations

import base64
import io
import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from tests.browser import chromium, complaints, look
from tests.image.pictures import encode, oriented, photograph
from tests.support import ClinfraProcess, wait_until

HOSTILE = "<img src=x onerror=alert(1)>.jpg"
CORNERS = {"nw": "red", "ne": "lime", "sw": "blue", "se": "yellow"}
COLOURS = {
    "red": (255, 0, 0),
    "lime": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
}
CONFIG = {
    "blob": {},
    "image": {
        "max_bytes": "2MiB",
        "presets": {"card": "320x200c_webp", "tiny": "16x16c_png"},
    },
    "proxy": {},
}

_TEXT = """
const found = document.querySelector(arguments[0]);
return found ? found.innerText : '';
"""
_SELECT = """
const [field, value] = arguments;
field.value = value;
field.dispatchEvent(new Event('input', {bubbles: true}));
"""
_PIXEL = """
const [image, x, y] = arguments, canvas = document.createElement('canvas');
canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
const context = canvas.getContext('2d');
context.drawImage(image, 0, 0);
return [...context.getImageData(x * canvas.width, y * canvas.height, 1, 1).data];
"""
_DROP = """
const [name, text, done] = arguments, carried = new DataTransfer();
const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
carried.items.add(new File([bytes], name, {type: 'image/png'}));
for (const kind of ['dragover', 'drop']) {
  document.querySelector('#drop').dispatchEvent(
    new DragEvent(kind, {dataTransfer: carried, bubbles: true, cancelable: true}));
}
done();
"""


@pytest.fixture(scope="module")
def clinfra() -> Iterator[ClinfraProcess]:
    with ClinfraProcess(CONFIG) as running:
        yield running


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path_factory.mktemp("profile")) as running:
        yield running


class Page:
    """The gallery as somebody in front of it sees and uses it."""

    def __init__(self, browser: webdriver.Chrome, clinfra: ClinfraProcess) -> None:
        self.browser = browser
        self.url = clinfra.url("image")

    def open(self) -> None:
        self.look(1200, 900)
        self.browser.get(self.url)

    def look(self, width: int, height: int, scheme: str = "light") -> None:
        """Look at it in a window of this size, in light or dark."""
        look(self.browser, width, height, scheme)

    def one(self, selector: str) -> WebElement:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """Return what can be read there; nothing while it is not there."""
        text = str(self.browser.execute_script(_TEXT, selector))
        return text.replace("\xa0", " ").replace("\xd7", "x")

    def wait(self, text: str, selector: str = "body") -> None:
        """Wait until a text is there to be read."""
        wait_until(lambda: text in self.text(selector), f"{text!r} in {selector}")

    def upload(self, path: Path) -> None:
        self.one("#file").send_keys(str(path))

    def click(self, selector: str, x: float, y: float) -> None:
        """Click on something, at fractions of its width and height."""
        element = self.one(selector)
        script = "arguments[0].scrollIntoView({block: 'center'})"
        self.browser.execute_script(script, element)
        width, height = element.size["width"], element.size["height"]
        ActionChains(self.browser).move_to_element_with_offset(
            element, int(width * (x - 0.5)), int(height * (y - 0.5))
        ).click().perform()

    def pixel(self, selector: str, x: float, y: float) -> tuple[int, int, int]:
        """Return a colour of a picture, at fractions of its width and height."""
        told = self.browser.execute_script(_PIXEL, self.one(selector), x, y)
        return told[0], told[1], told[2]

    def size(self, selector: str) -> tuple[int, int]:
        """Return the size a picture has in its file."""
        image = self.one(selector)
        width, height = (
            image.get_property(f"natural{side}") for side in ("Width", "Height")
        )
        assert isinstance(width, int)
        assert isinstance(height, int)
        return width, height

    def shot(self, *, whole: bool = True) -> Image.Image:
        """Return what it looks like."""
        png = self.browser.execute_cdp_cmd(
            "Page.captureScreenshot", {"captureBeyondViewport": whole}
        )["data"]
        return Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")

    def field(self, name: str) -> WebElement:
        return self.one(f".controls [name={name}]")

    def choose(self, **values: str) -> None:
        """Turn the knobs of the playground."""
        for name, value in values.items():
            field = self.field(name)
            if field.tag_name == "select":
                self.browser.execute_script(_SELECT, field, value)
            else:
                field.clear()
                field.send_keys(value)

    @property
    def recipe(self) -> str:
        return self.one("#recipe").get_property("value")  # type: ignore[return-value] # a text field's

    @property
    def address(self) -> str:
        return self.one("#address").get_property("value")  # type: ignore[return-value] # a text field's


@pytest.fixture
def page(browser: webdriver.Chrome, clinfra: ClinfraProcess) -> Iterator[Page]:
    page = Page(browser, clinfra)
    page.open()
    browser.execute_script("localStorage.clear()")
    browser.get_log("browser")
    page.open()
    yield page


def near(one: tuple[int, ...], other: tuple[int, ...], most: int = 40) -> bool:
    return all(abs(a - b) <= most for a, b in zip(one, other, strict=True))


def write(path: Path, width: int = 1200, height: int = 900) -> Path:
    """Write a photograph with corners of four colours."""
    path.write_bytes(encode(photograph(width, height), quality=85))
    return path


def test_sizes(page: Page, tmp_path: Path) -> None:
    """An upload shows every size with its pixels, bytes and time, and its name."""
    page.upload(write(tmp_path / HOSTILE))
    page.wait("600 x 450 · JPEG", ".sizes")
    page.wait("300 x 225 · JPEG", ".sizes")
    page.wait("50 x 50 · JPEG", ".sizes")

    assert page.text("article h2") == HOSTILE
    assert re.fullmatch(
        r"1200 x 900 · JPEG · [0-9.]+ [kM]B · sent and made in [0-9.]+ m?s",
        page.text(".facts"),
    )
    for figure, size in enumerate(((50, 50), (300, 225), (600, 450)), 1):
        selector = f".sizes figure:nth-child({figure})"
        assert page.size(f"{selector} img") == size
        assert re.search(r"· [0-9.]+ k?B · \d+ ms", page.text(selector))
    largest = ".sizes figure:last-child img"
    for corner, colour in CORNERS.items():
        x, y = (0.95 if "e" in corner else 0.05), (0.95 if "s" in corner else 0.05)
        assert near(page.pixel(largest, x, y), COLOURS[colour]), corner
    assert page.all("[src=x], [onerror]") == []
    assert complaints(page.browser) == []


def test_playground(page: Page, tmp_path: Path) -> None:
    """Knobs make a recipe, the recipe an address, and the address the picture."""
    page.upload(write(tmp_path / "photo.jpg"))
    page.wait("450 x 450 · WEBP", ".result")
    assert page.recipe == "450x450c_webp"
    page.wait("600 x 450 · JPEG", ".views figure")

    page.choose(width="200", height="80", format="png")
    page.wait("200 x 80 · PNG", ".result")
    assert page.recipe == "200x80c_png"
    assert page.size(".result img") == (200, 80)

    # A click into the upper left corner, which is red, keeps that.
    page.click(".point img", 0.02, 0.02)
    wait_until(lambda: "_fp-0.0" in page.recipe, "the click is in the recipe")
    page.wait("200 x 80 · PNG", ".result")
    wait_until(
        lambda: near(page.pixel(".result img", 0.05, 0.05), COLOURS["red"]), "red"
    )
    assert page.one(".point i").is_displayed()

    # So do the arrow keys, from one corner to the other.
    for key in (Keys.ARROW_DOWN, Keys.ARROW_RIGHT):
        page.one(".point").send_keys(*[key] * 21)
    wait_until(lambda: page.recipe.endswith("_fp-1x1_png"), "the keys are, too")
    wait_until(
        lambda: near(page.pixel(".result img", 0.95, 0.95), COLOURS["yellow"]), "yellow"
    )

    page.choose(rotate="180", mode="fit")
    page.wait("106 x 80 · PNG", ".result")
    assert page.recipe == "200x80_rotate-180_png"
    assert near(page.pixel(".result img", 0.05, 0.05), COLOURS["yellow"])
    address = page.address
    with urllib.request.urlopen(address) as answer, Image.open(answer) as got:
        assert (got.size, got.format) == ((106, 80), "PNG")
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(address.partition("?")[0])
    assert complaints(page.browser) == []


def test_typed(page: Page, tmp_path: Path) -> None:
    """A recipe can be typed; presets are a click away; mistakes are told."""
    page.upload(write(tmp_path / "photo.jpg"))
    page.wait("450 x 450 · WEBP", ".result")
    field = page.one("#recipe")
    field.clear()
    field.send_keys("pad_90x90", Keys.ENTER)
    page.wait("Invalid recipe 'pad_90x90': there is no option '90x90'.", ".error")
    assert page.address == ""
    field.clear()
    field.send_keys("90x90_webp_pad_bg-0f0", Keys.ENTER)
    page.wait("90 x 90 · WEBP", ".result")
    assert page.recipe == "90x90_pad_bg-00ff00_webp"
    assert near(page.pixel(".result img", 0.5, 0.02), COLOURS["lime"])
    assert page.text(".error") == ""
    page.wait("Signed by this page until", ".note")

    page.one(".presets button").click()
    page.wait("320 x 200 · WEBP", ".result")
    assert page.recipe == "320x200c_webp"
    assert page.address.endswith("/card")
    page.wait("Anybody may ask for this.", ".note")

    page.browser.execute_cdp_cmd(
        "Browser.grantPermissions",
        {
            "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"],
            "origin": page.url.rstrip("/"),
        },
    )
    page.one(".copy").click()
    page.wait("Copied", ".copy")
    copied = page.browser.execute_async_script(
        "const done = arguments[0]; navigator.clipboard.readText().then(done, done)"
    )
    assert copied == page.address


def test_dropped_and_refused(page: Page, tmp_path: Path) -> None:
    """Dropped pictures are taken; what is refused says why, in the service's words."""
    (tmp_path / "notes.jpg").write_bytes(b"not a picture at all")
    (tmp_path / "big.jpg").write_bytes(bytes(2_500_000))
    page.upload(tmp_path / "notes.jpg")
    page.wait("Bad image file", "#arriving")
    page.upload(tmp_path / "big.jpg")
    page.wait("The image is over 2097152 bytes.", "#arriving")

    png = base64.b64encode(encode(photograph(320, 240), "PNG")).decode()
    page.browser.execute_async_script(_DROP, "dropped.png", png)
    page.wait("320 x 240 · PNG", ".facts")
    page.wait("300 x 225 · JPEG", ".sizes")
    assert page.all("#arriving li") == []


def test_remembered(page: Page, tmp_path: Path) -> None:
    """Pictures are still there after a reload, until they are removed."""
    for name, side in (("one.jpg", 800), ("two.jpg", 600)):
        page.upload(write(tmp_path / name, side, side))
        page.wait(name, "#pictures")
    page.browser.refresh()
    page.wait("450 x 450 · JPEG", ".sizes")
    assert [each.text for each in page.all("h2")] == ["two.jpg", "one.jpg"]
    page.one(".remove").click()
    page.browser.refresh()
    page.wait("450 x 450 · JPEG", ".sizes")
    assert [each.text for each in page.all("h2")] == ["one.jpg"]
    assert page.all(".playground") == []
    page.one(".play").click()
    page.wait("450 x 450 · WEBP", ".result")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_looks(page: Page, tmp_path: Path, scheme: str) -> None:
    """It has the ink and paper of its scheme, shows the picture, and fits a phone."""
    page.upload(write(tmp_path / "photo.jpg"))
    page.wait("450 x 450 · WEBP", ".result")
    page.wait("600 x 450 · JPEG", ".views figure")
    paper = {"light": (255, 255, 255), "dark": (24, 24, 24)}[scheme]
    for width in (1200, 768, 360):
        page.look(width, 900, scheme)
        told: dict[str, Any] = page.browser.execute_script(
            "const box = document.querySelector('.result img').getBoundingClientRect();"
            "return {wide: document.documentElement.scrollWidth,"
            " x: box.x + scrollX, y: box.y + scrollY,"
            " width: box.width, height: box.height}"
        )
        assert told["wide"] <= width
        shot = page.shot()
        assert shot.getpixel((3, 3)) == paper
        seen = {
            corner: shot.getpixel(
                (
                    int(told["x"] + told["width"] * (0.95 if "e" in corner else 0.05)),
                    int(told["y"] + told["height"] * (0.95 if "s" in corner else 0.05)),
                )
            )
            for corner in CORNERS
        }
        for corner, colour in CORNERS.items():
            pixel = seen[corner]
            assert isinstance(pixel, tuple)
            assert near(pixel, COLOURS[colour]), (width, corner)
        # As rich as a photograph; an empty page has a handful.
        assert len(shot.getcolors(1 << 24) or ()) > 5000


def test_named(page: Page, tmp_path: Path) -> None:
    """Everything that can be used has a name for those who do not see it."""
    page.upload(write(tmp_path / "photo.jpg"))
    page.wait("450 x 450 · WEBP", ".result")
    nodes = page.browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    used = {
        "application",
        "button",
        "checkbox",
        "combobox",
        "image",
        "link",
        "slider",
        "spinbutton",
        "textbox",
    }
    found: dict[str, list[str]] = {}
    for node in nodes:
        role = node.get("role", {}).get("value", "")
        if role in used and not node.get("ignored"):
            name = str(node.get("name", {}).get("value", ""))
            found.setdefault(role, []).append(name.strip())
    assert used - {"image"} <= found.keys()
    assert [role for role, names in found.items() if not all(names)] == []
    assert "Focal point: 50.0% across" in json.dumps(found["application"])


def test_not_through_the_proxy(clinfra: ClinfraProcess) -> None:
    """What the proxy gives the world has no gallery, although it is on this machine."""
    with urllib.request.urlopen(clinfra.url("image")) as answer:
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    for path in ("/image/", "/image/gallery.js", "/image/gallery/sign?name=a"):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(clinfra.url("proxy", path))


def test_orientation(page: Page, tmp_path: Path) -> None:
    """A picture taken sideways is upright, and told of as that."""
    sideways = oriented(encode(photograph(1200, 900), quality=85), 6)
    (tmp_path / "sideways.jpg").write_bytes(sideways)
    page.upload(tmp_path / "sideways.jpg")
    page.wait("900 x 1200 · JPEG", ".facts")
    page.wait("337 x 450 · JPEG", ".sizes")
    page.wait("450 x 450 · WEBP", ".result")
    assert near(page.pixel(".sizes figure:last-child img", 0.95, 0.05), COLOURS["red"])
