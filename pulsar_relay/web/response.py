"""The bytes of an answer on an HTTP/1.1 connection."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import lru_cache
from http import HTTPStatus

from tornado.httputil import format_timestamp

from pulsar_relay.errors import RelayError, render
from pulsar_relay.limits.verdict import UNLIMITED
from pulsar_relay.web.endpoint import Answer

JOINED_BYTES = 64 * 1024
"""A body up to this size is copied behind its head; a larger one goes to the kernel as it is."""


def response(answer: Answer, *, closes: bool) -> tuple[bytes, ...]:
    """The response in pieces: one, or head and body."""
    head = b"%b%b%bContent-Length: %d\r\n%b\r\n" % (
        _beginning(answer.status, int(time.time())),
        b"" if answer.verdict is UNLIMITED else answer.verdict.lines(),
        _lines(answer.headers) if answer.headers else b"",
        len(answer.body),
        b"Connection: close\r\n" if closes else b"",
    )
    if len(answer.body) > JOINED_BYTES:
        return head, answer.body
    return (head + answer.body,)


def _lines(headers: Mapping[str, str]) -> bytes:
    return "".join([f"{name}: {value}\r\n" for name, value in headers.items()]).encode("latin-1")


@lru_cache(maxsize=64)
def _beginning(status: int, now: int) -> bytes:
    """What all answers of a status begin with in one second."""
    # Answers hold what strangers published, at one moment.
    lines = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        "Content-Type: application/json",
        f"Date: {format_timestamp(now)}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "",
    )
    return "\r\n".join(lines).encode("ascii")


def bare_response(error: RelayError) -> bytes:
    """The last words to a connection whose request is refused before it is read."""
    status, headers, body = render(error)
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += [f"Content-Length: {len(body)}", "Connection: close", "", ""]
    return "\r\n".join(lines).encode("latin-1") + body
