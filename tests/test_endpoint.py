"""Endpoints: found by their address, answered whatever they raise."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from pulsar_relay.errors import RelayError
from pulsar_relay.web.endpoint import Answer, Endpoint, Endpoints, Request, Route, refuse_encoding, respond
from tests.quiet_logs import quiet_logs as quiet_logs

PLAIN = Request("POST /a", "", {}, {}, b"body")


async def answer(request: Request) -> Answer:
    return Answer(200, request.body)


def test_an_endpoint_is_found_by_method_and_path() -> None:
    one, other = Route("POST", "/a", answer), Route("GET", "/a", answer)
    endpoints = Endpoints([one, other])
    assert endpoints.find(b"POST /a") == (one, "")
    assert endpoints.find(b"GET /a") == (other, "")
    assert endpoints.find(b"PUT /a") is endpoints.find(b"GET /a/") is endpoints.find(b"") is None


def test_the_open_part_of_a_path_is_given_with_it() -> None:
    route = Route("GET", "/topics/{}/messages", answer)
    endpoints = Endpoints([route])
    assert endpoints.find(b"GET /topics/a.b_c-1~/messages") == (route, "a.b_c-1~")


@pytest.mark.parametrize("part", [b"", b"a/b", b"%61", b"\xe4", b"a b", b"a\n", b"a?"])
def test_an_open_part_that_does_not_mean_itself_is_not_found(part: bytes) -> None:
    endpoints = Endpoints([Route("GET", "/topics/{}/messages", answer)])
    assert endpoints.find(b"GET /topics/" + part + b"/messages") is None
    assert endpoints.find(b"GET /topics/a/messages\n") is None


def responding(endpoint: Endpoint) -> Answer:
    async def wait() -> Answer:
        return await respond(endpoint, PLAIN)

    return asyncio.run(wait())


def failing(error: Exception) -> Answer:
    async def fail(request: Request) -> Answer:
        raise error

    return responding(fail)


def test_an_answer_is_what_the_endpoint_answers() -> None:
    assert responding(answer) == Answer(200, b"body")


def test_a_refusal_is_an_answer_and_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    refused = failing(RelayError("store_full", "it holds 3 MiB"))
    assert (refused.status, refused.headers) == (503, {"Retry-After": "5"})
    assert msgspec.json.decode(refused.body)["error"] == "store_full"
    assert not caplog.records


def test_a_bug_is_answered_without_a_word_of_it_and_logged_with_its_place(
    caplog: pytest.LogCaptureFixture,
) -> None:
    refused = failing(ZeroDivisionError("a secret"))
    assert refused.status == 500 and b"secret" not in refused.body
    (record,) = caplog.records
    assert record.getMessage() == "POST /a failed"
    assert record.exc_info is not None and record.exc_info[0] is ZeroDivisionError
    caplog.clear()


def test_a_cancelled_endpoint_answers_nothing() -> None:
    async def be_cancelled(request: Request) -> Answer:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        responding(be_cancelled)


@pytest.mark.parametrize("encoding", [None, "", "identity", " Identity "])
def test_a_body_as_it_is_is_taken(encoding: str | None) -> None:
    refuse_encoding(encoding)


@pytest.mark.parametrize("encoding", ["gzip", "identity, gzip", "br"])
def test_a_compressed_body_is_refused_by_name(encoding: str) -> None:
    with pytest.raises(RelayError, match="unsupported_media_type") as refused:
        refuse_encoding(encoding)
    assert [wrong.type for wrong in refused.value.errors] == ["content_encoding"]
