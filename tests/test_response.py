"""The bytes of an answer."""

from __future__ import annotations

import re
from http import HTTPStatus

import pytest

from pulsar_relay.errors import ERRORS, RelayError
from pulsar_relay.web.endpoint import Answer
from pulsar_relay.web.response import JOINED_BYTES, bare_response, response


def test_an_answer_has_the_headers_of_all_its_own_and_its_length() -> None:
    (data,) = response(Answer(503, b"{}", {"Retry-After": "5", "Set-Cookie": "a=\xe4"}), closes=False)
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    assert re.fullmatch(r"Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", lines.pop(2))
    assert lines == [
        "HTTP/1.1 503 Service Unavailable",
        "Content-Type: application/json",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "Retry-After: 5",
        "Set-Cookie: a=\xe4",
        "Content-Length: 2",
    ]
    assert body == b"{}"


def test_the_last_answer_says_so() -> None:
    (data,) = response(Answer(200, b"{}"), closes=True)
    assert b"\r\nConnection: close\r\n" in data
    assert b"Connection" not in b"".join(response(Answer(200, b"{}"), closes=False))


def test_a_large_body_is_not_copied() -> None:
    body = b"x" * (JOINED_BYTES + 1)
    head, own = response(Answer(200, body), closes=False)
    assert own is body and head.endswith(b"Content-Length: %d\r\n\r\n" % len(body))


@pytest.mark.parametrize("code", [code for code, kind in ERRORS.items() if kind.status])
def test_every_refusal_has_a_status_line(code: str) -> None:
    words = bare_response(RelayError(code))
    status = ERRORS[code].status
    assert status is not None
    assert words.startswith(f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode())
    head, _, body = words.partition(b"\r\n\r\n")
    assert b"Content-Length: %d\r\nConnection: close" % len(body) in head
