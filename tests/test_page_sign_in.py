"""The page of a relay with accounts: who is shown what, for how long, and what is said when it ends."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.account_relays import AccountRelay
from tests.account_relays import account_relay as account_relay
from tests.account_relays import make_account_relay as make_account_relay
from tests.browsers import Page
from tests.browsers import driver as driver
from tests.browsers import page as page
from tests.conditions import until
from tests.openid_provider import openid_provider
from tests.sign_ins import oidc
from tests.valkeys import TIMEOUT_SCALE, RealValkey

# The first of them also waits for the browser to start.
pytestmark = [pytest.mark.system, pytest.mark.timeout(180 * TIMEOUT_SCALE)]

SHORT_SECONDS = 4


@pytest.fixture(scope="module")
def relay_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealValkey]:
    """Of its own: what users leave would be listed on the pages of relays without accounts."""
    server = RealValkey(tmp_path_factory.mktemp("valkey"))
    try:
        yield server.start()
    finally:
        server.close()


class Visitor:
    """A user, and the page before them."""

    def __init__(self, page: Page, relay: AccountRelay, *permissions: str) -> None:
        self.page, self.relay = page, relay
        self.user = relay.new_user(*(permissions or ("read", "write")))
        # A browser complains of each answer that is an error, and some are what a test is about.
        page.outages_are_expected = True

    @property
    def id(self) -> str:
        return str(self.user["user_id"])

    def log_in(self, topic: str | None = None) -> None:
        self.page.open(self.relay.url, topic)
        self.fill_in(self.user["password"])
        until(lambda: self.page.text("who-name") == self.user["username"], "the page shows who is logged in")

    def fill_in(self, password: str) -> None:
        self.page.fill("sign-in-name", self.user["username"])
        self.page.fill("sign-in-password", password)
        self.page.element("sign-in-password").send_keys(Keys.ENTER)

    def until_told(self, words: str) -> None:
        until(lambda: self.told() == words, f"the page tells: {words}")

    def told(self) -> str | None:
        """What stands above the form; None while there is no form, or a page is on its way."""
        return next(iter(self.page.texts("#sign-in:not([hidden]) #sign-in-state")), None)

    def publish(self, topic: str, payload: object) -> None:
        token = self.relay.token(self.user["username"], self.user["password"])
        body = {"topic": topic, "payload": payload}
        assert self.relay.ask("POST", "/api/v1/messages", token, json=body).status_code == 201

    def patch(self, **changes: object) -> None:
        path = f"/auth/users/{self.id}"
        answer = self.relay.ask("PATCH", path, self.relay.token(), json=changes)
        assert answer.status_code == 200, answer.text

    def sessions(self) -> list[dict[str, object]]:
        answer = self.relay.ask("GET", f"/auth/sessions?user_id={self.id}", self.relay.token())
        assert answer.status_code == 200, answer.text
        found: list[dict[str, object]] = answer.json()
        return found


def sockets_opened(page: Page) -> int:
    """Since this was last asked."""
    methods = [
        json.loads(entry["message"])["message"]["method"] for entry in page.driver.get_log("performance")
    ]
    return methods.count("Network.webSocketCreated")


def is_shown(page: Page, identifier: str) -> bool:
    return page.element(identifier).is_displayed()


def test_nothing_is_shown_to_who_has_not_logged_in(
    page: Page, account_relay: AccountRelay, topic: str
) -> None:
    until(lambda: account_relay.ask("GET", "/ready").ok, "the relay is ready")
    page.open(account_relay.url, topic)
    assert is_shown(page, "sign-in")
    assert not is_shown(page, "topics")
    assert not is_shown(page, "tail")
    assert sockets_opened(page) == 0


def test_a_wrong_password_is_told_and_a_right_one_logs_in(
    page: Page, account_relay: AccountRelay, topic: str
) -> None:
    visitor = Visitor(page, account_relay)
    page.open(account_relay.url)
    visitor.fill_in("a wrong password")
    visitor.until_told("The username or the password is wrong. (wrong_password)")
    assert page.element("sign-in-password").get_property("value") == ""
    visitor.fill_in(visitor.user["password"])
    until(lambda: is_shown(page, "who"), "the page shows who is logged in")
    assert page.text("who-name") == visitor.user["username"]
    assert "read, write" in page.text("who-may")
    assert not is_shown(page, "sign-in")
    page.publish(topic, "[1]")
    page.until_result("done")
    page.until_payloads(["[1]"])
    assert "$RELAY_TOKEN" in page.text("curl-publish")


def test_everybody_sees_their_own_topics_only(page: Page, account_relay: AccountRelay, topic: str) -> None:
    one, other = Visitor(page, account_relay), Visitor(page, account_relay)
    one.publish(topic, "theirs")
    other.publish(f"{topic}-other", "its own")
    other.log_in(topic)
    until(lambda: page.topics == [f"{topic}-other"], "the own topic is listed")
    until(page.is_live, "the topic of the same name is followed")
    assert page.payloads == []
    other.publish(topic, "mine")
    page.until_payloads(['"mine"'])


def test_tokens_are_in_no_address_and_nowhere_that_outlives_the_page(
    page: Page, account_relay: AccountRelay, topic: str
) -> None:
    Visitor(page, account_relay).log_in(topic)
    until(page.is_live, "it is live")
    log = [json.loads(entry["message"])["message"] for entry in page.driver.get_log("performance")]
    asked = [one["params"]["request"] for one in log if one["method"] == "Network.requestWillBeSent"]
    shown = {value[7:] for one in asked for name, value in one["headers"].items() if name == "Authorization"}
    assert len(shown) == 1
    token = shown.pop()
    urls = [one["url"] for one in asked]
    urls += [one["params"]["url"] for one in log if one["method"] == "Network.webSocketCreated"]
    assert any(url.startswith("ws") for url in urls)
    assert not [url for url in urls if token in url or "token=" in url]
    kept = "return [document.cookie, {...localStorage}, {...sessionStorage}, history.state, location.href]"
    assert page.run(kept)[:4] == ["", {}, {}, None]
    assert token not in page.run(kept)[4]
    assert token not in page.run("return document.documentElement.outerHTML")
    assert page.driver.get_cookies() == []


def test_a_page_that_is_left_ends_its_session(page: Page, account_relay: AccountRelay) -> None:
    visitor = Visitor(page, account_relay)
    visitor.log_in()
    assert len(visitor.sessions()) == 1
    page.driver.refresh()
    until(lambda: visitor.told() == "", "it asks for a login")
    until(lambda: not visitor.sessions(), "the session is over")


def test_who_logs_out_is_forgotten(page: Page, account_relay: AccountRelay, topic: str) -> None:
    visitor = Visitor(page, account_relay)
    visitor.log_in(topic)
    page.publish(topic, '"secret"')
    page.until_payloads(['"secret"'])
    token = page.driver.get_log("performance")
    shown = next(
        one["params"]["request"]["headers"]["Authorization"]
        for one in (json.loads(entry["message"])["message"] for entry in token)
        if one["method"] == "Network.requestWillBeSent"
        and "Authorization" in one["params"]["request"]["headers"]
    )
    page.click("log-out")
    visitor.until_told("Logged out.")
    assert "secret" not in page.run("return document.documentElement.innerHTML")
    assert visitor.sessions() == []
    answer = account_relay.ask("GET", "/auth/me", headers={"Authorization": shown})
    assert answer.json()["error"] == "token_revoked"
    page.driver.refresh()
    until(lambda: visitor.told() == "", "it is told once")


def test_tokens_that_expire_interrupt_nothing(
    page: Page, make_account_relay: Callable[..., AccountRelay], topic: str
) -> None:
    relay = make_account_relay(auth={"access_token_ttl_seconds": SHORT_SECONDS})
    visitor = Visitor(page, relay)
    visitor.log_in(topic)
    until(page.is_live, "it is live")
    assert sockets_opened(page) == 1
    tokens: set[str] = set()
    sent: list[str] = []

    def has_outlived_three_tokens() -> bool:
        for entry in page.driver.get_log("performance"):
            one = json.loads(entry["message"])["message"]
            assert one["method"] != "Network.webSocketCreated"
            if one["method"] == "Network.webSocketFrameSent":
                frame = json.loads(one["params"]["response"]["payloadData"])
                tokens.update([frame["token"]] if frame["type"] == "authenticate" else [])
        sent.append(f'"{len(sent)}"')
        visitor.publish(topic, sent[-1][1:-1])
        return len(tokens) >= 4

    until(has_outlived_three_tokens, "three tokens have expired meanwhile")
    page.until_payloads(sent)
    assert len(visitor.sessions()) >= 1
    page.publish(topic, "1")
    page.until_result("done")


def test_a_connection_that_breaks_comes_back_with_another_token(
    page: Page, make_account_relay: Callable[..., AccountRelay], topic: str
) -> None:
    relay = make_account_relay(auth={"access_token_ttl_seconds": SHORT_SECONDS})
    visitor = Visitor(page, relay)
    visitor.log_in(topic)
    until(page.is_live, "it is live")
    worker = relay.worker
    worker.call(lambda: [one.close("going_away") for one in list(worker.worker.connections)])
    visitor.publish(topic, "after")
    page.until_payloads(['"after"'])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"is_active": False},
            "The connection was closed: this account was closed by an admin. Log in again.",
        ),
        (
            {"password": "another long one"},
            "The connection was closed: what was signed in with was revoked. Log in again.",
        ),
    ],
)
def test_who_may_not_stay_is_told_why_and_nothing_stays_on_the_page(
    page: Page, account_relay: AccountRelay, topic: str, changes: dict[str, object], words: str
) -> None:
    visitor = Visitor(page, account_relay)
    visitor.log_in(topic)
    page.publish(topic, '"secret"')
    page.until_payloads(['"secret"'])
    visitor.patch(**changes)
    visitor.until_told(words)
    assert not is_shown(page, "topics")
    assert "secret" not in page.run("return document.documentElement.innerHTML")


def test_a_user_that_is_deleted_is_told(page: Page, account_relay: AccountRelay, topic: str) -> None:
    visitor = Visitor(page, account_relay)
    visitor.log_in(topic)
    until(page.is_live, "it is live")
    account_relay.ask("DELETE", f"/auth/users/{visitor.id}", account_relay.token())
    visitor.until_told("The connection was closed: this account was deleted. Log in again.")


def test_who_may_not_read_any_more_is_told_so(page: Page, account_relay: AccountRelay, topic: str) -> None:
    visitor = Visitor(page, account_relay)
    visitor.log_in(topic)
    until(page.is_live, "it is live")
    visitor.patch(permissions=["write"])
    until(lambda: page.attribute("tail-state", "data-state") == "refused", "the tail has ended")
    assert "may not read" in page.text("tail-state")


def test_who_signs_in_at_a_provider_lets_the_page_in_like_a_device(
    page: Page, make_account_relay: Callable[..., AccountRelay], topic: str
) -> None:
    page.outages_are_expected = True
    with openid_provider() as provider:
        relay = make_account_relay(
            oidc=oidc(campus=provider.configured()), device={"poll_interval_seconds": 1.0}
        )
        page.allow(provider.url)
        page.open(relay.url, topic)
        until(lambda: page.texts("#sign-in-providers button"), "there is a button")
        assert page.texts("#sign-in-providers button") == ["Sign in with The <provider>"]
        page.run("document.querySelector('#sign-in-providers button').click()")
        until(lambda: is_shown(page, "sign-in-link"), "there is a code")
        code, driver = page.text("sign-in-code"), page.driver
        here = driver.current_window_handle
        page.click("sign-in-link")
        until(lambda: len(driver.window_handles) == 2, "there is another tab")
        driver.switch_to.window(next(one for one in driver.window_handles if one != here))
        try:
            until(lambda: driver.find_elements(By.ID, "approve"), "the provider has sent it back")
            assert driver.find_element(By.ID, "code").text == code
            assert driver.find_element(By.ID, "hint").text == "The relay's page"
            driver.find_element(By.ID, "approve").click()
            until(lambda: driver.find_elements(By.ID, "told"), "it is decided")
        finally:
            driver.close()
            driver.switch_to.window(here)
        until(lambda: is_shown(page, "who"), "the page is logged in")
        until(page.is_live, "it is live")
        driver.get("about:blank")
        driver.delete_all_cookies()


def test_the_form_can_be_used_with_the_keyboard_alone_and_names_its_fields(
    page: Page, account_relay: AccountRelay
) -> None:
    visitor = Visitor(page, account_relay)
    page.open(account_relay.url)
    assert [page.tab() for _ in range(3)][2] == "sign-in-name"
    page.press(visitor.user["username"])
    assert page.tab() == "sign-in-password"
    page.press(visitor.user["password"], Keys.ENTER)
    until(lambda: is_shown(page, "who"), "the page is logged in")
    assert page.run("return document.documentElement.scrollWidth <= innerWidth")
