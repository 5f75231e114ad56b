"""The routes are what the API document says they are, and all answer errors in one shape."""

from __future__ import annotations

import re

import pytest
import requests

from pulsar_relay.answers import ErrorAnswer
from pulsar_relay.operation import KEY, Operation
from pulsar_relay.operations import operations
from pulsar_relay.settings import Settings
from pulsar_relay.web.handler import ApiHandler
from pulsar_relay.web.websocket import RelayWebSocket
from tests.account_relays import AccountRelay
from tests.account_relays import account_relay as account_relay
from tests.test_gate import UPGRADE
from tests.workers import RunningWorker, make_settings

WAIT_SECONDS = 20


def _routes(relay: RunningWorker) -> set[tuple[str, str]]:
    """Method and path of everything the application answers, the paths as the API document writes them."""
    application = relay.worker.api
    found = set()
    for rule in application.wildcard_router.rules:
        path = rule.matcher.regex.pattern.removesuffix("$").removesuffix("/?").replace(r"([^/]+)", "{}")
        path = re.sub(r"\\(.)", r"\1", path)
        assert issubclass(rule.target, ApiHandler | RelayWebSocket)
        found |= {(method, path) for method in rule.target.allowed_methods()}
    return found


OPERATIONS = operations(make_settings(auth={"mode": "accounts"}))


@pytest.fixture(scope="module")
def api_key(account_relay: AccountRelay) -> str:
    asked = {"name": "all", "actions": ["read", "write"], "topics": ["*"]}
    key: str = account_relay.ask("POST", "/auth/keys", account_relay.token(), json=asked).json()["key"]
    return key


def _nameless(path: str) -> str:
    return re.sub(r"{\w+}", "{}", path)


@pytest.fixture(params=["none", "accounts"])
def either(request: pytest.FixtureRequest, relay: RunningWorker) -> RunningWorker:
    """A relay without accounts, and one with them."""
    if request.param == "none":
        return relay
    running: AccountRelay = request.getfixturevalue("account_relay")
    return running.worker


def test_the_api_document_names_every_route_and_no_other(either: RunningWorker) -> None:
    relay = either
    document = requests.get(f"{relay.url}/openapi.json", timeout=WAIT_SECONDS).json()
    documented = {
        (method.upper(), _nameless(path)) for path, methods in document["paths"].items() for method in methods
    }
    assert documented == _routes(relay)


@pytest.mark.parametrize("mode", ["none", "accounts"])
def test_the_operations_are_the_document(
    relay: RunningWorker, account_relay: AccountRelay, mode: str
) -> None:
    listed = {
        (method, _nameless(operation.path))
        for operation in operations(make_settings(auth={"mode": mode}))
        for method in operation.methods
    }
    assert listed == _routes(relay if mode == "none" else account_relay.worker)


def test_without_accounts_there_are_no_addresses_about_them(relay: RunningWorker) -> None:
    for operation in OPERATIONS:
        if operation.path.startswith("/auth/") or operation.path.endswith("/permissions"):
            path = _nameless(operation.path).replace("{}", "a")
            answer = requests.request(operation.methods[0], relay.url + path, timeout=WAIT_SECONDS)
            assert (answer.status_code, answer.json()["error"]) == (404, "not_found")


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: f"{one.methods[0]} {one.path}")
def test_who_must_show_what_is_as_the_document_says(
    account_relay: AccountRelay, api_key: str, operation: Operation
) -> None:
    document = account_relay.ask("GET", "/openapi.json").json()
    method, path = operation.methods[0], _nameless(operation.path).replace("{}", "a")
    described = document["paths"][operation.path][method.lower()]
    asked = {name for one in described.get("security", ()) for name in one}
    assert asked == set(operation.shows)
    assert asked <= set(document["components"]["securitySchemes"])
    if not asked:
        return
    assert described["responses"].keys() >= {"401", "403"}
    nothing = account_relay.ask(method, f"{path}?topics=a", json={}, headers=UPGRADE)
    assert (nothing.status_code, nothing.json()["error"]) == (401, "unauthenticated")
    # What else is wrong with it is told to who may ask.
    answer = account_relay.ask(method, path, api_key, json={})
    is_for_admins = path == "/stats"
    assert (answer.status_code == 403) is (KEY not in asked or is_for_admins), answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/page",
        "/page/none.js",
        "/page/index.html",
        "/api",
        "/api/v1/topics/a/b",
        "/api/v1/topics/a%2Fb",
        "/messages",
        "/%00",
    ],
)
def test_an_unknown_path_is_404_in_the_usual_shape(relay: RunningWorker, path: str) -> None:
    answer = requests.get(relay.url + path, timeout=WAIT_SECONDS)
    assert answer.status_code == 404
    assert not ErrorAnswer().validate(answer.json())
    assert answer.json()["error"] in ("not_found", "topic_not_found")


@pytest.mark.parametrize("operation", operations(Settings()), ids=lambda operation: operation.path)
def test_another_method_is_405_and_says_which_are_known(relay: RunningWorker, operation: object) -> None:
    shape = _nameless(operation.path)  # type: ignore[attr-defined]
    path = shape.replace("{}", "a")
    answer = requests.request("PATCH", relay.url + path, timeout=WAIT_SECONDS)
    assert answer.status_code == 405
    assert answer.json()["error"] == "method_not_allowed"
    known = {method for method, known_path in _routes(relay) if known_path == shape}
    assert set(answer.headers["Allow"].split(", ")) == known


def test_no_answer_names_the_server_software(relay: RunningWorker) -> None:
    for path in ("/health", "/nowhere", "/api/v1/topics"):
        assert "Server" not in requests.get(relay.url + path, timeout=WAIT_SECONDS).headers


def test_a_head_request_is_answered_without_a_body(relay: RunningWorker) -> None:
    answer = requests.head(f"{relay.url}/health", timeout=WAIT_SECONDS)
    assert (answer.status_code, answer.content) == (200, b"")


def test_the_docs_page_needs_nothing_from_elsewhere(relay: RunningWorker) -> None:
    answer = requests.get(f"{relay.url}/docs", timeout=WAIT_SECONDS)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert not re.search(r"(src|href)=[\"'](https?:)?//", answer.text)
