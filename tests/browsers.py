"""The relay's page in headless Chromium, as a reader has it before him."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from tests.conditions import until
from tests.programs import program

WIDE = (1280, 1000)
ARGUMENTS = (
    "--headless=new",
    # A container's root may have no sandbox, and little shared memory.
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
)


def start(directory: Path) -> webdriver.Chrome:
    options = Options()
    options.binary_location = program("chromium")
    options.accept_insecure_certs = True
    for argument in (*ARGUMENTS, f"--user-data-dir={directory}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=Service(program("chromedriver")))


class Page:
    """The page of the relay at `url`, and what its browser has seen since it was made."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver
        self.outages_are_expected = False
        """Requests that failed, and are then in the console, are part of the test."""
        self._origins: set[str] = set()

    def allow(self, url: str) -> None:
        """Requests to this origin are no strays."""
        self._origins.add(urlsplit(url).netloc)

    def open(self, url: str, topic: str | None = None) -> None:
        self.allow(url)
        # Where only the choice differs, nothing would be loaded.
        self.driver.get("about:blank")
        self.driver.get(f"{url}/" + (f"#topic={topic}" if topic else ""))
        until(lambda: self.text("readiness") and "…" not in self.text("readiness"), "the page has asked")

    # ------------------------------------------------------------------------------------------ what is on it

    def element(self, identifier: str) -> WebElement:
        return self.driver.find_element(By.ID, identifier)

    def text(self, identifier: str) -> str:
        return str(self.run("return document.getElementById(arguments[0]).textContent", identifier))

    def attribute(self, identifier: str, name: str) -> str | None:
        found: str | None = self.run(
            "return document.getElementById(arguments[0]).getAttribute(arguments[1])", identifier, name
        )
        return found

    def texts(self, selector: str) -> list[str]:
        """What the elements say, in their order; read at one moment."""
        script = "return Array.from(document.querySelectorAll(arguments[0]), (one) => one.textContent)"
        found: list[str] = self.run(script, selector)
        return found

    @property
    def payloads(self) -> list[str]:
        return self.texts("#tail-log .message pre")

    @property
    def kinds_of_rows(self) -> list[str]:
        script = "return Array.from(document.getElementById('tail-log').children, (row) => row.className)"
        found: list[str] = self.run(script)
        return found

    @property
    def topics(self) -> list[str]:
        return self.texts("#topics-table tbody a")

    def is_live(self) -> bool:
        return self.attribute("tail-state", "data-state") == "live"

    def run(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    # ----------------------------------------------------------------------------------- what is done with it

    def fill(self, identifier: str, text: str) -> None:
        """As by a paste: keys would take their time, and some characters have none."""
        script = """
            const field = document.getElementById(arguments[0]);
            field.value = arguments[1];
            field.dispatchEvent(new Event("input", {bubbles: true}));
        """
        self.run(script, identifier, text)

    def click(self, identifier: str) -> None:
        self.element(identifier).click()

    def press(self, *keys: str) -> None:
        """To whatever has the focus."""
        self.driver.switch_to.active_element.send_keys(*keys)

    def tab(self) -> str:
        """Go on to the next element; its id, or its text if it has none."""
        self.press(Keys.TAB)
        return str(self.run("const at = document.activeElement; return at.id || at.textContent"))

    def follow(self, topic: str) -> None:
        self.fill("find-name", topic)
        self.element("find-name").send_keys(Keys.ENTER)
        until(lambda: self.text("tail-topic") == topic and self.is_live(), f"{topic} is followed")

    def publish(self, topic: str, payload: str) -> None:
        self.fill("publish-topic", topic)
        self.fill("publish-payload", payload)
        self.click("publish-send")

    def until_result(self, state: str, start: str = "") -> str:
        """What the form says, once it says something of this kind that begins so."""

        def said() -> str | None:
            # At one moment: the text of one state is none of the next.
            texts = self.texts(f"#publish-result[data-state={state}]")
            return next((text for text in texts if text.startswith(start)), None)

        return str(until(said, f"the form tells what is {state}: {start}"))

    def until_payloads(self, expected: Sequence[str]) -> None:
        until(lambda: len(self.payloads) >= len(expected), f"{len(expected)} messages are shown")
        assert self.payloads == list(expected)

    def emulate(self, size: tuple[int, int] = WIDE, features: Mapping[str, str] | None = None) -> None:
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        media = [{"name": name, "value": value} for name, value in (features or {}).items()]
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})

    # ------------------------------------------------------------------------------ what the browser has seen

    def assert_calm(self) -> None:
        """The console has no complaint, and no request went anywhere but to the relays that were opened."""
        complaints = [
            entry
            for entry in self.driver.get_log("browser")
            if entry["level"] in ("SEVERE", "WARNING") and not self._is_expected(entry)
        ]
        assert not complaints, complaints
        strays = [url for url in self._requested() if urlsplit(url).netloc not in self._origins]
        assert not strays, strays

    def _is_expected(self, entry: Mapping[str, Any]) -> bool:
        is_outage = entry["source"] == "network" or "WebSocket connection to" in entry["message"]
        return self.outages_are_expected and is_outage

    def _requested(self) -> Iterator[str]:
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                url: str = message["params"]["request"]["url"]
            elif message["method"] == "Network.webSocketCreated":
                url = message["params"]["url"]
            else:
                continue
            if url.startswith(("http", "ws")):
                yield url


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """One browser for a module's tests."""
    driver = start(tmp_path_factory.mktemp("chromium"))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def page(driver: webdriver.Chrome) -> Iterator[Page]:
    """A browser that has seen nothing yet, and in the end has seen nothing wrong."""
    for kind in ("browser", "performance"):
        driver.get_log(kind)
    page = Page(driver)
    page.emulate()
    yield page
    # It asks no more from here on: what has ended with the test is no outage.
    driver.get("about:blank")
    page.assert_calm()
