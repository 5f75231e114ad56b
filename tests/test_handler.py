"""What all addresses have in common: one shape of errors, methods, trailing slashes, headers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import requests

from pulsar_relay.answers import ErrorAnswer
from pulsar_relay.errors import RelayError
from pulsar_relay.web.health import HealthHandler
from pulsar_relay.web.topics import StatsHandler
from tests.conditions import WAIT_SECONDS
from tests.quiet_logs import quiet_logs as quiet_logs
from tests.raw_http import RawConnection
from tests.workers import RunningWorker

MakeRelay = Callable[..., RunningWorker]
PATHS = {
    "/api/v1/messages": "POST",
    "/api/v1/messages/bulk": "POST",
    "/messages/poll": "POST",
    "/messages/poll/stats": "GET",
    "/api/v1/poll": "GET",
    "/api/v1/stream": "GET",
    "/ws": "GET",
    "/api/v1/topics": "GET, POST",
    "/api/v1/topics/a": "GET, PUT, DELETE",
    "/api/v1/topics/a/messages": "GET",
    "/stats": "GET",
    "/health": "GET, HEAD",
    "/ready": "GET, HEAD",
    "/metrics": "GET, HEAD",
    "/openapi.json": "GET, HEAD",
    "/docs": "GET, HEAD",
}


def ask(relay: RunningWorker, method: str, path: str, **options: Any) -> requests.Response:
    return requests.request(method, relay.url + path, timeout=WAIT_SECONDS, allow_redirects=False, **options)


@pytest.mark.parametrize(
    ("path", "allowed", "method"),
    [
        (path, allowed, method)
        for path, allowed in PATHS.items()
        for method in ("PUT", "PATCH", "OPTIONS", "TRACE", "BREW")
        if method not in allowed
    ],
)
def test_another_method_is_405_and_says_which_are_known(
    relay: RunningWorker, path: str, allowed: str, method: str
) -> None:
    answer = ask(relay, method, path)
    assert (answer.status_code, answer.headers["Allow"]) == (405, allowed)
    assert not ErrorAnswer().validate(answer.json())
    assert answer.json()["error"] == "method_not_allowed"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_no_method_is_known_where_there_is_nothing(relay: RunningWorker, method: str) -> None:
    answer = ask(relay, method, "/nothing/here")
    assert answer.status_code == 404
    assert not ErrorAnswer().validate(answer.json())


@pytest.mark.parametrize(("path", "allowed"), PATHS.items())
def test_an_address_with_a_slash_too_many_leads_to_the_address(
    relay: RunningWorker, path: str, allowed: str
) -> None:
    method = allowed.split(", ", maxsplit=1)[0]
    answer = ask(relay, method, f"{path}/?a=1")
    # 307: whoever follows it sends the same request again.
    assert (answer.status_code, answer.headers["Location"]) == (307, f"{path}?a=1")
    assert answer.content == b""


def test_a_publish_to_an_address_with_a_slash_too_many_arrives(relay: RunningWorker, topic: str) -> None:
    body = {"topic": topic, "payload": 1}
    answer = requests.post(f"{relay.url}/api/v1/messages/", json=body, timeout=WAIT_SECONDS)
    assert answer.status_code == 201


@pytest.mark.parametrize(
    "path", ["//a/", "//elsewhere.example/", "/nothing/", "/health//", "//elsewhere.example/health/", "/\\a/"]
)
def test_a_slash_leads_to_no_address_that_there_is_not(relay: RunningWorker, path: str) -> None:
    with RawConnection(relay.ports.api) as connection:
        answer = connection.request("GET", path)
        assert (answer.status, answer.error) == (404, "not_found")


def test_a_head_request_is_answered_as_a_get_without_the_body(relay: RunningWorker) -> None:
    for path, allowed in PATHS.items():
        if "HEAD" in allowed and path != "/metrics":
            got, head = ask(relay, "GET", path), ask(relay, "HEAD", path)
            assert head.status_code == got.status_code
            assert head.content == b""
            assert head.headers["Content-Type"] == got.headers["Content-Type"]
            assert abs(int(head.headers["Content-Length"]) - len(got.content)) < 20


def test_every_answer_forbids_to_keep_it_and_to_guess_its_type(relay: RunningWorker) -> None:
    for path in [*PATHS, "/nothing"]:
        answer = ask(relay, "PATCH", path)
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "Server" not in answer.headers
        assert "Etag" not in answer.headers


def test_what_may_succeed_later_says_when(make_relay: MakeRelay, monkeypatch: pytest.MonkeyPatch) -> None:
    async def get(self: StatsHandler) -> None:
        raise RelayError("store_full", "it holds 3 MiB")

    relay = make_relay()
    monkeypatch.setattr(StatsHandler, "get", get)
    answer = ask(relay, "GET", "/stats")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert answer.json()["error"] == "store_full"
    assert answer.json()["retry"] is True
    assert answer.json()["message"].endswith("it holds 3 MiB")


@pytest.mark.parametrize("place", ["get", "prepare", "set_default_headers", "answer"])
def test_a_bug_is_500_in_the_usual_shape_and_logged_once_with_its_place(
    make_relay: MakeRelay, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    failures = []

    def fail(self: HealthHandler, *arguments: Any) -> None:
        failures.append(1)
        # Once: what makes the answer about the failure is used too.
        if len(failures) == 1:
            raise ZeroDivisionError("a secret")

    relay = make_relay()
    monkeypatch.setattr(HealthHandler, place, fail)
    answer = ask(relay, "GET", "/health?token=another-secret")
    assert answer.status_code == 500
    assert not ErrorAnswer().validate(answer.json())
    assert "secret" not in answer.text
    assert answer.headers["Retry-After"] == "1"
    logged = [record for record in caplog.records if record.exc_info]
    assert [record.exc_info[0] for record in logged if record.exc_info] == [ZeroDivisionError]
    # The path, not the query: what is in there is nobody's business.
    assert "another-secret" not in logged[0].getMessage()
    caplog.clear()


def test_a_refusal_is_no_bug_and_not_logged(relay: RunningWorker, caplog: pytest.LogCaptureFixture) -> None:
    for path in ("/nothing", "/api/v1/poll", "/api/v1/topics/never", "/api/v1/topics/%ff"):
        assert 400 <= ask(relay, "GET", path).status_code < 500
    assert not caplog.records
