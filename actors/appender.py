"""Appender: a topic's publishes on their way into its stream, by group commit.

One append is under way at a time; what is published meanwhile is the next batch. So one publisher costs one
round trip a message, and a thousand of them share one. The order of the appends is the order in which the
publishes came.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from actors.pending import PendingPublishes, Waiting
from actors.ports import Appended, Publish, StoreError
from actors.protocol import Flush, Published, Refused, StartTopic, TopicLimits
from actors.runtime import LoopActor
from actors.stream import MessageId
from actors.value import value


@value
class Appending:
    """The tag under which the outcome of an append above `floor` comes back."""

    floor: MessageId


class Appender:
    """A part of the topic's actor, in whose name it sends and appends. Every publish is answered."""

    def __init__(self, actor: LoopActor, start: StartTopic) -> None:
        self._actor = actor
        self._topic = start.topic
        self._store = start.store
        self._limits = start.limits
        self._counters = start.counters
        self._pending = PendingPublishes(start.limits.pending_max_messages, start.limits.pending_max_bytes)
        self._is_flush_due = False

    def __len__(self) -> int:
        """Publishes that are not answered yet."""
        return len(self._pending)

    def bound(self, limits: TopicLimits) -> None:
        """From now on; what waits already goes on waiting."""
        self._limits = limits
        self._pending.bound(limits.pending_max_messages, limits.pending_max_bytes)

    def publish(self, publish: Publish, publisher: Any) -> None:
        if not self._pending.add(publish, publisher):
            overloaded = Refused("overloaded", f"too many publishes wait for topic {self._topic}")
            self._refuse([(publish, publisher)], overloaded)
        elif not self._pending.in_flight and not self._is_flush_due:
            # Not appended at once: the other publishes of this burst are still in the mailbox, and share the
            # append.
            self._is_flush_due = True
            self._actor.send(self._actor.myAddress, Flush())

    def flush(self, floor: MessageId) -> None:
        """Append what waits, above `floor`."""
        self._is_flush_due = False
        self.append(floor)

    def append(self, floor: MessageId) -> None:
        """Append the next batch, if there is one and none is under way."""
        publishes = self._pending.begin(self._limits.batch_max_messages, self._limits.batch_max_bytes)
        if publishes:
            self._counters.append_batches += 1
            append = self._store.append(self._topic, publishes, floor)
            # Cancelled on exit: its repetitions could otherwise meet an append of the actor that comes next.
            self._actor.perform(append, Appending(floor), cancel_on_exit=True)

    def answer(self, appended: Appended) -> None:
        """The batch under way is in the stream: answer its publishers."""
        counters = self._counters
        for waiting, outcome in zip(self._pending.in_flight, appended.outcomes, strict=True):
            if outcome is None:
                self._refuse([waiting], Refused("idempotency_conflict"))
                continue
            ids, is_replay = outcome
            counters.replayed_publishes += is_replay
            self._actor.send(waiting[1], Published(self._topic, ids, is_replay))
        self._pending.finish()
        counters.messages_published += len(appended.messages)

    def fail(self, error: StoreError) -> None:
        """The batch under way was not appended, or nobody knows."""
        refused = Refused(error.code, error.detail)
        self._refuse(self._pending.finish(), refused)
        if error.is_outcome_unknown or error.code == "store_unavailable":
            # The store was away for a whole publish deadline; who waits behind would wait another one for the
            # same answer.
            self._refuse(self._pending.drain(), refused)

    def dismiss(self, refused: Refused) -> None:
        """The topic's actor ends: nobody may wait for it."""
        self._refuse([*self._pending.finish(), *self._pending.drain()], refused)

    def _refuse(self, publishes: Sequence[Waiting], refused: Refused) -> None:
        self._counters.refused_publishes += len(publishes)
        for _, publisher in publishes:
            self._actor.send(publisher, refused)
