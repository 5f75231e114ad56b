"""The subscriptions of one connection, and the requests that asked for them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable
from enum import Enum, auto

from actors.live_cursor import LiveCursor
from actors.protocol import Fetch, Start, Wanted
from actors.stream import BEGINNING, MessageId

FETCHES_AT_ONCE = 4
"""Pages on their way to one connection. All its topics at once would fill memory with pages its outbox cannot
take; the others have their turn after these."""


class Stage(Enum):
    """Where a subscription is on its way round.

    LOCATING ──▶ LOCATED ──▶ PARKED ──▶ FETCHING ──Page──▶ PARKED
        │                     ▲  ▲         │ │
        ▼                     │  │         │ └──WentLive──▶ LIVE ──Evicted, or the outbox is full──▶ PARKED
    RETRYING ◀────FetchFailed─┼──┼─────────┘
        └─────────────────────┘  └─ the outbox is full: waits for `Drained`; else for its turn only
    """

    LOCATING = auto()
    """Its place is asked for."""
    LOCATED = auto()
    """Waits until all topics of its request are located, and the request is confirmed."""
    PARKED = auto()
    """Keeps nothing but its cursor."""
    FETCHING = auto()
    LIVE = auto()
    RETRYING = auto()
    """The last question failed; a timer runs."""
    OVER = auto()


class Subscription(LiveCursor):
    """`proves`: `cursor` must be shown to be part of the stream, True unless it is only a place to begin at.
    `epoch`: the history the cursor is from, None if nobody said. `ticket`: of the last question asked.
    `given`: what is at or below it was given to the named client before, or may have been. `is_recalled`:
    that, and where the client stands, is known. `is_answered`: the topic has said what there is after the
    cursor, or that there is nothing.
    """

    __slots__ = (
        "epoch",
        "failures",
        "given",
        "has_more",
        "is_answered",
        "is_foreign",
        "is_recalled",
        "proves",
        "request",
        "stage",
        "start",
        "ticket",
        "topic",
    )

    def __init__(self, wanted: Wanted, request: SubscribeRequest) -> None:
        super().__init__()
        self.topic = wanted.topic
        self.epoch = wanted.epoch
        self.request: SubscribeRequest | None = request
        self.stage = Stage.LOCATING
        self.ticket = 0
        self.failures = 0
        self.given = BEGINNING
        self.is_recalled = False
        self.is_answered = False
        self.has_more = False
        self.is_foreign = wanted.start is Start.UNKNOWN
        self.start: Start | None = None
        self.proves = False
        if isinstance(wanted.start, MessageId):
            self.cursor = wanted.start
            self.proves = wanted.proves
        elif wanted.start in (Start.LATEST, Start.ACKED):
            self.start = wanted.start

    @property
    def has_place(self) -> bool:
        """Whether `cursor` says where to begin already."""
        return self.start is None

    def place(self, cursor: MessageId | None, epoch: str | None = None) -> None:
        """Begin after `cursor`, which is a place in the stream; None: with the oldest message."""
        self.start = None
        if cursor is not None:
            self.cursor = cursor
            self.proves = True
            self.epoch = epoch or self.epoch

    def fetch(self, subscriber_id: int, max_messages: int, *, completes: bool) -> Fetch:
        """The question for what comes after the cursor, under the present ticket."""
        return Fetch(
            self.topic,
            subscriber_id,
            self.ticket,
            self.cursor,
            max_messages,
            self.proves,
            self.epoch,
            self,
            completes,
        )


class SubscribeRequest:
    """A client's request. It is confirmed when all its topics are located; `epochs` are those found there."""

    __slots__ = ("epochs", "ref", "subscriptions")

    def __init__(self, ref: object, wanted: Iterable[Wanted]) -> None:
        self.ref = ref
        # Of a topic that is named twice, the last place counts.
        self.subscriptions = {one.topic: Subscription(one, self) for one in wanted}
        self.epochs: dict[str, str] = {}

    @property
    def is_located(self) -> bool:
        return all(one.stage is Stage.LOCATED for one in self.subscriptions.values())

    def withdraw(self, topic: str) -> None:
        """The topic is not wanted any more, or wanted anew by another request."""
        self.subscriptions.pop(topic, None)
        self.epochs.pop(topic, None)


class Subscriptions:
    """By topic, with whose turn it is to fetch. Nothing else changes a stage or gives out a ticket."""

    __slots__ = ("_by_topic", "_fetching", "_last_ticket", "_parked")

    def __init__(self) -> None:
        self._by_topic: dict[str, Subscription] = {}
        # Not a plain dict, which walks over all it has lost to find its first. None if nobody is: most
        # connections are live in all they have, for as long as they last.
        self._parked: OrderedDict[str, Subscription] | None = None
        self._fetching = 0
        self._last_ticket = 0

    def __len__(self) -> int:
        return len(self._by_topic)

    def __contains__(self, topic: str) -> bool:
        return topic in self._by_topic

    def all(self) -> Collection[Subscription]:
        return self._by_topic.values()

    def get(self, topic: str) -> Subscription | None:
        return self._by_topic.get(topic)

    def current(self, topic: str, ticket: int, *stages: Stage) -> Subscription | None:
        """The subscription an answer is for; None if that is over, or has asked something else since."""
        subscription = self._by_topic.get(topic)
        if subscription is None or subscription.ticket != ticket or subscription.stage not in stages:
            return None
        return subscription

    def add(self, subscription: Subscription) -> None:
        """An earlier one of its topic must have been removed."""
        self._by_topic[subscription.topic] = subscription

    def remove(self, subscription: Subscription) -> None:
        del self._by_topic[subscription.topic]
        self.enter(subscription, Stage.OVER)

    def ask(self, subscription: Subscription) -> int:
        """A new ticket: answers to earlier questions are not for it any more."""
        self._last_ticket = subscription.ticket = self._last_ticket + 1
        return subscription.ticket

    def enter(self, subscription: Subscription, stage: Stage) -> None:
        """Who enters PARKED, even from there, waits behind all others for its turn. Whatever is entered,
        messages for it go by mailbox from now on."""
        subscription.sink = None
        if subscription.stage is Stage.FETCHING:
            self._fetching -= 1
        elif self._parked is not None and subscription.stage is Stage.PARKED:
            del self._parked[subscription.topic]
            if not self._parked:
                self._parked = None
        subscription.stage = stage
        if stage is Stage.FETCHING:
            self._fetching += 1
        elif stage is Stage.PARKED:
            if self._parked is None:
                self._parked = OrderedDict()
            self._parked[subscription.topic] = subscription

    def next_to_fetch(self) -> Subscription | None:
        """Whose turn it is, now FETCHING with a new ticket; None if nobody is parked, or enough pages are on
        their way."""
        if self._parked is None or self._fetching >= FETCHES_AT_ONCE:
            return None
        _, subscription = self._parked.popitem(last=False)
        if not self._parked:
            self._parked = None
        subscription.sink = None
        subscription.stage = Stage.FETCHING
        self._fetching += 1
        self.ask(subscription)
        return subscription
