"""Acknowledger: tells the relay how far a named client has come, over HTTP, whatever it reads by."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

from pulsar_relay.client.address import consumer_path
from pulsar_relay.client.backoff import Backoff
from pulsar_relay.client.errors import ClientError
from pulsar_relay.client.http import HttpClient

REQUEST_SECONDS = 10.0


class Acknowledger:
    """`note` what is dealt with while `run` runs: one request at a time, with the last message of each topic.
    `finish` when it does not run any more.

    `on_interruption` is told of each request that failed and the seconds until the next try.
    """

    def __init__(
        self,
        http: HttpClient,
        client_id: str,
        *,
        backoff: Backoff,
        on_interruption: Callable[[ClientError, float], None],
    ) -> None:
        self._http = http
        self._url = http.address.url(consumer_path(client_id) + "/ack")
        self._backoff = backoff
        self._on_interruption = on_interruption
        self._cursors: dict[str, str] = {}
        self._news = asyncio.Event()

    def note(self, topic: str, message_id: str) -> None:
        """Everything up to this message of the topic is dealt with."""
        self._cursors[topic] = message_id
        self._news.set()

    async def run(self) -> None:
        """For ever. Raises ClientError for what trying again does not cure."""
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                await self.finish()
            except ClientError as error:
                if not error.is_retryable:
                    raise
                self._news.set()
                seconds = self._backoff.next(error.retry_after_seconds)
                self._on_interruption(error, seconds)
                await asyncio.sleep(seconds)
            else:
                self._backoff.reset()

    async def finish(self) -> None:
        """Acknowledge what is noted and not stored yet. Raises ClientError; then it may be called again."""
        cursors = dict(self._cursors)
        if not cursors:
            return
        body = json.dumps({"cursors": cursors}).encode()
        await self._http.request("POST", self._url, body=body, timeout_seconds=REQUEST_SECONDS)
        for topic, message_id in cursors.items():
            if self._cursors[topic] == message_id:
                del self._cursors[topic]
