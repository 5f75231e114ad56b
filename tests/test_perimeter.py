"""Names, pages and addresses: what a request's headers alone let pass."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
import requests
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from pulsar_relay.settings import ServerSettings
from pulsar_relay.web.perimeter import Perimeter
from tests.workers import RunningWorker

WAIT_SECONDS = 20
PAGE = "https://galaxy.example"
OTHER = "https://else.example"


@pytest.mark.parametrize(
    ("allowed", "host", "is_admitted"),
    [
        (None, "anything", True),
        (("*",), "anything", True),
        (("relay.example",), "relay.example", True),
        (("relay.example",), "RELAY.example:8080", True),
        (("relay.example",), "relay.example.", True),
        (("relay.example.",), "relay.example", True),
        (("relay.example",), "sub.relay.example", False),
        (("relay.example",), "relay.example.evil.example", False),
        (("relay.example",), "", False),
        (("*.example",), "relay.example", True),
        (("*.example",), "a.relay.example:1", True),
        (("*.example",), "example", False),
        (("*.example",), "notexample", False),
        (("[::1]",), "[::1]:8080", True),
        (("[::1]",), "[::2]:8080", False),
        (("127.0.0.1",), "127.0.0.1:8080", True),
    ],
)
def test_a_relay_is_asked_by_the_names_it_has(
    allowed: tuple[str, ...] | None, host: str, is_admitted: bool
) -> None:
    assert Perimeter(ServerSettings(allowed_hosts=allowed)).admits_host(host) is is_admitted


@pytest.mark.parametrize(
    ("allowed", "origin", "is_admitted"),
    [
        (None, PAGE, False),
        (("*",), PAGE, True),
        ((PAGE,), PAGE, True),
        ((PAGE,), OTHER, False),
        ((PAGE,), PAGE + ".evil.example", False),
        ((PAGE,), "null", False),
    ],
)
def test_pages_of_the_origins_that_are_listed_may_use_it(
    allowed: tuple[str, ...] | None, origin: str, is_admitted: bool
) -> None:
    perimeter = Perimeter(ServerSettings(allowed_origins=allowed))
    assert perimeter.admits_origin(origin) is is_admitted
    # And open WebSockets: of the browser's own word for it `cross-site` is the truth.
    assert perimeter.admits_page({"origin": origin, "sec-fetch-site": "cross-site"}) is is_admitted


@pytest.fixture
def guarded(make_relay: Callable[..., RunningWorker]) -> RunningWorker:
    return make_relay(server={"allowed_hosts": ("localhost",), "allowed_origins": (PAGE,)})


def _ask(
    relay: RunningWorker, method: str, path: str, host: str = "localhost", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """The answer's status, its headers by their names in lower case, and its body."""
    connection = http.client.HTTPConnection("127.0.0.1", relay.ports.api, timeout=WAIT_SECONDS)
    try:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        body = json.dumps({"topics": ["t"], "timeout": 1}) if method == "POST" else None
        connection.request(method, path, body, {"Host": host, **given})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/health"), ("POST", "/messages/poll"), ("GET", "/none")]
)
def test_another_name_is_refused_wherever_it_is_asked(guarded: RunningWorker, method: str, path: str) -> None:
    status, _, body = _ask(guarded, method, path, "else.example", Content_Type="application/json")
    assert (status, json.loads(body)["error"]) == (400, "host_not_allowed")
    status, _, _ = _ask(guarded, method, path, Content_Type="application/json")
    assert status in (200, 404)


def test_a_websocket_is_refused_by_another_name_too(guarded: RunningWorker) -> None:
    with pytest.raises(InvalidStatus) as refused:
        connect(guarded.ws_url, open_timeout=WAIT_SECONDS)
    assert refused.value.response.status_code == 400
    with connect(guarded.ws_url.replace("127.0.0.1", "localhost"), open_timeout=WAIT_SECONDS):
        pass


def test_a_page_of_a_listed_origin_opens_a_websocket_and_another_does_not(
    make_relay: Callable[..., RunningWorker],
) -> None:
    relay = make_relay(server={"allowed_origins": (PAGE,)})
    with connect(relay.ws_url, origin=PAGE, open_timeout=WAIT_SECONDS):  # type: ignore[arg-type]
        pass
    with pytest.raises(InvalidStatus) as refused:
        connect(relay.ws_url, origin=OTHER, open_timeout=WAIT_SECONDS)  # type: ignore[arg-type]
    assert refused.value.response.status_code == 403


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/health"),
        ("POST", "/messages/poll"),
        ("GET", "/api/v1/topics/none/messages"),
        ("GET", "/none"),
    ],
)
def test_a_page_of_a_listed_origin_may_read_each_answer(
    guarded: RunningWorker, method: str, path: str
) -> None:
    asked = {"Content_Type": "application/json"}
    _, headers, _ = _ask(guarded, method, path, Origin=PAGE, **asked)
    assert headers["access-control-allow-origin"] == PAGE
    assert headers["vary"] == "Origin"
    assert "Retry-After" in headers["access-control-expose-headers"]
    _, headers, _ = _ask(guarded, method, path, Origin=OTHER, **asked)
    assert "access-control-allow-origin" not in headers
    assert headers["vary"] == "Origin"


def test_an_event_stream_may_be_read_by_it_too(make_relay: Callable[..., RunningWorker]) -> None:
    relay = make_relay(server={"allowed_origins": ("*",)})
    address = f"{relay.url}/api/v1/stream?topics=t"
    with requests.get(address, headers={"Origin": PAGE}, stream=True, timeout=WAIT_SECONDS) as answer:
        assert answer.headers["Access-Control-Allow-Origin"] == "*"


@pytest.mark.parametrize("path", ["/api/v1/messages", "/api/v1/topics/a", "/health"])
def test_a_preflight_allows_what_the_api_needs(guarded: RunningWorker, path: str) -> None:
    asked = {"Access_Control_Request_Method": "PATCH", "Origin": PAGE}
    status, headers, _ = _ask(guarded, "OPTIONS", path, **asked)
    assert status == 204
    assert headers["access-control-allow-origin"] == PAGE
    assert "PATCH" in headers["access-control-allow-methods"]
    assert "Idempotency-Key" in headers["access-control-allow-headers"]
    status, headers, _ = _ask(guarded, "OPTIONS", path, **{**asked, "Origin": OTHER})
    assert status == 403
    assert "access-control-allow-origin" not in headers


def test_what_is_no_preflight_is_a_method_nobody_knows(guarded: RunningWorker) -> None:
    status, headers, _ = _ask(guarded, "OPTIONS", "/health")
    assert (status, headers["allow"]) == (405, "GET, HEAD")


def test_without_a_list_nothing_is_said_of_origins(relay: RunningWorker) -> None:
    status, headers, _ = _ask(relay, "GET", "/health", urlsplit(relay.url).netloc, Origin=PAGE)
    assert status == 200
    assert not {name for name in headers if name.startswith("access-control") or name == "vary"}
