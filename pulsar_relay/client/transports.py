"""The three ways to receive from a relay, each as frames from given cursors until the connection ends.

A transport is asked for `frames` by topic: the message id, `earliest` or `latest`, and the epoch that came
with it, if any, for which not every transport has a place. It yields at least one PositionFrame once the
relay has accepted, ends only by a ClientError, and closes its connection when the iterator is closed. A
consumer that does not ask for the next frame stops the reading, not the event loop.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from itertools import chain, repeat
from typing import Protocol

from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.httputil import HTTPHeaders
from tornado.websocket import WebSocketClosedError, WebSocketError, websocket_connect

from pulsar_relay.client.address import Address
from pulsar_relay.client.errors import ClientError, LostError, NotARelayError, RefusedError
from pulsar_relay.client.event_stream import EventTransport as EventTransport
from pulsar_relay.client.frames import Frame, PositionFrame, read_frame, read_poll
from pulsar_relay.client.http import CONNECT_SECONDS, USER_AGENT, HttpClient, bearing, failure, refusal

PING_SECONDS = 20.0
"""A WebSocket whose relay leaves a ping unanswered this long is dead."""
FIRST_POLL_SECONDS = 1
POLL_SECONDS = 30
POLL_MARGIN_SECONDS = 15.0
POLL_MESSAGES = 1000
TAKEN_OVER = 4003
"""The close code for who must not come back."""
FRAME_MAX_BYTES = 1024 * 1024 * 1024


class Transport(Protocol):
    def frames(self, cursors: Mapping[str, str], epochs: Mapping[str, str]) -> AsyncGenerator[Frame]: ...


class WebSocketTransport:
    def __init__(self, address: Address, client_id: str | None = None) -> None:
        self._address = address
        self._client_id = client_id

    async def frames(self, cursors: Mapping[str, str], epochs: Mapping[str, str]) -> AsyncGenerator[Frame]:
        request = HTTPRequest(
            self._address.websocket_url(),
            headers=HTTPHeaders(bearing(await self._address.credentials.shown())),
            connect_timeout=CONNECT_SECONDS,
            request_timeout=CONNECT_SECONDS,
            user_agent=USER_AGENT,
        )
        try:
            connection = await websocket_connect(
                request,
                ping_interval=PING_SECONDS,
                ping_timeout=PING_SECONDS,
                max_message_size=FRAME_MAX_BYTES,
            )
        except WebSocketError as error:
            raise NotARelayError(f"{self._address.shown} answered, but not over WebSocket.") from error
        except (HTTPClientError, OSError) as error:
            response = getattr(error, "response", None)
            if response is not None and response.code < 599:
                raise refusal(self._address, response.code, response.headers, response.body) from error
            raise failure(self._address, error) from error
        try:
            with suppress(WebSocketClosedError):
                await connection.write_message(_subscribe_frame(cursors, epochs, self._client_id))
            while (text := await connection.read_message()) is not None:
                frame = read_frame(text if isinstance(text, bytes) else text.encode())
                if frame is not None:
                    yield frame
            raise closed(connection.close_code, connection.close_reason)
        finally:
            connection.close()


def _subscribe_frame(cursors: Mapping[str, str], epochs: Mapping[str, str], client_id: str | None) -> str:
    frame = {
        "type": "subscribe",
        "topics": list(cursors),
        "offset": dict(cursors),
        "epochs": dict(epochs),
        "client_id": client_id,
    }
    return json.dumps(frame)


def closed(code: int | None, reason: str | None) -> ClientError:
    """What the end of a WebSocket means; a relay that stops says when to come back."""
    if code == TAKEN_OVER:
        message = "another connection presented the same client_id."
        return RefusedError("taken_over", message, is_retryable=False)
    words = " ".join(str(word) for word in (code, reason) if word)
    hint = re.search(r"; retry_ms=(\d+)$", reason or "", re.ASCII)
    return LostError(
        f"the relay closed the connection ({words or 'without a word'}).",
        retry_after_seconds=int(hint[1]) / 1000 if hint else 0.0,
    )


class PollTransport:
    def __init__(self, http: HttpClient, client_id: str | None = None) -> None:
        self._http = http
        self._client_id = client_id

    async def frames(self, cursors: Mapping[str, str], epochs: Mapping[str, str]) -> AsyncGenerator[Frame]:
        since = dict(cursors)
        # The first is short: it tells soon that the relay accepts, and where "latest" is.
        for wait_seconds in chain([FIRST_POLL_SECONDS], repeat(POLL_SECONDS)):
            for frame in await poll(self._http, since, wait_seconds=wait_seconds, client_id=self._client_id):
                yield frame
                if isinstance(frame, PositionFrame):
                    since.update(frame.cursors)


async def poll(
    http: HttpClient,
    since: Mapping[str, str],
    *,
    wait_seconds: float,
    client_id: str | None = None,
    limit: int = POLL_MESSAGES,
) -> list[Frame]:
    """One long-poll: what is there after `since`, or what comes within `wait_seconds`. Raises ClientError."""
    body = {
        "topics": list(since),
        "since": dict(since),
        "timeout": wait_seconds,
        "limit": limit,
        "client_id": client_id,
    }
    answer = await http.request(
        "POST",
        http.address.url("/messages/poll"),
        body=json.dumps(body).encode(),
        timeout_seconds=wait_seconds + POLL_MARGIN_SECONDS,
    )
    return list(read_poll(answer.body))
