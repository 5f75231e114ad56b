"""LiveCursor: a subscription as its topic knows it, and what lets the topic deliver without a message.

A message to an actor for each delivery would cost three times what the delivery does. So a subscriber lends
its cursor to the topic with its question: while `sink` is there, a batch that follows `cursor` directly goes
straight to it, and the cursor moves. All else goes by message, as between any two actors: what does not
follow, because an earlier batch is in the mailbox still; and everything where there is no `sink`.

So no order has to be kept between the two ways: a batch that is in the mailbox keeps the cursor where it is,
and that keeps later batches from passing it.
"""

from __future__ import annotations

from typing import Any

from actors.ports import Sink
from actors.stream import BEGINNING, MessageId


class LiveCursor:
    """`cursor`, `sink`: the subscriber's; it gives `sink` when it has heard that it is live, and takes it
    away at once, whatever happens: who has taken it away is delivered nothing. The topic moves `cursor` as
    it delivers, and takes `sink` away where the sink is full or broken.

    `subscriber`, `since`: the topic's: who it is live for, None when it has left; and where the stream stood
    when it went live.
    """

    __slots__ = ("cursor", "since", "sink", "subscriber")

    def __init__(self) -> None:
        self.cursor = BEGINNING
        self.sink: Sink | None = None
        self.subscriber: Any = None
        self.since: MessageId = BEGINNING
