"""HttpClient: requests to a relay and their answers; every failure is a ClientError."""

from __future__ import annotations

import re
import socket
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urljoin

import msgspec
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.httputil import HTTPHeaders
from tornado.iostream import StreamClosedError
from tornado.simple_httpclient import HTTPTimeoutError, SimpleAsyncHTTPClient

from pulsar_relay import __version__
from pulsar_relay.client.address import Address
from pulsar_relay.client.errors import (
    ClientError,
    LostError,
    NotARelayError,
    RefusedError,
    UnreachableError,
    wrong_fields,
)

Kind = TypeVar("Kind")

CONNECT_SECONDS = 10.0
ANSWER_MAX_BYTES = 2 * 1024 * 1024 * 1024
"""Tornado's own limit, 100 MB, is less than a page of large messages may have."""
USER_AGENT = f"pulsar-relay/{__version__}"

_NEXT_LINK = re.compile(r'<([^>]*)>\s*;\s*rel="?next"?')
_PASSING_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer; what `HttpClient.request` returns is a successful one."""

    status: int
    headers: HTTPHeaders
    body: bytes

    @property
    def next_path(self) -> str | None:
        """Path and query of the next page, from the `Link` header."""
        found = _NEXT_LINK.search(self.headers.get("Link", ""))
        return found[1] if found else None

    def read(self, kind: type[Kind]) -> Kind:
        """The body as a value of this type. Raises NotARelayError."""
        try:
            return msgspec.json.decode(self.body, type=kind)
        except msgspec.DecodeError as error:
            raise NotARelayError(f"the answer is not what was expected ({error}).") from None


class HttpClient:
    """Sends requests to the relay at `address`. Belongs to the event loop it is made in; `close()` it."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._client = SimpleAsyncHTTPClient(
            force_instance=True, max_buffer_size=ANSWER_MAX_BYTES, max_body_size=ANSWER_MAX_BYTES
        )

    async def request(
        self,
        method: str,
        url: str,
        *,
        timeout_seconds: float,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        also: Container[int] = (),
    ) -> Answer:
        """Send one request and return its answer, if the status is 2xx or one of `also`. Raises ClientError;
        never tries twice, but where it was turned away for what it showed, and there is something better.
        """
        credentials = self.address.credentials
        shown = await credentials.shown()
        answer = await self._fetch(method, url, shown, timeout_seconds, body, headers)
        if answer.status == 401 and shown is not None and await credentials.renewed(shown):
            shown = await credentials.shown()
            answer = await self._fetch(method, url, shown, timeout_seconds, body, headers)
        if not 200 <= answer.status < 300 and answer.status not in also:
            raise refusal(self.address, answer.status, answer.headers, answer.body)
        return answer

    async def _fetch(
        self,
        method: str,
        url: str,
        shown: str | None,
        timeout_seconds: float,
        body: bytes | None,
        headers: Mapping[str, str] | None,
    ) -> Answer:
        request = HTTPRequest(
            url,
            method,
            headers=HTTPHeaders({"Content-Type": "application/json", **bearing(shown), **(headers or {})}),
            body=body,
            connect_timeout=min(CONNECT_SECONDS, timeout_seconds),
            request_timeout=timeout_seconds,
            # A POST that is redirected would arrive as a GET.
            follow_redirects=False,
            decompress_response=False,
            user_agent=USER_AGENT,
        )
        try:
            response = await self._client.fetch(request, raise_error=False)
        except (HTTPClientError, OSError) as error:
            raise failure(self.address, error, timeout_seconds) from error
        return Answer(response.code, response.headers, response.body)

    def url_of(self, answered_path: str) -> str:
        """The URL of a path that the relay named in an answer."""
        return urljoin(self.address.base + "/", answered_path)

    def close(self) -> None:
        self._client.close()


def bearing(shown: str | None) -> Mapping[str, str]:
    """The header that shows this access token or API key."""
    return {} if shown is None else {"Authorization": f"Bearer {shown}"}


def failure(address: Address, error: BaseException, timeout_seconds: float = CONNECT_SECONDS) -> ClientError:
    """What an exception of Tornado's says: nobody there, or a connection that broke."""
    if isinstance(error, HTTPTimeoutError) and "during request" in str(error):
        return LostError(f"{address.shown} did not answer within {timeout_seconds:g} s.", code="no_answer")
    if isinstance(error, HTTPTimeoutError | TimeoutError):
        return UnreachableError(address.shown, "no connection in time")
    if isinstance(error, StreamClosedError) and error.real_error is not None:
        error = error.real_error
    if isinstance(error, ConnectionResetError | BrokenPipeError | StreamClosedError | HTTPClientError):
        return LostError(f"the connection to {address.shown} was cut.")
    if isinstance(error, socket.gaierror):
        return UnreachableError(address.shown, f"its name is not known: {error.strerror}")
    assert isinstance(error, OSError)
    return UnreachableError(address.shown, (error.strerror or str(error)).lower())


class _ErrorBody(msgspec.Struct):
    error: str = ""
    message: str = ""
    detail: msgspec.Raw = msgspec.Raw(b"null")
    retry: bool | None = None


def refusal(address: Address, status: int, headers: Mapping[str, str], body: bytes) -> RefusedError:
    """The error an answer with `status` tells of, in the relay's words if they are the relay's."""
    try:
        told = msgspec.json.decode(body, type=_ErrorBody)
    except msgspec.DecodeError:
        told = _ErrorBody()
    is_passing = status in _PASSING_STATUSES
    if told.error:
        code, message = told.error, wrong_fields(told.detail) or told.message
        is_passing = is_passing if told.retry is None else told.retry
    else:
        code = f"http_{status}"
        message = f"{address.shown} answered {status}, and not as a relay does. Is this the relay's address?"
    return RefusedError(
        code, message, is_retryable=is_passing, retry_after_seconds=_seconds(headers.get("Retry-After", ""))
    )


def _seconds(text: str) -> float:
    """The value of `Retry-After`. Its other form, a date, is for days of maintenance, not for a client that
    waits.
    """
    return min(float(text), 60.0) if text.isascii() and text.isdigit() else 0.0
