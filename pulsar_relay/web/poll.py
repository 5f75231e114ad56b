"""Long-poll: a subscriber that answers once."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from operator import attrgetter

from actors.ports import Notice
from actors.protocol import Expire, Start, Subscribe, Wanted
from actors.stream import Batch, MessageId
from pulsar_relay import wire
from pulsar_relay.accounts.user import READ
from pulsar_relay.errors import RelayError
from pulsar_relay.limits.limiter import Limiter
from pulsar_relay.limits.verdict import Verdict
from pulsar_relay.relay import Relay, Subscriber
from pulsar_relay.requests import PollRequest, RequestReader
from pulsar_relay.supervision.crew import Crew
from pulsar_relay.web.beginnings import beginnings
from pulsar_relay.web.caller import ANYBODY, Caller
from pulsar_relay.web.connections import OpenConnections
from pulsar_relay.web.cursor_cookie import CursorCookie
from pulsar_relay.web.endpoint import Answer, Request
from pulsar_relay.web.handler import ApiHandler


class Waiters:
    """The polls that wait now, by topic, and by whose they are; what `GET /messages/poll/stats` tells."""

    def __init__(self) -> None:
        self.active = 0
        self.topics: defaultdict[str, int] = defaultdict(int)
        self.scopes: defaultdict[str, int] = defaultdict(int)

    def enter(self, topics: Collection[str], scope: str) -> None:
        self.active += 1
        self.scopes[scope] += 1
        for topic in topics:
            self.topics[topic] += 1

    def leave(self, topics: Collection[str], scope: str) -> None:
        self.active -= 1
        self.scopes[scope] -= 1
        if not self.scopes[scope]:
            del self.scopes[scope]
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

    def items(self, now_ms: int, prefix: str = "") -> bytes:
        """What was delivered, but for what has expired while another topic was waited for. Topics are
        interleaved by time, which is kinder than one after the other; within one ids ascend anyway.

        `prefix` is what the reader's own topics begin with.
        """
        alive = [batch.unexpired(now_ms) for batch in self.batches]
        if len(alive) == 1:
            # Who asked for the same, or waited with this one, is given the same bytes.
            is_own = alive[0].topic.startswith(prefix)
            return alive[0].encoded(wire.items if is_own else wire.full_items)
        messages = [message for batch in alive for message in batch.messages]
        return wire.items_for(sorted(messages, key=attrgetter("id")), prefix)

    def notify(self, notice: Notice) -> None:
        self.notices.append(notice)

    def complete(self, cursors: Mapping[str, MessageId], has_more: bool, failure: str | None) -> None:
        self.cursors, self.has_more = cursors, has_more
        self._end(failure)

    def refuse(self, code: str, detail: str, ref: object) -> None:
        self._end(code, detail)

    def taken_over(self) -> None:
        self._end("taken_over")

    def shut_out(self, code: str) -> None:
        self._end(code)

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
        limiter: Limiter,
    ) -> None:
        self._relay = relay
        self._reader = reader
        self._waiters = waiters
        self._cursor_cookie = cursor_cookie
        self._connections = connections
        self._limiter = limiter

    async def by_body(self, request: Request) -> Answer:
        headers = request.headers
        asked = self._reader.poll(request.plain_body(), headers.get("content-type"))
        return await self._poll(asked, request.caller, headers.get("cookie"))

    async def by_query(self, request: Request) -> Answer:
        asked = self._reader.poll_query(request.query)
        return await self._poll(asked, request.caller, request.headers.get("cookie"))

    async def _poll(self, request: PollRequest, caller: Caller, cookies: str | None) -> Answer:
        """Wait for messages, and answer."""
        if not self._relay.is_accepting:
            raise RelayError("shutting_down")
        if caller is not ANYBODY:
            request = reached(request, caller)
        limiter, who = self._limiter, caller.counted_as
        verdict = limiter.charge_now("read", who)
        if verdict is None:
            verdict = await limiter.charge("read", who)
        seat = limiter.take_poll_now(who) or await limiter.take_poll(who)
        try:
            return await self._answer(request, caller, cookies, verdict)
        finally:
            seat.leave()

    async def _answer(
        self, request: PollRequest, caller: Caller, cookies: str | None, verdict: Verdict
    ) -> Answer:
        deadline = asyncio.get_running_loop().time() + request.timeout_seconds
        cookie = self._cursor_cookie.among(cookies) if cookies else None
        known = self._cursor_cookie.read(cookie, request.topics, caller.prefix) if cookie else {}
        wanted = beginnings(request.topics, request.since, known)
        if any(one.start is Start.LATEST for one in wanted):
            wanted = await self._placed(wanted, deadline)
        sink = await self._wait(request, caller, wanted, deadline)
        headers = {}
        if not request.since:
            headers["Set-Cookie"] = self._cursor_cookie.header(cookie, sink.cursors, caller.prefix)
        items = sink.items(self._relay.clock(), caller.prefix)
        cursors = {caller.told(topic): cursor for topic, cursor in sink.cursors.items()}
        notices = [wire.notice_frame(notice, caller.told(notice.topic)) for notice in sink.notices]
        return Answer(200, wire.poll_answer(items, cursors, sink.has_more, notices), headers, verdict)

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

    async def _wait(
        self, request: PollRequest, caller: Caller, wanted: tuple[Wanted, ...], deadline: float
    ) -> PollSink:
        """Until there are messages, or the deadline has come, or the caller may not stay, or the client is
        gone, which cancels it.
        """
        loop = asyncio.get_running_loop()
        sink = PollSink(loop.create_future())
        subscribe = Subscribe(wanted, client_id=request.client_id)
        subscriber = self._relay.open_subscriber(
            sink, "poll", completes=True, max_messages=request.limit, subscribe=subscribe
        )
        waiting = WaitingPoll(subscriber, sink, request.topics)
        self._waiters.enter(request.topics, caller.scope)
        self._connections.add(waiting)
        caller.enter(waiting)
        timer = loop.call_at(deadline, waiting.go_away)
        try:
            await sink.done
        finally:
            timer.cancel()
            caller.leave(waiting)
            self._waiters.leave(request.topics, caller.scope)
            self._connections.discard(waiting)
            subscriber.disconnect()
        return sink


def reached(request: PollRequest, caller: Caller) -> PollRequest:
    """The request with the names that things have inside. Raises RelayError where the caller may not read."""
    topics = list(dict.fromkeys([caller.reach(name, READ) for name in request.topics]))
    since = request.since and {caller.inside(name): cursor for name, cursor in request.since.items()}
    client_id = None if request.client_id is None else caller.client(request.client_id)
    return PollRequest(topics, since, request.timeout_seconds, request.limit, client_id)


@dataclass(frozen=True, slots=True)
class WaitingPoll:
    """A poll among the open connections, and a guest."""

    subscriber: Subscriber
    sink: PollSink
    topics: Sequence[str]

    def topics_read(self) -> Sequence[str]:
        return self.topics

    def warn(self, expires_at: float) -> None:
        """It cannot be told before its answer, and there is time for that."""

    def shut_out(self, code: str) -> None:
        self.sink.shut_out(code)

    def go_away(self) -> None:
        """The relay stops, or the time is up: answer now with what there is."""
        self.subscriber.tell(Expire())


class PollStatsHandler(ApiHandler):
    """GET /messages/poll/stats"""

    def initialize(self, crew: Crew) -> None:
        self.crew = crew

    async def get(self) -> None:
        self.caller.require_all_topics()
        waiting = await self.crew.waiting()
        prefix = self.caller.prefix
        counts = {
            topic if prefix else f"{wire.OWNER}/{topic}": count
            for topic, count in waiting.topics.items()
            if topic.startswith(prefix)
        }
        self.answer(
            {
                "active_waiters": waiting.scopes.get(self.caller.scope, 0),
                "subscribed_topics": len(counts),
                "topic_subscriber_counts": counts,
            }
        )
