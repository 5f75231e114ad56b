"""FanOut: a topic's live subscribers in this worker, and what is on its way to them.

A batch goes straight to the sinks, one after the other (`live_cursor` says when, and what goes by message
instead). After a few of them the loop looks at its sockets, and the others have it in the next turn; what is
appended meanwhile waits, and goes to all of them as one batch. So nobody is passed by, and the topic keeps no
more than one batch under way and one that waits. A long-poll is told at once, with the first batch there is,
and let go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from actors.live_cursor import LiveCursor
from actors.protocol import Delivered, Evicted, Fetch, Filled, SinkFailed, StartTopic
from actors.runtime import HANDLER_ERRORS, LoopActor
from actors.stream import Batch, Message, MessageId
from actors.value import value

DELIVERIES_PER_TURN = 16
"""So few that a publisher's next message is on its way to the store while this one is delivered."""


@value
class FanOutDue:
    """A topic's note to itself: go on with those who have not had the batch under way."""


class FanOut:
    """A part of the topic's actor, in whose name it sends."""

    def __init__(self, actor: LoopActor, start: StartTopic) -> None:
        self._actor = actor
        self._topic = start.topic
        self._clock = start.clock
        self._counters = start.counters
        self._live: dict[int, LiveCursor] = {}
        self._completing: dict[int, Any] = {}
        self._under_way: Delivered | None = None
        self._receivers: Sequence[LiveCursor] = ()
        self._done = 0
        self._waiting: list[Message] = []

    def __len__(self) -> int:
        return len(self._live) + len(self._completing)

    def subscribers(self) -> list[Any]:
        """Who is live."""
        return [*(live.subscriber for live in self._live.values()), *self._completing.values()]

    # Coming and going

    def enter(self, fetch: Fetch, subscriber: Any, newest: MessageId) -> None:
        """It has everything up to `newest`, which is where memory stands now, and is told so."""
        if fetch.completes:
            self._completing[fetch.subscriber_id] = subscriber
            return
        live = LiveCursor() if fetch.live is None else fetch.live
        live.subscriber, live.since = subscriber, newest
        self._live[fetch.subscriber_id] = live

    def leave(self, subscriber_id: int) -> bool:
        """False: it was not live."""
        live = self._live.pop(subscriber_id, None)
        if live is None:
            return self._completing.pop(subscriber_id, None) is not None
        live.subscriber = None
        return True

    def evict(self) -> bool:
        """Have everyone prove their cursor anew. What is on its way is found by that. False: nobody is
        live."""
        evicted = self.subscribers()
        for live in self._live.values():
            live.subscriber = None
        self._live, self._completing = {}, {}
        self._under_way, self._receivers = None, ()
        self._waiting = []
        for subscriber in evicted:
            self._actor.send(subscriber, Evicted(self._topic))
        return bool(evicted)

    # Delivering

    def deliver(self, messages: Sequence[Message]) -> bool:
        """Messages that follow those given before. True: some were let go with them."""
        if not self._live and not self._completing:
            return False
        delivered = self._delivered(messages)
        if self._under_way is not None:
            self._waiting.extend(messages)
        elif self._live:
            self._begin(delivered)
            self.go_on()
        return self._complete(delivered)

    def _delivered(self, messages: Sequence[Message]) -> Delivered:
        return Delivered(self._topic, Batch(self._topic, messages).unexpired(self._clock()))

    def _complete(self, delivered: Delivered) -> bool:
        """These have all that came before, and are gone with the first message."""
        completing = self._completing
        for subscriber in completing.values():
            self._actor.send(subscriber, delivered)
        if completing and delivered.batch.messages:
            self._completing = {}
            return True
        return False

    def _begin(self, delivered: Delivered) -> None:
        self._under_way = delivered
        # Those who go live from now on have it.
        self._receivers, self._done = list(self._live.values()), 0

    def go_on(self) -> None:
        """Deliver to the next few."""
        if self._under_way is None:
            return
        done, self._done = self._done, self._done + DELIVERIES_PER_TURN
        self._deliver_to(self._receivers[done : self._done], self._under_way)
        if self._done >= len(self._receivers):
            self._under_way, self._receivers = None, ()
            if not self._waiting:
                return
            waiting, self._waiting = self._waiting, []
            self._begin(self._delivered(waiting))
        # By a timer: the loop looks at its sockets first.
        self._actor.call_after(0, FanOutDue())

    def _deliver_to(self, chunk: Sequence[LiveCursor], delivered: Delivered) -> None:
        batch = delivered.batch
        if not batch.messages:
            # All have expired by now: only cursors move.
            for live in chunk:
                self._tell(live, delivered)
            return
        prev, last = batch.prev, batch.last
        told = 0
        for live in chunk:
            sink = live.sink
            if sink is None or live.cursor != prev:
                told += 1
                self._tell(live, delivered)
                continue
            live.cursor = last
            try:
                if sink.deliver(batch):
                    live.sink = None
                    self._actor.send(live.subscriber, Filled())
            except HANDLER_ERRORS as error:
                # It costs its own subscriber, as if that had called it.
                live.sink = None
                self._actor.send(live.subscriber, SinkFailed(error))
        self._counters.messages_delivered += len(batch) * (len(chunk) - told)

    def _tell(self, live: LiveCursor, delivered: Delivered) -> None:
        if live.subscriber is None:
            return  # it has left
        batch = delivered.batch
        rest = batch.after(live.since)
        if rest is batch:
            self._actor.send(live.subscriber, delivered)
        elif rest is not None:
            self._actor.send(live.subscriber, Delivered(self._topic, rest))
