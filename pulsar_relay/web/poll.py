"""Long-poll: a subscriber that answers once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from operator import attrgetter

from actors.ports import Notice
from actors.protocol import Expire, Start, Subscribe, Wanted
from actors.stream import Batch, MessageId
from pulsar_relay import wire
from pulsar_relay.errors import RelayError
from pulsar_relay.relay import Relay, Subscriber
from pulsar_relay.requests import PollRequest, RequestReader
from pulsar_relay.supervision.crew import Crew
from pulsar_relay.web.beginnings import beginnings
from pulsar_relay.web.connections import OpenConnections
from pulsar_relay.web.cursor_cookie import CursorCookie
from pulsar_relay.web.endpoint import Answer, Request
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


class PollSink:
    """Collects what one poll is answered with. `done` ends when there is nothing more to come."""

    __slots__ = ("batches", "cursors", "done", "has_more", "notices")

    def __init__(self, done: asyncio.Future[None]) -> None:
        self.done = done
        self.batches: list[Batch] = []
        self.notices: list[Notice] = []
        self.cursors: Mapping[str, MessageId] = {}
        self.has_more = False

    def deliver(self, batch: Batch) -> bool:
        self.batches.append(batch)
        return False

    def items(self, now_ms: int) -> bytes:
        """What was delivered, but for what has expired while another topic was waited for. Topics are
        interleaved by time, which is kinder than one after the other; within one ids ascend anyway.
        """
        alive = [batch.unexpired(now_ms) for batch in self.batches]
        if len(alive) == 1:
            # Who asked for the same, or waited with this one, is given the same bytes.
            return alive[0].encoded(wire.items)
        messages = [message for batch in alive for message in batch.messages]
        return wire.items(sorted(messages, key=attrgetter("id")))

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


class PollEndpoints:
    """POST /messages/poll and GET /api/v1/poll"""

    def __init__(
        self,
        relay: Relay,
        reader: RequestReader,
        waiters: Waiters,
        cursor_cookie: CursorCookie,
        connections: OpenConnections,
    ) -> None:
        self._relay = relay
        self._reader = reader
        self._waiters = waiters
        self._cursor_cookie = cursor_cookie
        self._connections = connections

    async def by_body(self, request: Request) -> Answer:
        headers = request.headers
        asked = self._reader.poll(request.plain_body(), headers.get("content-type"))
        return await self._poll(asked, headers.get("cookie"))

    async def by_query(self, request: Request) -> Answer:
        return await self._poll(self._reader.poll_query(request.query), request.headers.get("cookie"))

    async def _poll(self, request: PollRequest, cookies: str | None) -> Answer:
        """Wait for messages, and answer."""
        if not self._relay.is_accepting:
            raise RelayError("shutting_down")
        deadline = asyncio.get_running_loop().time() + request.timeout_seconds
        cookie = self._cursor_cookie.among(cookies) if cookies else None
        known = self._cursor_cookie.read(cookie, request.topics) if cookie else {}
        wanted = beginnings(request.topics, request.since, known)
        if any(one.start is Start.LATEST for one in wanted):
            wanted = await self._placed(wanted, deadline)
        sink = await self._wait(request, wanted, deadline)
        headers = {}
        if not request.since:
            headers["Set-Cookie"] = self._cursor_cookie.header(cookie, sink.cursors)
        items = sink.items(self._relay.clock())
        return Answer(200, wire.poll_answer(items, sink.cursors, sink.has_more, sink.notices), headers)

    async def _placed(self, wanted: tuple[Wanted, ...], deadline: float) -> tuple[Wanted, ...]:
        """`wanted` with ids in place of now, as far as they can be had.

        From here on a message cannot be missed, so that who sees this poll in the statistics may publish
        for it.
        """
        topics = [one.topic for one in wanted if one.start is Start.LATEST]
        newest: Mapping[str, MessageId] = {}
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                newest = await self._relay.newest(topics)
        return tuple(
            Wanted(one.topic, newest[one.topic], proves=False)
            if one.start is Start.LATEST and one.topic in newest
            else one
            for one in wanted
        )

    async def _wait(self, request: PollRequest, wanted: tuple[Wanted, ...], deadline: float) -> PollSink:
        """Until there are messages, or the deadline has come, or the client is gone, which cancels it."""
        loop = asyncio.get_running_loop()
        sink = PollSink(loop.create_future())
        subscribe = Subscribe(wanted, client_id=request.client_id)
        subscriber = self._relay.open_subscriber(
            sink, "poll", completes=True, max_messages=request.limit, subscribe=subscribe
        )
        waiting = WaitingPoll(subscriber)
        self._waiters.enter(request.topics)
        self._connections.add(waiting)
        timer = loop.call_at(deadline, waiting.go_away)
        try:
            await sink.done
        finally:
            timer.cancel()
            self._waiters.leave(request.topics)
            self._connections.discard(waiting)
            subscriber.disconnect()
        return sink


@dataclass(frozen=True, slots=True)
class WaitingPoll:
    """A poll among the open connections."""

    subscriber: Subscriber

    def go_away(self) -> None:
        """The relay stops, or the time is up: answer now with what there is."""
        self.subscriber.tell(Expire())


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
