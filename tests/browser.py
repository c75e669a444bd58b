"""A real browser for tests of pages: Debian's Chromium without a screen, through its driver.

It writes down what it says on its console and every request it makes, so that a page can be held to making none.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from tests.eventually import eventually

WIDE = (1280, 800)
CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")

_QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-quic", "--disable-sync"),
)


@dataclass(frozen=True)
class Box:
    """Where something is on the page, in pixels."""

    x: float
    y: float
    w: float
    h: float

    @property
    def area(self) -> float:
        """Square pixels."""
        return self.w * self.h

    def holds(self, other: Box, slack: float = 0.6) -> bool:
        """Is ``other`` inside?"""
        return (
            self.x - slack <= other.x
            and self.y - slack <= other.y
            and other.x + other.w <= self.x + self.w + slack
            and other.y + other.h <= self.y + self.h + slack
        )

    def overlaps(self, other: Box, slack: float = 0.6) -> bool:
        """Do they share more than an edge?"""
        across = min(self.x + self.w, other.x + other.w) - max(self.x, other.x)
        down = min(self.y + self.h, other.y + other.h) - max(self.y, other.y)
        return min(across, down) > slack


@dataclass(frozen=True)
class Seen:
    """One element as it is shown: its own text, its ``data-`` attributes, its classes."""

    box: Box
    text: str
    data: dict[str, str]
    classes: frozenset[str]


class Browser:
    """One window. Sizes are those of the page's viewport in CSS pixels."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def show(self, page: Path, fragment: str = "") -> None:
        """Open the file ``page``."""
        self.driver.get("about:blank")
        self.driver.get(page.resolve().as_uri() + fragment)

    def await_scripts(self, count: int) -> None:
        """Wait until ``count`` script elements of the page are parsed: where scripts are off, the driver does not wait
        for a page to be there, and who switches them on sooner has those run that come then.
        """

        def parsed() -> int:
            root = self._cdp("DOM.getDocument", depth=0)["root"]["nodeId"]
            try:
                return len(self._cdp("DOM.querySelectorAll", nodeId=root, selector="script")["nodeIds"])
            except WebDriverException:  # that was the page before
                return 0

        eventually(lambda: parsed() == count, lambda: f"{parsed()} of {count} scripts")

    def resize(self, width: int, height: int, *, touch: bool = False) -> None:
        """Have a viewport of this size; ``touch`` for a phone's."""
        self._cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=touch)

    def dress(self, scheme: str) -> None:
        """Have the person prefer the colours of ``scheme``: light or dark."""
        self._cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def scripts(self, *, on: bool) -> None:
        """Switch the scripts of pages to come on or off."""
        self._cdp("Emulation.setScriptExecutionDisabled", value=not on)

    def all(self, selector: str) -> list[Seen]:
        """Every element of that selector, as it is shown."""
        found = self.run(
            """return [...document.querySelectorAll(arguments[0])].map((each) => {
                const {x, y, width, height} = each.getBoundingClientRect();
                return [[x, y, width, height], each.innerText, {...each.dataset}, [...each.classList]];
            })""",
            selector,
        )
        return [Seen(Box(*box), text, data, frozenset(classes)) for box, text, data, classes in found]

    def element(self, selector: str) -> WebElement:
        """The first element of that selector, to click or to type into."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """The text that the first element of that selector shows."""
        return self.element(selector).text

    def run(self, script: str, *arguments: object) -> Any:
        """Run a script in the page."""
        return self.driver.execute_script(script, *arguments)

    def until(self, happened: Callable[[], bool]) -> None:
        """Wait until ``happened`` says so: for what the browser does in its own time, as showing a page the address
        that a link changed.

        Raises ``TimeoutException`` after 30 s.
        """
        WebDriverWait(self.driver, 30, poll_frequency=0.02).until(lambda _: happened())

    def complaints(self) -> list[str]:
        """What was said on the console since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]  # type: ignore[no-untyped-call]

    def requests(self) -> list[str]:
        """The addresses requested since the last call."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]  # type: ignore[no-untyped-call]
        return [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]

    def _cdp(self, command: str, **arguments: object) -> Any:
        return self.driver.execute_cdp_cmd(command, arguments)


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser with a profile of its own, gone when the block ends."""
    assert DRIVER.exists(), (
        "these tests look at pages with Debian's chromium and chromium-driver: ./scripts/setup --tests"
    )
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        for argument in (*_QUIET, f"--user-data-dir={profile}"):
            options.add_argument(argument)
        service = Service(str(DRIVER), log_output=os.devnull)
        driver = webdriver.Chrome(options=options, service=service)
        try:
            # Chromium begins with a page of its own, whose requests would be taken for those of the first page that a
            # test looks at.
            driver.get("about:blank")
            yield Browser(driver)
        finally:
            driver.quit()
