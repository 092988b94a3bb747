"""The console in a browser, as tests use it."""

from __future__ import annotations

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.browser import look
from tests.support import wait_until

_TEXT = """
const found = document.querySelector(arguments[0]);
return found && !found.closest('[hidden]') ? found.innerText : '';
"""


class Page:
    """The console as somebody in front of it sees and uses it."""

    def __init__(self, browser: webdriver.Chrome) -> None:
        self.browser = browser

    def open(self, url: str) -> None:
        self.browser.get("about:blank")
        self.browser.get_log("browser")
        self.browser.get(url)

    def look(self, width: int, height: int, scheme: str = "light") -> None:
        """Look at it in a window of this size, in light or dark."""
        look(self.browser, width, height, scheme)

    def one(self, selector: str) -> WebElement:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """Return what can be read there; nothing while it is not there."""
        text = str(self.browser.execute_script(_TEXT, selector))
        return text.replace("\xa0", " ").replace("\u202f", "")

    def wait(self, text: str, selector: str = "body") -> None:
        """Wait until a text is there to be read."""
        wait_until(lambda: text in self.text(selector), f"{text!r} in {selector}")

    def write(self, selector: str, text: str) -> None:
        field = self.one(selector)
        field.clear()
        field.send_keys(text)

    def click(self, selector: str) -> None:
        self.browser.execute_script("arguments[0].click()", self.one(selector))

    def press(self, key: str) -> None:
        self.browser.switch_to.active_element.send_keys(key)

    def colour(self, selector: str, what: str = "background-color") -> str:
        return self.one(selector).value_of_css_property(what)
