"""The relay's page, used as people use it: in a browser."""

from __future__ import annotations

import http.server
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from selenium.webdriver.common.keys import Keys

from tests import reverse_proxies
from tests.browsers import Page
from tests.browsers import driver as driver
from tests.browsers import page as page
from tests.certificates import SERVER_CERTIFICATE, SERVER_KEY
from tests.conditions import WAIT_SECONDS, until
from tests.posts import publish, stored
from tests.programs import running
from tests.relays import RelayProcess
from tests.reverse_proxies import PROXIES, in_front_of, replaced
from tests.valkeys import TIMEOUT_SCALE
from tests.workers import RunningWorker

# The first of them also waits for the browser to start.
pytestmark = [pytest.mark.system, pytest.mark.timeout(180 * TIMEOUT_SCALE)]


def test_a_relay_that_is_gone_is_said_to_be(
    page: Page, make_relay_process: Callable[..., RelayProcess]
) -> None:
    relay = make_relay_process().start()
    page.outages_are_expected = True
    page.open(relay.url)
    relay.kill()
    until(lambda: page.text("readiness").startswith("Not reached since "), "it says so")
    assert page.text("readiness").endswith("No answer came from the relay.")
    until(lambda: page.text("topics-note").startswith("Topics as they were."), "so do the topics")


def test_without_accounts_nobody_is_asked_who_they_are(page: Page, relay: RunningWorker) -> None:
    page.open(relay.url)
    assert page.element("topics").is_displayed()
    assert not page.element("sign-in").is_displayed()
    assert not page.element("who").is_displayed()
    assert "Authorization" not in page.text("curl-publish")


def test_topics_are_shown_with_what_they_do(page: Page, relay: RunningWorker, topic: str) -> None:
    publish(relay.url, topic, 0)
    page.open(relay.url, topic)
    page.fill("find-name", topic)
    until(
        lambda: page.topics == [topic] and page.texts("td")[3] == "1", "the topic is there, with its reader"
    )
    with publishing(relay.url, topic):
        until(lambda: page.texts("td")[1] not in ("–", "0.0", "0"), "its rate is shown")
    until(lambda: page.texts("td")[2] == f"{len(stored(relay.url, topic)):,}", "all that is kept is counted")


@contextmanager
def publishing(url: str, topic: str) -> Iterator[None]:
    """Again and again, meanwhile."""
    is_over = threading.Event()

    def publish_on() -> None:
        while not is_over.wait(0.05):
            publish(url, topic, 1)

    with ThreadPoolExecutor() as pool:
        work = pool.submit(publish_on)
        try:
            yield
        finally:
            is_over.set()
        work.result()


def test_many_topics_are_shown_a_page_at_a_time(page: Page, relay: RunningWorker, topic: str) -> None:
    names = [f"{topic}-{number:02}" for number in range(45)]
    messages = [{"topic": name, "payload": 0} for name in [*names, f"{topic}x"]]
    body = {"messages": messages}
    requests.post(f"{relay.url}/api/v1/messages/bulk", json=body, timeout=WAIT_SECONDS).raise_for_status()
    page.open(relay.url)
    page.fill("find-name", f"{topic}-")
    until(lambda: page.topics == names[:20], "the first page")
    page.click("topics-on")
    until(lambda: page.topics == names[20:40], "the second")
    page.click("topics-on")
    until(lambda: page.topics == names[40:], "the last, and no other topic on it")
    assert page.attribute("topics-on", "disabled") is not None
    page.click("topics-back")
    until(lambda: page.topics == names[20:40], "back again")
    page.fill("find-name", names[44])
    until(lambda: page.topics == [names[44]], "a name in full")
    page.run("document.querySelector('#topics-table tbody a').click()")
    until(lambda: page.payloads == ["0"], "it is followed")
    assert page.run("return document.querySelector('[aria-current]').textContent") == names[44]
    page.fill("find-name", f"{topic}-none")
    until(lambda: page.text("topics-note").startswith("No topic's name begins with"), "none is said")


def test_everything_can_be_done_with_the_keyboard_alone(page: Page, relay: RunningWorker, topic: str) -> None:
    publish(relay.url, topic, 0)
    page.open(relay.url)
    assert page.tab() == "Skip the list of topics"
    page.press(Keys.ENTER)
    assert page.tab() == "tail-start"
    page.open(relay.url)
    order = ["Skip the list of topics", "HTTP API", "find-name"]
    assert [page.tab() for _ in order] == order
    page.press(topic)
    until(lambda: page.topics == [topic], "the topic is found")
    assert [page.tab(), page.tab()] == ["Follow", topic]
    page.press(Keys.ENTER)
    page.until_payloads(["0"])
    order = ["tail-start", "tail-pause", "tail-clear", "tail-log", "publish-topic", "publish-payload"]
    for expected in order:
        assert page.tab() == expected
        outline = "return getComputedStyle(document.activeElement).outlineStyle"
        assert page.run(outline) != "none", f"one does not see that {expected} has the focus"
    page.press(Keys.CONTROL, "a", Keys.NULL, Keys.DELETE, "[1]", Keys.CONTROL, Keys.ENTER)
    page.until_payloads(["0", "[1]"])
    assert page.tab() == "publish-send"
    page.press(Keys.SPACE)
    page.until_payloads(["0", "[1]", "[1]"])
    lines = [page.text(f"curl-{name}") for name in ("publish", "poll", "stream")]
    rest = [topic, *(stop for line in lines for stop in ("Copy", line))]
    assert [page.tab() for _ in rest] == rest


def test_every_field_and_button_has_a_name(page: Page, relay: RunningWorker) -> None:
    page.open(relay.url)
    nameless = """
        return Array.from(document.querySelectorAll("input, textarea, select, button, [role=log]"))
            .filter((one) => !(one.labels?.length || one.textContent.trim() || one.getAttribute("aria-label")
                || one.getAttribute("aria-labelledby"))).map((one) => one.outerHTML)
    """
    assert page.run(nameless) == []
    # A tail that was read out would never be silent.
    assert page.attribute("tail-log", "aria-live") == "off"


CONTRASTS = """
    const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    const seen = (colour, below) => {
        canvas.fillStyle = below; canvas.fillRect(0, 0, 1, 1);
        canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
        return canvas.getImageData(0, 0, 1, 1).data;
    };
    const light = (pixel) => [0, 1, 2].map((i) => pixel[i] / 255)
        .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
        .reduce((sum, part, i) => sum + part * [0.2126, 0.7152, 0.0722][i], 0);
    const page = getComputedStyle(document.body).backgroundColor;
    const hasText = (one) => Array.from(one.childNodes)
        .some((node) => node.nodeType === 3 && node.data.trim());
    const texts = Array.from(document.querySelectorAll("body *")).filter(
        (one) => one.checkVisibility() && !one.disabled && hasText(one));
    return texts.map((one) => {
        const style = getComputedStyle(one);
        const own = style.backgroundColor;
        const ground = seen(own, page);
        const [a, b] = [light(seen(style.color, page)), light(ground)].sort((x, y) => y - x);
        return [one.tagName + " " + one.textContent.slice(0, 30), (a + 0.05) / (b + 0.05)];
    });
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_follows_the_readers_light_or_dark_and_can_be_read_in_both(
    page: Page, relay: RunningWorker, topic: str, scheme: str
) -> None:
    publish(relay.url, topic, "a")
    page.emulate(features={"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"})
    page.open(relay.url, topic)
    page.until_payloads(['"a"'])
    page.publish(topic, "x")
    page.until_result("failed")
    contrasts = page.run(CONTRASTS)
    assert len(contrasts) > 20
    assert [(text, contrast) for text, contrast in contrasts if contrast < 4.5] == []
    brightness = page.run("return Number(/\\d+/.exec(getComputedStyle(document.body).backgroundColor)[0])")
    assert (brightness > 128) is (scheme == "light")
    moving = """
        const all = Array.from(document.querySelectorAll("*"));
        return all.filter((one) => getComputedStyle(one).transitionDuration !== "0s").length;
    """
    assert page.run(moving) == 0


def test_nothing_sticks_out_of_a_narrow_screen(page: Page, relay: RunningWorker, topic: str) -> None:
    name = f"{topic}-{'n' * (250 - len(topic))}"
    page.emulate(size=(360, 740))
    page.open(relay.url, name)
    until(page.is_live, "it is live")
    publish(relay.url, name, "x" * 3000)
    until(lambda: page.payloads, "it is shown")
    page.fill("find-name", name)
    until(lambda: page.topics == [name], "it is listed")
    assert page.run("return document.documentElement.scrollWidth") == 360


@pytest.mark.parametrize("proxy", list(PROXIES))
def test_it_works_behind_a_reverse_proxy(
    page: Page, relay: RunningWorker, topic: str, proxy: str, tmp_path: Path
) -> None:
    with in_front_of([relay.ports.api], proxy, tmp_path) as address:
        until(lambda: requests.get(f"{address.url}/ready", timeout=WAIT_SECONDS).ok, "the relay is found")
        page.open(address.url, topic)
        until(page.is_live, "it is live")
        page.publish(topic, "1")
        page.until_payloads(["1"])
        assert address.url in page.text("curl-publish")
        # Before the proxy ends, and takes the connection with it.
        page.driver.get("about:blank")


def test_it_works_over_tls(page: Page, relay: RunningWorker, topic: str, tmp_path: Path) -> None:
    port = reverse_proxies.free_port()
    words = reverse_proxies.haproxy(port, [relay.ports.api], tmp_path)
    (tmp_path / "server.pem").write_text(SERVER_CERTIFICATE + SERVER_KEY)
    file = tmp_path / "haproxy.cfg"
    bind = f"bind 127.0.0.1:{port}"
    file.write_text(replaced(file.read_text(), bind, f"{bind} ssl crt {tmp_path}/server.pem"))
    url = f"https://localhost:{port}"
    with running(words, tmp_path):
        until(lambda: answers(f"{url}/ready"), "the relay is found")
        page.open(url, topic)
        until(page.is_live, "it is live")
        page.publish(topic, "1")
        page.until_payloads(["1"])
        page.driver.get("about:blank")


def answers(url: str) -> bool:
    command = ["curl", "-sfk", "-o", "/dev/null", url]
    return subprocess.run(command, check=False, timeout=WAIT_SECONDS).returncode == 0


def test_a_foreign_page_gets_no_connection(page: Page, relay: RunningWorker, topic: str) -> None:
    publish(relay.url, topic, "secret")
    page.outages_are_expected = True
    with foreign_site() as url:
        page.driver.get(url)
        attempt = """
            const [address, done] = arguments;
            const socket = new WebSocket(address);
            socket.onopen = () => done("open");
            socket.onerror = () => done("refused");
        """
        assert page.driver.execute_async_script(attempt, relay.ws_url) == "refused"
        read = "fetch(arguments[0]).then(() => arguments[1]('read'), () => arguments[1]('refused'))"
        history = f"{relay.url}/api/v1/topics/{topic}/messages"
        assert page.driver.execute_async_script(read, history) == "refused"
        page.driver.get("about:blank")
    for kind in ("browser", "performance"):
        page.driver.get_log(kind)


class Blank(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def foreign_site() -> Iterator[str]:
    """An empty page of another origin, without a policy."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Blank) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()
