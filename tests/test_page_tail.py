"""The page's tail: a topic as it grows, in a browser."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from tests.browsers import Page
from tests.browsers import driver as driver
from tests.browsers import page as page
from tests.conditions import WAIT_SECONDS, until
from tests.faults.proxy import FaultProxy
from tests.posts import NASTY, publish, send
from tests.relays import RelayProcess
from tests.valkeys import TIMEOUT_SCALE, RealValkey
from tests.workers import RunningWorker

# The first of them also waits for the browser to start.
pytestmark = [pytest.mark.system, pytest.mark.timeout(180 * TIMEOUT_SCALE)]


def test_what_is_published_on_the_page_arrives_on_it(page: Page, relay: RunningWorker, topic: str) -> None:
    page.open(relay.url)
    page.publish(topic, '{"job": 7}')
    said = page.until_result("done")
    # Nothing was chosen: the reader sees at once what became of it.
    page.until_payloads(['{"job": 7}'])
    [identifier] = page.texts("#tail-log .message .id")
    assert said == f"Stored in {topic} as {identifier}."
    assert page.driver.current_url == f"{relay.url}/#topic={topic}"
    assert page.driver.title == f"{topic} · pulsar-relay"
    page.publish(topic, "[1, 2]")
    page.until_payloads(['{"job": 7}', "[1, 2]"])


def test_what_others_publish_arrives(page: Page, relay: RunningWorker, topic: str) -> None:
    page.open(relay.url, topic)
    until(page.is_live, "it is live")
    body = json.dumps({"topic": topic, "payload": "from a shell", "metadata": {"source": "<b>curl</b>"}})
    json_type = "Content-Type: application/json"
    command = ["curl", "-sS", "-f", f"{relay.url}/api/v1/messages", "-H", json_type, "-d", body]
    subprocess.run(command, check=True, timeout=WAIT_SECONDS, stdout=subprocess.DEVNULL)
    page.until_payloads(['"from a shell"'])
    assert page.texts("#tail-log .metadata") == ['metadata {"source":"<b>curl</b>"}']


def test_a_payload_is_shown_as_text_just_as_it_was_published(
    page: Page, relay: RunningWorker, topic: str
) -> None:
    page.open(relay.url, topic)
    until(page.is_live, "it is live")
    scripts = page.run("return document.scripts.length")
    send(relay.url, topic, NASTY)
    page.publish(topic, NASTY)
    page.until_payloads([NASTY, NASTY])
    assert page.run("return document.scripts.length") == scripts
    assert page.run("return document.querySelectorAll('#tail-log pre *').length") == 0
    assert page.run("return window.hurt ?? null") is None


def test_a_long_payload_is_cut_and_says_so(page: Page, relay: RunningWorker, topic: str) -> None:
    page.open(relay.url, topic)
    until(page.is_live, "it is live")
    publish(relay.url, topic, "é" * 30_000)
    until(lambda: page.payloads, "it is shown")
    [shown] = page.payloads
    whole = json.dumps("é" * 30_000)
    assert whole.startswith(shown)
    assert page.texts("#tail-log .message > p")[1:] == [f"… and {len(whole) - len(shown):,} more characters."]


@pytest.mark.parametrize(("start", "begins_at"), [("recent", 5), ("earliest", 0), ("latest", 15)], ids=str)
def test_a_tail_begins_where_the_reader_says(
    page: Page, relay: RunningWorker, topic: str, start: str, begins_at: int
) -> None:
    for number in range(15):
        publish(relay.url, topic, number)
    page.open(relay.url)
    page.run("document.getElementById('tail-start').value = arguments[0]", start)
    page.follow(topic)
    publish(relay.url, topic, 15)
    page.until_payloads([str(number) for number in range(begins_at, 16)])


def test_a_pause_shows_nothing_and_misses_nothing(page: Page, relay: RunningWorker, topic: str) -> None:
    page.open(relay.url, topic)
    until(page.is_live, "it is live")
    publish(relay.url, topic, 1)
    page.until_payloads(["1"])
    page.click("tail-pause")
    assert page.text("tail-state").startswith("Paused.")
    until(lambda: not subscribers(relay, topic), "nothing is read meanwhile")
    publish(relay.url, topic, 2)
    assert page.payloads == ["1"]
    page.click("tail-pause")
    page.until_payloads(["1", "2"])
    page.click("tail-clear")
    publish(relay.url, topic, 3)
    page.until_payloads(["3"])


def subscribers(relay: RunningWorker, topic: str) -> int:
    answer = requests.get(f"{relay.url}/api/v1/topics/{topic}", timeout=WAIT_SECONDS)
    number: int = answer.json()["subscribers"]
    return number


def test_of_a_flood_the_newest_stay_on_the_page(page: Page, relay: RunningWorker, topic: str) -> None:
    page.open(relay.url, topic)
    until(page.is_live, "it is live")
    for start in range(0, 2000, 1000):
        messages = [{"topic": topic, "payload": start + number} for number in range(1000)]
        body = {"messages": messages}
        requests.post(f"{relay.url}/api/v1/messages/bulk", json=body, timeout=WAIT_SECONDS).raise_for_status()
    until(lambda: page.payloads[-1:] == ["1999"], "the last one is shown")
    assert page.payloads == [str(number) for number in range(1700, 2000)]
    assert page.texts("#tail-log > p") == ["What came before is no longer on this page."]
    assert page.text("tail-count") == "2,000 received"
    # Who looks at the end sees what comes.
    left = """
        const log = document.getElementById("tail-log");
        return log.scrollHeight - log.scrollTop - log.clientHeight;
    """
    until(lambda: page.run(left) < 2, "its end is in sight")


def test_a_gap_is_shown_where_it_is(page: Page, relay: RunningWorker, topic: str) -> None:
    page.open(relay.url, topic)
    until(page.is_live, "it is live")
    publish(relay.url, topic, 1)
    page.until_payloads(["1"])
    page.click("tail-pause")
    publish(relay.url, topic, 2)
    publish(relay.url, topic, 3)
    requests.delete(f"{relay.url}/api/v1/topics/{topic}", timeout=WAIT_SECONDS).raise_for_status()
    publish(relay.url, topic, 4)
    page.click("tail-pause")
    page.until_payloads(["1", "4"])
    assert page.kinds_of_rows == ["message", "notice", "message"]
    [notice] = page.texts("#tail-log .notice")
    identifier = page.texts("#tail-log .message .id")[-1]
    assert notice == (
        f"Gap: here 2 messages are missing; they are no longer kept. The next one there is: {identifier}."
    )


def test_a_reset_is_shown_where_it_is(
    page: Page,
    relay: RunningWorker,
    make_valkey: Callable[..., RealValkey],
    make_relay: Callable[..., RunningWorker],
    make_proxy: Callable[..., FaultProxy],
    topic: str,
) -> None:
    other = make_relay(make_valkey().start().socket_path)
    publish(other.url, topic, "of another store")
    proxy = make_proxy(("127.0.0.1", relay.ports.api))
    page.outages_are_expected = True
    page.open(proxy.url, topic)
    until(page.is_live, "it is live")
    publish(relay.url, topic, 1)
    page.until_payloads(["1"])
    proxy.target = ("127.0.0.1", other.ports.api)
    proxy.reset()
    until(lambda: page.texts("#tail-log .notice"), "the reader is told")
    publish(other.url, topic, "and on")
    page.until_payloads(["1", '"and on"'])
    assert page.kinds_of_rows == ["message", "notice", "message"]
    [notice] = page.texts("#tail-log .notice")
    assert notice.startswith("Reset: reading begins anew here; ")
    # Before the relays end.
    page.driver.get("about:blank")


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_a_relay_that_goes_and_comes_back_costs_the_tail_nothing(
    page: Page, make_relay_process: Callable[..., RelayProcess], topic: str, end: str
) -> None:
    relay = make_relay_process().start()
    page.outages_are_expected = True
    page.open(relay.url, topic)
    until(page.is_live, "it is live")
    is_over = threading.Event()

    def publish_all() -> list[int]:
        sent: list[int] = []
        while not is_over.is_set() or len(sent) < 50:
            try:
                publish(relay.url, topic, len(sent), **{"Idempotency-Key": f"{topic}-{len(sent)}"})
                sent.append(len(sent))
            except requests.RequestException:
                time.sleep(0.01)  # it is away
        return sent

    with ThreadPoolExecutor() as pool:
        try:
            publishing = pool.submit(publish_all)
            until(lambda: len(page.payloads) >= 10, "it receives")
            (relay.kill if end == "kill" else relay.stop)()
            until(lambda: page.attribute("tail-state", "data-state") == "lost", "it says that it is cut off")
            shown = len(page.payloads)
            relay.start()
            until(page.is_live, "it has come back")
            until(lambda: len(page.payloads) > shown, "it receives again")
        finally:
            is_over.set()
        sent = publishing.result()
    until(lambda: page.payloads[-1:] == [str(sent[-1])], "the last one is shown")
    # Each once and in order; of very many only the newest are still there.
    assert page.payloads == [str(number) for number in sent][-300:]
    assert not page.texts("#tail-log .notice")
    assert page.text("tail-count") == f"{len(sent):,} received"
    until(lambda: page.attribute("readiness", "data-state") == "ready", "it is ready again")
