"""CatchingUp: knows when a reader has received what there was when it began."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import msgspec

from pulsar_relay.client.address import topic_path
from pulsar_relay.client.backoff import Backoff
from pulsar_relay.client.errors import ClientError, RefusedError, UnreachableError
from pulsar_relay.client.frames import MessageFrame
from pulsar_relay.client.http import HttpClient
from pulsar_relay.client.reader import EARLIEST, LATEST, Reader, number

REQUEST_SECONDS = 30.0
QUIET_SECONDS = 0.3


class _Topic(msgspec.Struct):
    last_id: str | None = None


class _History(msgspec.Struct):
    messages: list[msgspec.Raw]
    has_more: bool = False


class CatchingUp:
    """For a reader of `since`: `begin`, then start reading, tell it of every message, and `wait` beside."""

    def __init__(self, http: HttpClient, since: Mapping[str, str]) -> None:
        self._http = http
        self._since = since
        self._goals: dict[str, str] = {}
        self._has_news = False
        self._reached = asyncio.Event()

    async def begin(self, backoff: Backoff, on_interruption: Callable[[ClientError, float], None]) -> None:
        """Ask for the newest message of each topic that is not read from `latest` on.

        Raises ClientError for what trying again does not cure, or if no relay can be reached.
        """
        for topic, place in self._since.items():
            if place == LATEST:
                continue
            newest = await self._newest(topic, backoff, on_interruption)
            # A cursor is a question about this topic even if it has no message: let the relay answer it.
            if newest is not None or place != EARLIEST:
                self._goals[topic] = newest or ""

    def note(self, message: MessageFrame) -> None:
        """`message` was received."""
        self._has_news = True
        goal = number(self._goals.get(message.topic, ""))
        received = number(message.message_id)
        if goal is not None and received is not None and received >= goal:
            del self._goals[message.topic]
            if not self._goals:
                self._reached.set()

    async def wait(self, reader: Reader) -> None:
        """Return when all is received. The newest message may never come, because its time to live is over:
        so whenever it is quiet, ask whether anything is left. Raises ClientError.
        """
        while self._goals:
            self._has_news = False
            try:
                async with asyncio.timeout(QUIET_SECONDS):
                    await self._reached.wait()
            except TimeoutError:
                if not self._has_news and reader.is_connected and await self._is_nothing_left(reader):
                    return

    async def _is_nothing_left(self, reader: Reader) -> bool:
        try:
            for topic in self._goals:
                if await self._has_more(topic, reader.cursors[topic]):
                    return False
        except ClientError as error:
            if not error.is_retryable:
                raise
            return False
        return not self._has_news

    async def _has_more(self, topic: str, cursor: str) -> bool:
        query = {"order": "asc", "limit": "1"} | ({} if cursor == EARLIEST else {"cursor": cursor})
        url = self._http.address.url(topic_path(topic) + "/messages", query)
        try:
            answer = await self._http.request("GET", url, timeout_seconds=REQUEST_SECONDS)
        except RefusedError as error:
            if error.code == "topic_not_found":
                return False
            raise
        page = answer.read(_History)
        return bool(page.messages) or page.has_more

    async def _newest(
        self, topic: str, backoff: Backoff, on_interruption: Callable[[ClientError, float], None]
    ) -> str | None:
        url = self._http.address.url(topic_path(topic))
        while True:
            try:
                answer = await self._http.request("GET", url, timeout_seconds=REQUEST_SECONDS)
                return answer.read(_Topic).last_id
            except ClientError as error:
                if error.code == "topic_not_found":
                    return None
                if isinstance(error, UnreachableError) or not error.is_retryable:
                    raise
                seconds = backoff.next(error.retry_after_seconds)
                on_interruption(error, seconds)
                await asyncio.sleep(seconds)
