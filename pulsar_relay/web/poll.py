"""Long-poll: a subscriber that answers once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.protocol import Expire, Notice, Start, Subscribe, Wanted
from actors.stream import Batch, Message, MessageId
from pulsar_relay import wire
from pulsar_relay.errors import RelayError
from pulsar_relay.cursors import place
from pulsar_relay.requests import PollRequest, RequestReader
from pulsar_relay.web.cursor_cookie import CursorCookie
from pulsar_relay.web.handler import ApiHandler


class Waiters:
    """The polls that wait now, by topic; what `GET /messages/poll/stats` tells."""

    def __init__(self) -> None:
        self.active = 0
        self.topics: Counter[str] = Counter()

    def enter(self, topics: Sequence[str]) -> None:
        self.active += 1
        self.topics.update(topics)

    def leave(self, topics: Sequence[str]) -> None:
        self.active -= 1
        self.topics.subtract(topics)
        self.topics = +self.topics


@dataclass(slots=True)
class PollSink:
    """Collects what one poll is answered with. `done` ends when the subscriber has completed."""

    done: asyncio.Future[None]
    messages: list[Message] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    cursors: Mapping[str, MessageId] = field(default_factory=dict)
    has_more: bool = False
    failure: str | None = None

    def deliver(self, batch: Batch) -> bool:
        self.messages.extend(batch.messages)
        return False

    def notify(self, notice: Notice) -> None:
        self.notices.append(notice)

    def complete(self, cursors: Mapping[str, MessageId], has_more: bool, failure: str | None) -> None:
        self.cursors, self.has_more, self.failure = cursors, has_more, failure
        if not self.done.done():
            self.done.set_result(None)

    def fail(self) -> None:
        if not self.done.done():
            self.done.set_exception(RelayError("internal_error"))

    def refuse(self, code: str, detail: str, ref: object) -> None:
        if not self.done.done():
            self.done.set_exception(RelayError(code, detail))

    # A poll subscribes once and is answered at its end: there is nothing to confirm.

    def subscribed(
        self, cursors: Mapping[str, MessageId], epochs: Mapping[str, str], ref: object
    ) -> None: ...

    def unsubscribed(self, topics: Sequence[str], ref: object) -> None: ...

    def acknowledged(self, topic: str, message_id: MessageId, ref: object) -> None: ...


class PollHandler(ApiHandler):
    """What both addresses of the long-poll do."""

    def initialize(
        self,
        reader: RequestReader,
        waiters: Waiters,
        cursor_cookie: CursorCookie,
        **kwargs: Any,
    ) -> None:
        super().initialize(**kwargs)
        self.reader = reader
        self.waiters = waiters
        self.cursor_cookie = cursor_cookie
        self.subscriber: Any = None
        self.sink: PollSink | None = None

    async def _poll(self, request: PollRequest) -> None:
        cookie = self.get_cookie(self.cursor_cookie.name)
        known = self.cursor_cookie.read(cookie, request.topics)
        since = {topic: place(cursor) for topic, cursor in (request.since or {}).items()}
        wanted = tuple(_wanted(topic, since, known) for topic in dict.fromkeys(request.topics))
        loop = asyncio.get_running_loop()
        sink = self.sink = PollSink(loop.create_future())
        subscriber = self.subscriber = self.relay.open_subscriber(
            sink, "poll", completes=True, max_messages=request.limit
        )
        self.waiters.enter(request.topics)
        self.connections.add(self)
        timer = loop.call_later(request.timeout_seconds, subscriber.tell, Expire())
        subscriber.tell(Subscribe(wanted))
        try:
            await sink.done
        finally:
            timer.cancel()
            self.waiters.leave(request.topics)
            self.connections.discard(self)
            subscriber.disconnect()
        self._answer(request, sink, cookie)

    def _answer(self, request: PollRequest, sink: PollSink, cookie: str | None) -> None:
        if sink.failure is not None:
            raise RelayError(sink.failure)
        if not request.since:
            updated = self.cursor_cookie.update(cookie, sink.cursors)
            self.set_cookie(self.cursor_cookie.name, updated, httponly=True, samesite="Lax")
        # Topics are interleaved by time, which is kinder than one after the other; within a topic ids ascend anyway.
        messages = sorted(sink.messages, key=_message_id)
        self.answer(wire.poll_answer(messages, sink.cursors, sink.has_more, sink.notices))

    def on_connection_close(self) -> None:
        if self.sink is not None and not self.sink.done.done():
            self.sink.done.cancel()
        if self.subscriber is not None:
            self.subscriber.disconnect()

    def go_away(self) -> None:
        """The relay stops: answer now with what there is."""
        self.subscriber.tell(Expire())


def _wanted(topic: str, since: Mapping[str, MessageId | Start], known: Mapping[str, MessageId]) -> Wanted:
    """Where a poll of `topic` begins: where the client says; else where its last poll ended; else, if it named a place for other topics, no
    later than the oldest of those, so that nothing it could have missed is skipped and nothing older is dug out; else now."""
    if topic in since:
        return Wanted(topic, since[topic])
    if topic in known:
        return Wanted(topic, known[topic])
    if not since:
        return Wanted(topic, Start.LATEST)
    cursors = [cursor for cursor in since.values() if isinstance(cursor, MessageId)]
    if not cursors:
        return Wanted(topic, Start.EARLIEST)
    return Wanted(topic, MessageId.of(min(cursors).milliseconds, 0), proves=False)


def _message_id(message: Message) -> MessageId:
    return message.id


class PostPollHandler(PollHandler):
    """POST /messages/poll"""

    async def post(self) -> None:
        await self._poll(self.reader.poll(self.request.body, self.request.headers.get("Content-Type")))


class GetPollHandler(PollHandler):
    """GET /api/v1/poll"""

    async def get(self) -> None:
        await self._poll(self.reader.poll_query(self.request.query_arguments))


class PollStatsHandler(ApiHandler):
    """GET /messages/poll/stats"""

    def initialize(self, waiters: Waiters, **kwargs: Any) -> None:
        super().initialize(**kwargs)
        self.waiters = waiters

    def get(self) -> None:
        counts = {f"{OWNER}/{topic}": count for topic, count in self.waiters.topics.items()}
        self.answer(
            {
                "active_waiters": self.waiters.active,
                "subscribed_topics": len(counts),
                "topic_subscriber_counts": counts,
            }
        )


OWNER = "-"
"""Whose topics these are in the statistics' `owner/topic` keys. Without accounts they are nobody's."""
