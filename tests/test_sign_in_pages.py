"""Devices let in with a browser, as people do it: at a provider that others wrote, and with a password."""

from __future__ import annotations

import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.account_relays import UNLIMITED
from tests.browsers import driver as driver
from tests.conditions import WAIT_SECONDS, until
from tests.openid_provider import CLIENT_ID, CLIENT_SECRET
from tests.sign_ins import PASSWORD, SignIns, oidc, sign_ins
from tests.test_device import GRANT_TYPE
from tests.valkeys import TIMEOUT_SCALE, RealValkey

pytestmark = [pytest.mark.system, pytest.mark.timeout(180 * TIMEOUT_SCALE)]

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def relay(relay_valkey: RealValkey) -> Iterator[SignIns]:
    node, modules = shutil.which("node"), ROOT / "build/openid_node"
    if node is None or not (modules / "node_modules").is_dir():
        pytest.skip("the OpenID provider is not installed: tests/system_modules")
    script = ROOT / "tests/openid_node/provider.mjs"
    with subprocess.Popen(
        [node, script, modules],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        configured = {
            "display_name": "Campus",
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
            "discovery_url": f"{url}/.well-known/openid-configuration",
        }
        try:
            with sign_ins(
                relay_valkey.socket_path, limits=UNLIMITED, oidc=oidc(campus=configured)
            ) as running:
                process.stdin.write(f"{running.url}/auth/oidc/campus/callback\n")
                process.stdin.flush()
                assert process.stdout.readline() == "ready\n"
                yield running
        finally:
            process.terminate()
            process.wait(WAIT_SECONDS)


@pytest.fixture
def name() -> str:
    return f"ann-{uuid.uuid4().hex[:10]}"


@pytest.fixture
def browser(relay: SignIns, driver: webdriver.Chrome) -> Iterator[webdriver.Chrome]:
    """As if nobody had signed in with it yet; in the end its console has no
    complaint about the relay.
    """
    driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
    driver.get_log("browser")
    yield driver
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    seen = [entry for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    # The provider's own page would like a font from far away.
    assert not [entry for entry in seen if relay.url in entry["message"]]
    driver.get("about:blank")


def codes(relay: SignIns) -> dict[str, str]:
    made: dict[str, str] = relay.post("/auth/device/code", client_hint="<i>Pulsar</i> at home").json()
    return made


def outcome(relay: SignIns, made: dict[str, str]) -> dict[str, str]:
    """What the device is told; it has not asked before."""
    told: dict[str, str] = relay.post(
        "/auth/device/token", grant_type=GRANT_TYPE, device_code=made["device_code"]
    ).json()
    return told


def text(browser: webdriver.Chrome, identifier: str) -> str:
    return browser.find_element(By.ID, identifier).text


def until_there(browser: webdriver.Chrome, identifier: str) -> None:
    until(lambda: browser.find_elements(By.ID, identifier), f"{identifier} is on the page")


def sign_in_at_the_provider(browser: webdriver.Chrome, name: str) -> None:
    until(lambda: browser.find_elements(By.NAME, "login"), "the provider asks who it is")
    browser.find_element(By.NAME, "login").send_keys(name)
    browser.find_element(By.NAME, "password").send_keys("anything", Keys.ENTER)
    # It asks once more, whether the relay may know.
    until(lambda: not browser.find_elements(By.NAME, "login"), "the provider asks for consent")
    browser.find_element(By.CSS_SELECTOR, "button[type=submit]").click()


def test_somebody_lets_a_device_in_who_signs_in_at_a_provider(
    relay: SignIns, browser: webdriver.Chrome, name: str
) -> None:
    made = codes(relay)
    browser.get(made["verification_uri_complete"])
    assert text(browser, "code") == made["user_code"]
    assert text(browser, "hint") == "<i>Pulsar</i> at home"
    browser.find_element(By.LINK_TEXT, "Sign in with Campus").click()
    sign_in_at_the_provider(browser, name)
    until_there(browser, "approve")
    assert (text(browser, "username"), text(browser, "code")) == (f"{name}@campus.example", made["user_code"])
    browser.find_element(By.ID, "approve").click()
    until_there(browser, "told")
    told = outcome(relay, made)
    principal = relay.run(lambda: relay.accounts.authenticator.authenticate(told["access_token"]))
    assert principal.user.username == f"{name}@campus.example"
    assert principal.user.federated is not None
    assert principal.user.federated.subject == name


def test_somebody_refuses_a_device_that_is_not_theirs(
    relay: SignIns, browser: webdriver.Chrome, name: str
) -> None:
    made = codes(relay)
    browser.get(made["verification_uri_complete"])
    browser.find_element(By.LINK_TEXT, "Sign in with Campus").click()
    sign_in_at_the_provider(browser, name)
    until_there(browser, "deny")
    browser.find_element(By.ID, "deny").click()
    until_there(browser, "told")
    assert outcome(relay, made) == {"error": "access_denied"}


def test_the_same_person_is_the_same_user_each_time(
    relay: SignIns, browser: webdriver.Chrome, name: str
) -> None:
    user_ids = set()
    for _ in range(2):
        browser.execute_cdp_cmd("Network.clearBrowserCookies", {})
        made = codes(relay)
        browser.get(made["verification_uri_complete"])
        browser.find_element(By.LINK_TEXT, "Sign in with Campus").click()
        sign_in_at_the_provider(browser, name)
        until_there(browser, "approve")
        browser.find_element(By.ID, "approve").click()
        until_there(browser, "told")
        told = outcome(relay, made)
        principal = relay.run(
            lambda told=told: relay.accounts.authenticator.authenticate(told["access_token"])
        )
        user_ids.add(principal.user.user_id)
    assert len(user_ids) == 1


def test_a_password_the_keyboard_and_no_script_are_enough(
    relay: SignIns, browser: webdriver.Chrome, name: str
) -> None:
    relay.make_user(name)
    made = codes(relay)
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    browser.get(made["verification_uri"])

    def press(*keys: str) -> None:
        browser.switch_to.active_element.send_keys(*keys)

    # The field for the code has the focus.
    press(made["user_code"].lower().replace("-", ""), Keys.ENTER)
    until_there(browser, "password")
    for _ in range(2):
        press(Keys.TAB)
    press(name, Keys.TAB)
    press(PASSWORD, Keys.ENTER)
    until_there(browser, "approve")
    press(Keys.TAB)
    press(Keys.ENTER)
    until_there(browser, "told")
    assert "access_token" in outcome(relay, made)


@pytest.mark.parametrize(("scheme", "ground"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(22, 22, 24)")])
def test_the_page_is_as_light_or_dark_as_one_likes(
    relay: SignIns, browser: webdriver.Chrome, scheme: str, ground: str
) -> None:
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get(codes(relay)["verification_uri_complete"])
    body = browser.find_element(By.TAG_NAME, "body")
    assert browser.execute_script("return getComputedStyle(arguments[0]).backgroundColor", body) == ground
    for field in browser.find_elements(By.CSS_SELECTOR, "input:not([type=hidden]), button, a"):
        assert field.accessible_name
