"""Calls to providers: bounded in time and size, to the address that was given, JSON objects or nothing."""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_plus, urlencode

import msgspec
from tornado.httpclient import HTTPClientError, HTTPRequest, HTTPResponse
from tornado.httputil import HTTPInputError
from tornado.iostream import UnsatisfiableReadError
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from pulsar_relay.errors import RelayError

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
WHOLE_SECONDS = 10.0
"""Of a call, from its beginning to the last byte of the answer."""
MOST_BYTES = 256 * 1024
MOST_AT_ONCE = 20
_MAX_AGE = re.compile(r"(?:^|[,\s])max-age\s*=\s*\"?([0-9]{1,9})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Fetched:
    """A document, and for how long its server says it is good; None if it does not say."""

    document: Mapping[str, Any]
    max_age_seconds: float | None


class ProviderCalls:
    """Raises RelayError `provider_unavailable` where there is no usable answer. To be made in a running loop.

    Redirects are not followed and nothing is decompressed: where secrets go is for the configuration to say,
    and a short answer must not become a long one.
    """

    def __init__(self, *, whole_seconds: float = WHOLE_SECONDS) -> None:
        self._whole_seconds = whole_seconds
        self._http = SimpleAsyncHTTPClient(
            force_instance=True,
            max_clients=MOST_AT_ONCE,
            max_body_size=MOST_BYTES,
            max_buffer_size=MOST_BYTES,
        )

    def close(self) -> None:
        self._http.close()

    async def get(self, url: str, *, bearer: str | None = None) -> Fetched:
        headers = {"Accept": "application/json"}
        if bearer is not None:
            headers["Authorization"] = f"Bearer {bearer}"
        response = await self._call(self._request(url, "GET", headers))
        if response.code != 200:
            raise _unusable(url, f"status {response.code}")
        found = _MAX_AGE.search(response.headers.get("Cache-Control", ""))
        return Fetched(_object(url, response), None if found is None else float(found[1]))

    async def post_form(
        self, url: str, fields: Mapping[str, str], client_id: str, client_secret: str
    ) -> Mapping[str, Any] | None:
        """The answer to a form, sent as this client; None if it was refused."""
        # RFC 6749, 2.3.1: each half is encoded as a form's value first.
        pair = f"{quote_plus(client_id)}:{quote_plus(client_secret)}".encode()
        headers = {
            "Accept": "application/json",
            "Authorization": f"Basic {base64.b64encode(pair).decode()}",
            "Content-Type": "application/x-www-form-urlencoded",
        }
        response = await self._call(self._request(url, "POST", headers, urlencode(fields)))
        if 400 <= response.code < 500:
            return None
        if response.code != 200:
            raise _unusable(url, f"status {response.code}")
        return _object(url, response)

    def _request(
        self, url: str, method: str, headers: Mapping[str, str], body: str | None = None
    ) -> HTTPRequest:
        return HTTPRequest(
            url,
            method,
            dict(headers),
            body,
            connect_timeout=min(CONNECT_SECONDS, self._whole_seconds),
            request_timeout=self._whole_seconds,
            follow_redirects=False,
            decompress_response=False,
            user_agent="pulsar-relay",
        )

    async def _call(self, request: HTTPRequest) -> HTTPResponse:
        try:
            return await self._http.fetch(request, raise_error=False)
        except (HTTPClientError, HTTPInputError, UnsatisfiableReadError, OSError, ValueError) as error:
            raise _unusable(request.url, type(error).__name__) from error


def _object(url: str, response: HTTPResponse) -> Mapping[str, Any]:
    try:
        value = msgspec.json.decode(response.body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _unusable(url, "no JSON") from error
    if not isinstance(value, dict):
        raise _unusable(url, "no JSON object")
    return value


def _unusable(url: str, why: str) -> RelayError:
    # Never what it said: an answer to a client may hold tokens, and a hostile one anything.
    logger.warning("openid: no usable answer from %s (%s)", url.partition("?")[0], why)
    return RelayError("provider_unavailable")
