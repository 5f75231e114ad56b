"""Announcements: what is said before the next message where reading did not go on at the cursor."""

from __future__ import annotations

from actors.counters import Counters
from actors.ports import Notice, Sink
from actors.proof import number_lost
from actors.stream import BEGINNING, Batch, MessageId
from actors.subscription import Subscription


class Announcements:
    """A part of the subscriber's actor."""

    __slots__ = ("_counters", "_sink")

    def __init__(self, sink: Sink, counters: Counters) -> None:
        self._sink = sink
        self._counters = counters

    def answered(
        self, subscription: Subscription, notice: Notice | None, prev: MessageId, batch: Batch | None = None
    ) -> None:
        """The topic has answered with what follows `prev`: the cursor is proved, or a break is announced."""
        first_id = batch.messages[0].id_text if batch is not None and len(batch) else None
        notice = notice or self._gap(subscription, prev, first_id)
        subscription.failures = 0
        subscription.is_answered = True
        subscription.proves = True
        if subscription.is_foreign:
            subscription.is_foreign = False
            notice = Notice("reset", subscription.topic, "unknown_cursor", None, first_id)
        if notice is not None:
            self._announce(subscription, notice)

    def _announce(self, subscription: Subscription, notice: Notice) -> None:
        subscription.epoch = None
        if notice.kind == "gap":
            self._counters.gaps += 1
        else:
            self._counters.resets += 1
            # What the client was given before was of another history.
            subscription.given = BEGINNING
        self._sink.notify(notice)

    def _gap(self, subscription: Subscription, prev: MessageId, first_id: str | None) -> Notice | None:
        """What the topic should have told, had it seen that its answer begins behind the cursor: there is no
        silent gap, whatever is wrong with it."""
        if not subscription.proves or subscription.is_foreign or prev <= subscription.cursor:
            return None
        self._counters.unannounced_gaps += 1
        lost = number_lost(subscription.cursor, prev.number)
        return Notice("gap", subscription.topic, "unknown", lost, first_id)
