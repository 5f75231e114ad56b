"""LongPoll: a subscriber that is answered once. What it still waits for, and what it is answered with."""

from __future__ import annotations

from collections.abc import Collection

from actors.ports import Sink
from actors.subscription import Stage, Subscription


class LongPoll:
    """`has_delivered`: a message was given to the sink. `is_expired`: its time is over. `is_ending`: it is
    answered as soon as what its client was given is stored. `failure`: why the last question that failed did.
    """

    __slots__ = ("failure", "has_delivered", "is_ending", "is_expired")

    def __init__(self) -> None:
        self.has_delivered = False
        self.is_expired = False
        self.is_ending = False
        self.failure = "store_unavailable"

    def is_over(self, subscriptions: Collection[Subscription]) -> bool:
        """Whether it has messages, or no time left, and no topic owes it an answer. So a poll whose time is
        over at once is still told what there is."""
        if not (self.has_delivered or self.is_expired):
            return False
        return all(one.is_answered or one.stage is Stage.RETRYING for one in subscriptions)

    def answer(self, sink: Sink, subscriptions: Collection[Subscription]) -> None:
        cursors = {one.topic: one.cursor for one in subscriptions if one.has_place}
        has_more = any(one.has_more for one in subscriptions)
        is_unread = not all(one.is_answered for one in subscriptions)
        sink.complete(cursors, has_more, self.failure if is_unread and not self.has_delivered else None)
