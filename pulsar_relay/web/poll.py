"""Long-poll: a subscriber that answers once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from operator import attrgetter

from actors.ports import Notice
from actors.protocol import Expire, Start, Subscribe, Wanted
from actors.stream import Batch, Message, MessageId
from pulsar_relay import wire
from pulsar_relay.errors import RelayError
from pulsar_relay.relay import Relay, Subscriber
from pulsar_relay.requests import PollRequest, RequestReader
from pulsar_relay.supervision.crew import Crew
from pulsar_relay.web.beginnings import beginnings
from pulsar_relay.web.connections import OpenConnections
from pulsar_relay.web.cursor_cookie import CursorCookie
from pulsar_relay.web.handler import ApiHandler


class Waiters:
    """The polls that wait now, by topic; what `GET /messages/poll/stats` tells."""

    def __init__(self) -> None:
        self.active = 0
        self.topics: Counter[str] = Counter()

    def enter(self, topics: Sequence[str]) -> None:
        self.active += 1
        for topic in topics:
            self.topics[topic] += 1

    def leave(self, topics: Sequence[str]) -> None:
        self.active -= 1
        for topic in topics:
            self.topics[topic] -= 1
            if not self.topics[topic]:
                del self.topics[topic]


@dataclass(slots=True)
class PollSink:
    """Collects what one poll is answered with. `done` ends when there is nothing more to come."""

    done: asyncio.Future[None]
    messages: list[Message] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    cursors: Mapping[str, MessageId] = field(default_factory=dict)
    has_more: bool = False

    def deliver(self, batch: Batch) -> bool:
        self.messages.extend(batch.messages)
        return False

    def notify(self, notice: Notice) -> None:
        self.notices.append(notice)

    def complete(self, cursors: Mapping[str, MessageId], has_more: bool, failure: str | None) -> None:
        self.cursors, self.has_more = cursors, has_more
        self._end(failure)

    def refuse(self, code: str, detail: str, ref: object) -> None:
        self._end(code, detail)

    def taken_over(self) -> None:
        self._end("taken_over")

    def fail(self) -> None:
        self._end("internal_error")

    def abandon(self) -> None:
        """The client is gone; nobody reads the answer."""
        self._end(None)

    def _end(self, failure: str | None, detail: str = "") -> None:
        if self.done.done():
            return
        if failure is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(RelayError(failure, detail))

    # A poll subscribes once and is answered at its end: there is nothing to confirm.

    def subscribed(
        self, cursors: Mapping[str, MessageId], epochs: Mapping[str, str], ref: object
    ) -> None: ...

    def unsubscribed(self, topics: Sequence[str], ref: object) -> None: ...

    def acknowledged(self, topic: str, message_id: MessageId, ref: object) -> None: ...


class PollHandler(ApiHandler):
    """What both addresses of the long-poll do."""

    subscriber: Subscriber

    def initialize(
        self,
        relay: Relay,
        reader: RequestReader,
        waiters: Waiters,
        cursor_cookie: CursorCookie,
        connections: OpenConnections,
    ) -> None:
        self.relay = relay
        self.reader = reader
        self.waiters = waiters
        self.cursor_cookie = cursor_cookie
        self.connections = connections
        self.sink = PollSink(asyncio.get_running_loop().create_future())

    async def poll(self, request: PollRequest) -> None:
        """Wait for messages, and answer."""
        if not self.relay.is_accepting:
            raise RelayError("shutting_down")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + request.timeout_seconds
        cookie = self.get_cookie(self.cursor_cookie.name)
        known = self.cursor_cookie.read(cookie, request.topics) if cookie else {}
        wanted = await self._placed(beginnings(request.topics, request.since, known), deadline)
        await self._wait(request, wanted, deadline)
        if not request.since:
            updated = self.cursor_cookie.update(cookie, self.sink.cursors)
            self.set_cookie(self.cursor_cookie.name, updated, httponly=True, samesite="Lax")
        sink = self.sink
        # Topics are interleaved by time, which is kinder than one after the other; within one ids ascend
        # anyway. What came first may have expired while another topic was waited for.
        now_ms = self.relay.clock()
        alive = [message for message in sink.messages if not message.is_expired(now_ms)]
        messages = sorted(alive, key=attrgetter("id"))
        self.answer(wire.poll_answer(messages, sink.cursors, sink.has_more, sink.notices))

    async def _placed(self, wanted: tuple[Wanted, ...], deadline: float) -> tuple[Wanted, ...]:
        """`wanted` with ids in place of now, as far as they can be had.

        From here on a message cannot be missed, so that who sees this poll in the statistics may publish
        for it.
        """
        topics = [one.topic for one in wanted if one.start is Start.LATEST]
        if not topics:
            return wanted
        newest: Mapping[str, MessageId] = {}
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                newest = await self.relay.newest(topics)
        return tuple(
            Wanted(one.topic, newest[one.topic], proves=False)
            if one.start is Start.LATEST and one.topic in newest
            else one
            for one in wanted
        )

    async def _wait(self, request: PollRequest, wanted: tuple[Wanted, ...], deadline: float) -> None:
        """Until there are messages, or the deadline has come, or the client is gone."""
        subscriber = self.subscriber = self.relay.open_subscriber(
            self.sink, "poll", completes=True, max_messages=request.limit
        )
        self.waiters.enter(request.topics)
        self.connections.add(self)
        timer = asyncio.get_running_loop().call_at(deadline, subscriber.tell, Expire())
        subscriber.tell(Subscribe(wanted, client_id=request.client_id))
        try:
            await self.sink.done
        finally:
            timer.cancel()
            self.waiters.leave(request.topics)
            self.connections.discard(self)
            subscriber.disconnect()

    def on_connection_close(self) -> None:
        self.sink.abandon()

    def go_away(self) -> None:
        """The relay stops: answer now with what there is."""
        self.subscriber.tell(Expire())


class PostPollHandler(PollHandler):
    """POST /messages/poll"""

    async def post(self) -> None:
        await self.poll(self.reader.poll(self.body(), self.request.headers.get("Content-Type")))


class GetPollHandler(PollHandler):
    """GET /api/v1/poll"""

    async def get(self) -> None:
        await self.poll(self.reader.poll_query(self.request.query_arguments))


class PollStatsHandler(ApiHandler):
    """GET /messages/poll/stats"""

    def initialize(self, crew: Crew) -> None:
        self.crew = crew

    async def get(self) -> None:
        waiting = await self.crew.waiting()
        counts = {f"{wire.OWNER}/{topic}": count for topic, count in waiting.topics.items()}
        self.answer(
            {
                "active_waiters": waiting.active,
                "subscribed_topics": len(counts),
                "topic_subscriber_counts": counts,
            }
        )
