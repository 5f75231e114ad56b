"""The page's form and its lines for a shell: how one publishes from a browser, and after it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import pytest
import requests

from pulsar_relay import __version__
from pulsar_relay.errors import ERRORS
from tests.browsers import Page
from tests.browsers import driver as driver
from tests.browsers import page as page
from tests.conditions import WAIT_SECONDS, until
from tests.faults.proxy import FaultProxy
from tests.posts import NASTY, stored
from tests.valkeys import TIMEOUT_SCALE, RealValkey
from tests.workers import RunningWorker

# The first of them also waits for the browser to start.
pytestmark = [pytest.mark.system, pytest.mark.timeout(180 * TIMEOUT_SCALE)]


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ('{"a": }', "Nothing was sent: the payload is not JSON."),
        ("", "Nothing was sent: the payload is not JSON."),
        ("NaN", "Nothing was sent: the payload is not JSON."),
        ('1, "ttl": 1', "Nothing was sent: the payload is not JSON."),
    ],
)
def test_a_payload_that_is_not_json_is_not_sent(
    page: Page, relay: RunningWorker, topic: str, payload: str, words: str
) -> None:
    page.open(relay.url)
    page.publish(topic, payload)
    assert page.until_result("failed").startswith(words)
    assert page.attribute("publish-payload", "aria-invalid") == "true"
    assert page.driver.switch_to.active_element.get_attribute("id") == "publish-payload"
    answer = requests.get(f"{relay.url}/api/v1/topics/{topic}", timeout=WAIT_SECONDS)
    assert answer.json()["error"] == "topic_not_found"
    page.publish(topic, "1")
    page.until_result("done")
    assert page.attribute("publish-payload", "aria-invalid") is None


def test_a_name_that_no_topic_can_have_is_not_sent(page: Page, relay: RunningWorker) -> None:
    page.open(relay.url)
    page.publish("a/b", "1")
    assert "A topic's name is" in page.until_result("failed", "Nothing was sent.")
    assert page.attribute("publish-topic", "aria-invalid") == "true"


@pytest.mark.parametrize(
    ("payload", "code"), [('"\\ud800"', "invalid_json"), ("[" * 200 + "]" * 200, "nested_too_deeply")]
)
def test_a_refusal_is_shown_in_the_relays_words(
    page: Page, relay: RunningWorker, topic: str, payload: str, code: str
) -> None:
    page.outages_are_expected = True  # a refusal is a failed request to a browser
    page.open(relay.url)
    page.publish(topic, payload)
    said = page.until_result("failed")
    assert said.startswith(ERRORS[code].message)
    assert said.endswith(f"({code})")


def test_a_publish_whose_answer_is_lost_is_sent_again_and_stored_once(
    page: Page, relay: RunningWorker, make_proxy: Callable[..., FaultProxy], topic: str
) -> None:
    proxy = make_proxy(("127.0.0.1", relay.ports.api))
    page.outages_are_expected = True
    page.open(proxy.url)
    proxy.swallow(proxy.replies)
    page.publish(topic, '"once"')
    until(lambda: stored(relay.url, topic), "it is stored")
    proxy.reset()
    proxy.heal()
    page.until_result("done", "Stored in")
    assert stored(relay.url, topic) == ["once"]


def test_a_relay_that_cannot_store_is_asked_again_until_it_can(
    page: Page,
    make_valkey: Callable[..., RealValkey],
    make_relay: Callable[..., RunningWorker],
    topic: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    valkey = make_valkey().start()
    relay = make_relay(valkey.socket_path)
    page.outages_are_expected = True
    page.open(relay.url)
    until(lambda: page.text("readiness") == "Ready. Durability: memory.", "it is ready")
    assert page.text("version") == __version__
    valkey.kill()
    until(lambda: page.text("readiness").startswith("Not ready."), "it is not ready")
    message = ERRORS["store_unavailable"].message
    assert page.text("readiness").startswith(f"Not ready. {message} (store_unavailable: valkey_write")
    assert page.driver.title == "not ready · pulsar-relay"
    page.publish(topic, '"at last"')
    page.until_result("failed", f"{message} (store_unavailable) Trying again")
    valkey.start()
    page.until_result("done", "Stored in")
    assert stored(relay.url, topic) == ["at last"]
    until(lambda: page.text("readiness").startswith("Ready."), "it is ready again")


@pytest.mark.parametrize("payload", [NASTY, '{"a":\n\t"b"}'])
def test_the_curl_lines_do_in_a_shell_what_they_say(
    page: Page, relay: RunningWorker, topic: str, payload: str
) -> None:
    page.open(relay.url, topic)
    until(page.is_live, "it is live")
    page.fill("publish-payload", payload)
    published = run_line(page.text("curl-publish"))
    assert published["topic"] == topic
    [message] = run_line(page.text("curl-poll"))["messages"]
    assert message["message_id"] == published["message_id"]
    assert message["payload"] == json.loads(payload)
    until(lambda: page.payloads, "the page shows it too")
    streaming = subprocess.Popen(
        ["sh", "-c", f"exec {page.text('curl-stream')}"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert streaming.stdout is not None
        data = next(line for line in streaming.stdout if line.startswith('data: {"type":"message"'))
        assert json.loads(data.removeprefix("data: "))["payload"] == json.loads(payload)
    finally:
        streaming.kill()
        streaming.communicate()


def run_line(line: str) -> dict[str, object]:
    done = subprocess.run(["sh", "-c", line], check=True, capture_output=True, timeout=WAIT_SECONDS)
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_a_curl_line_is_copied(page: Page, relay: RunningWorker, topic: str) -> None:
    page.open(relay.url, topic)
    permissions = {"origin": relay.url, "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    page.driver.execute_cdp_cmd("Browser.grantPermissions", permissions)
    page.run("document.querySelector('#curl .line button').click()")
    until(lambda: page.text("curl-copied") == "Copied.", "it says so")
    read = "navigator.clipboard.readText().then(arguments[0])"
    assert page.driver.execute_async_script(read) == page.text("curl-publish")
