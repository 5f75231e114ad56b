"""Every message between actors, and the two ports behind which the outside world stands.

Commands are imperative (`Publish`), facts are past (`Appended`). A message is a value: whoever receives one
must not change it. All messages for a topic travel through the `DirectoryActor`, which creates the topic's
actor on first use and forwards with the original sender; so nobody but the directory ever holds a topic's
address, and a topic can leave memory at any time.

    handler ──ask Publish──▶ Directory ──forward──▶ Topic ──append──▶ Store
    handler ◀─────────────────Published───────────── Topic ◀─Appended── Store
    Subscriber ──Fetch──▶ Directory ──forward──▶ Topic ──Page | WentLive | FetchFailed──▶ Subscriber
    Topic ──Delivered──▶ every live Subscriber ──deliver──▶ Sink
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from actors.stream import Batch, HotLimits, Message, MessageId

WallClock = Callable[[], int]
"""Unix time in milliseconds. Injected, so that tests move it."""


# Publishing


@dataclass(frozen=True, slots=True)
class Draft:
    """What a publisher gave for one message. `payload` and `metadata` are validated JSON texts, never
    parsed again."""

    payload: bytes
    metadata: bytes | None = None
    expires_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Dedupe:
    """Names one logical publish: the same `key` within a topic appends once. `digest` tells whether the
    body is the same too."""

    key: str
    digest: str


@dataclass(frozen=True, slots=True)
class Publish:
    """Append these drafts in this order, all in one step. Answered by `Published` or `Refused`."""

    topic: str
    drafts: tuple[Draft, ...]
    dedupe: Dedupe | None = None

    @property
    def size_bytes(self) -> int:
        return sum([len(draft.payload) + len(draft.metadata or b"") + 64 for draft in self.drafts])


@dataclass(frozen=True, slots=True)
class Published:
    """The drafts are in the stream under these ids. `is_replay`: they were already, from an earlier
    attempt with the same key."""

    topic: str
    ids: tuple[str, ...]
    is_replay: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """A request was not carried out. `code` is a row of the error table; `detail` is safe to show to the
    client."""

    code: str
    detail: str = ""


# Subscribing


class Start(Enum):
    """Where a subscription begins when it has no message id."""

    EARLIEST = "earliest"
    LATEST = "latest"
    ACKED = "acked"
    """After the last message this named client acknowledged; from the oldest retained if it never
    acknowledged any."""
    UNKNOWN = "unknown"
    """The client named a place this stream never had (a foreign id): read from the oldest retained, and
    say so."""


@dataclass(frozen=True, slots=True)
class Notice:
    """Tells a subscriber, before the next message, that its position could not be continued without a break.

    `gap`: messages after the cursor are gone from the stream (`lost` of them, None if unknown). `reset`: the
    cursor is not part of this stream's history. `first_available` is the first id it can still be given, None
    while the stream has none.
    """

    kind: str
    topic: str
    reason: str
    lost: int | None = None
    first_available: str | None = None


@dataclass(frozen=True, slots=True)
class Locate:
    """Ask where the topic's newest message is. Answered by `Located` or `FetchFailed`."""

    topic: str
    ticket: int


@dataclass(frozen=True, slots=True)
class Located:
    topic: str
    ticket: int
    newest: MessageId
    epoch: str


@dataclass(frozen=True, slots=True)
class Fetch:
    """Ask for the messages strictly after `cursor`, or, if there is none, to be made live: one decision,
    taken in one turn.

    `ticket` comes back with the answer; an answer with an older ticket than the last one asked for is stale.
    `proves`: the cursor comes from outside and must be shown to be part of the stream, else a `Notice` comes
    with the answer.
    """

    topic: str
    subscriber_id: int
    ticket: int
    cursor: MessageId
    max_messages: int
    proves: bool = False
    epoch: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Messages after the asked cursor, ascending, at least up to `batch.last`. `has_more`: the stream
    holds more behind it."""

    topic: str
    ticket: int
    batch: Batch
    has_more: bool
    notice: Notice | None = None


@dataclass(frozen=True, slots=True)
class WentLive:
    """The subscriber has everything up to `cursor` and is in the live set: what is appended from now on is
    `Delivered` to it."""

    topic: str
    ticket: int
    cursor: MessageId
    epoch: str
    notice: Notice | None = None


@dataclass(frozen=True, slots=True)
class FetchFailed:
    """The fetch could not be answered now; `code` says why. The subscriber keeps its cursor and asks
    again."""

    topic: str
    ticket: int
    code: str


@dataclass(frozen=True, slots=True)
class Delivered:
    """New messages for a live subscriber: they follow its cursor directly."""

    topic: str
    batch: Batch


@dataclass(frozen=True, slots=True)
class Leave:
    """Take the subscriber out of the topic's live set. Not answered; what was delivered before it may
    still arrive."""

    topic: str
    subscriber_id: int


@dataclass(frozen=True, slots=True)
class Evicted:
    """The topic no longer delivers to this subscriber; it must fetch again from its cursor."""

    topic: str


# What a connection's edge says


@dataclass(frozen=True, slots=True)
class StartSubscriber:
    """First message of a `SubscriberActor`. `completes`: end after the first messages instead of going on
    (a long-poll)."""

    subscriber_id: int
    sink: Sink
    directory: object
    store: Store
    page_max_messages: int
    completes: bool
    counters: Counters


@dataclass(frozen=True, slots=True)
class Wanted:
    """One topic of a subscribe request: where to begin. `epoch` is checked if the client presents one.

    `proves`: a message id in `start` was given out for this topic and must be shown to be part of its stream;
    without it the id is only a time to begin at.
    """

    topic: str
    start: MessageId | Start
    epoch: str | None = None
    proves: bool = True


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Add subscriptions; a topic already subscribed starts anew from its new place. `ref` is the client's,
    given back."""

    wanted: tuple[Wanted, ...]
    ref: object = None
    client_id: str | None = None


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    topics: tuple[str, ...]
    ref: object = None


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """The client has dealt with everything up to `message_id`. `topic` None: of the only topic it is
    subscribed to."""

    topic: str | None
    message_id: MessageId
    ref: object = None


@dataclass(frozen=True, slots=True)
class Drained:
    """The sink's outbox fell to its low mark."""


@dataclass(frozen=True, slots=True)
class Expire:
    """A long-poll's time is over: complete with what there is."""


@dataclass(frozen=True, slots=True)
class Disconnect:
    """The connection is gone, or must go: leave every topic and end."""


# Between directory and topic


@dataclass(frozen=True, slots=True)
class StartDirectory:
    """First message of the `DirectoryActor`."""

    store: Store
    limits: TopicLimits
    clock: WallClock
    counters: Counters
    tick_seconds: float
    compare_seconds: float


@dataclass(frozen=True, slots=True)
class StartTopic:
    """First message of a `TopicActor`. `directory` is told what concerns the whole worker."""

    topic: str
    directory: object
    store: Store
    limits: TopicLimits
    clock: WallClock
    counters: Counters


@dataclass(frozen=True, slots=True)
class TopicLimits:
    """Bounds of a topic in this worker."""

    batch_max_messages: int
    batch_max_bytes: int
    pending_max_messages: int
    pending_max_bytes: int
    page_max_bytes: int
    hot: HotLimits
    hot_total_bytes: int
    idle_ticks: int
    retention_ms: int


@dataclass(frozen=True, slots=True)
class Flush:
    """A topic's note to itself: everything published in this burst is in the pending batch, append it."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passes: expire, trim, and retire if idle."""


@dataclass(frozen=True, slots=True)
class Idle:
    """A topic has nothing to do. `received` counts what the directory forwarded to it; if more is on its
    way it stays."""

    topic: str
    received: int


@dataclass(frozen=True, slots=True)
class Retire:
    """Leave memory: nothing is on its way to this topic any more."""


@dataclass(frozen=True, slots=True)
class FollowingChanged:
    """A topic began or stopped to follow the feed."""

    topic: str
    is_following: bool


@dataclass(frozen=True, slots=True)
class HotSize:
    """A topic's hot buffer has grown or shrunk to about this size."""

    topic: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ShrinkHot:
    """Give hot-buffer memory back: other topics of this worker need it."""

    max_bytes: int


@dataclass(frozen=True, slots=True)
class Fed:
    """Another worker appended: `messages` follow `prev`. None: too large to be carried; read them from the
    stream up to `newest`."""

    topic: str
    prev: MessageId
    newest: MessageId
    epoch: str
    messages: Sequence[Message] | None


@dataclass(frozen=True, slots=True)
class Compared:
    """The stream's position, read a moment ago."""

    topic: str
    position: Position


@dataclass(frozen=True, slots=True)
class CompareNow:
    """The feed was interrupted: compare every following topic with its stream at once."""


@dataclass(frozen=True, slots=True)
class DeleteTopic:
    """Delete the topic with its data. Answered by `TopicDeleted` or `Refused`."""

    topic: str


@dataclass(frozen=True, slots=True)
class TopicDeleted:
    topic: str
    existed: bool


@dataclass(frozen=True, slots=True)
class TakeCensus:
    """Ask the directory how many subscribers each open topic has here. Answered by `Census`."""


@dataclass(frozen=True, slots=True)
class SubscribersChanged:
    """A topic's live set changed size."""

    topic: str
    count: int


@dataclass(frozen=True, slots=True)
class Census:
    subscribers: Mapping[str, int]
    open_topics: int
    following_topics: int
    hot_bytes: int


# The archive


@dataclass(frozen=True, slots=True)
class StartArchive:
    """First message of the `ArchiveActor`."""

    archive: Archive


@dataclass(frozen=True, slots=True)
class ReadHistory:
    """Ask for one page of a topic's messages. Answered by `HistoryPage` or `Refused`. `cursor` is
    exclusive; None begins at the end that the direction starts from."""

    topic: str
    cursor: MessageId | None
    max_messages: int
    max_bytes: int
    descends: bool


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """Messages in the direction asked. Expired ones are left out, so a page can be short, even empty, with
    more behind it; `end` is where the next one goes on, None if there was nothing."""

    messages: Sequence[Message]
    has_more: bool
    end: MessageId | None


@dataclass(frozen=True, slots=True)
class Describe:
    """Ask what is stored of a topic. Answered by `Description`, None if there is no such topic, or
    `Refused`."""

    topic: str


@dataclass(frozen=True, slots=True)
class Description:
    """`length` counts entries, expired ones that are not yet trimmed included."""

    topic: str
    length: int
    oldest: str | None
    newest: str | None
    epoch: str


@dataclass(frozen=True, slots=True)
class ListTopics:
    """Ask for the names of topics after `after`, in alphabetical order. Answered by a list of names, or
    `Refused`."""

    after: str
    limit: int


@dataclass(frozen=True, slots=True)
class CountTopics:
    """Ask how many topics there are. Answered by a number, or `Refused`."""


# The ports


@dataclass(frozen=True, slots=True)
class Position:
    """Where a topic's stream stands. `newest` is its last id ever given, also when the stream is empty;
    epoch "" = never existed."""

    epoch: str
    newest: MessageId


@dataclass(frozen=True, slots=True)
class Appended:
    """Outcome of one append. `messages` are the new ones, ascending, following `prev`; `outcomes` answer
    each publish in order: its ids and whether they are an earlier attempt's, or None where the key was
    used before with another body."""

    prev: MessageId
    epoch: str
    messages: Sequence[Message]
    outcomes: Sequence[tuple[tuple[str, ...], bool] | None]


@dataclass(frozen=True, slots=True)
class StreamPage:
    """What a read found strictly after its cursor, and what is needed to judge whether the cursor belongs
    to the stream."""

    position: Position
    batch: Batch
    has_more: bool
    first_id: MessageId | None
    """Id of the first entry after the cursor; None if there is none."""
    first_prev: MessageId | None
    """Predecessor named by the first entry after the cursor; None if there is no such entry."""
    knows_cursor: bool
    """Whether the stream still holds an entry with the cursor's id."""
    oldest_prev: MessageId | None
    """Predecessor named by the oldest entry; None if the stream is empty."""


class StoreError(Exception):
    """The store did not do what was asked. `code` is a row of the error table. What was asked may still
    happen if `is_outcome_unknown`."""

    def __init__(self, code: str, detail: str = "", *, is_outcome_unknown: bool = False) -> None:
        super().__init__(detail or code)
        self.code = code
        self.detail = detail
        self.is_outcome_unknown = is_outcome_unknown


class Store(Protocol):
    """The durable streams. Every method returns at once; the awaitable ends within the store's own deadline
    or raises StoreError.

    A topic's ids only ever go up, whatever happens to the store's clock or data, as long as callers pass the
    floor they know.
    """

    def append(self, topic: str, publishes: Sequence[Publish], floor: MessageId) -> Awaitable[Appended]:
        """Append all drafts in one atomic step, in order, above `floor`, and announce them on the feed. A
        repeated attempt after an unknown outcome does not append twice (the store repeats by itself within
        its deadline)."""

    def read(self, topic: str, after: MessageId, max_messages: int, max_bytes: int) -> Awaitable[StreamPage]:
        """One page strictly after `after`, ascending; at least one entry if there is any, else bounded by
        count and bytes."""

    def follow(self, topic: str) -> Awaitable[Position]:
        """Be told of other workers' appends from now on; the position is read after that took effect."""

    def unfollow(self, topic: str) -> None:
        """Stop following. Announcements on their way may still arrive."""

    def position(self, topic: str) -> Awaitable[Position]: ...

    def positions(self, topics: Sequence[str]) -> Awaitable[Sequence[Position]]:
        """The positions of many topics in one round trip."""

    def trim(self, topic: str, before_ms: int) -> Awaitable[int]:
        """Remove entries older than `before_ms` (Unix time), but never the newest; returns how many went,
        about."""

    def delete(self, topic: str) -> Awaitable[Position | None]:
        """Delete the stream; its ids are never given again. None if there was no such topic."""

    def acknowledge(self, client_id: str, cursors: Mapping[str, MessageId]) -> Awaitable[None]:
        """Move a named client's acknowledged cursors forward; one that lies behind the stored cursor
        changes nothing."""

    def acknowledged(self, client_id: str, topics: Sequence[str]) -> Awaitable[Mapping[str, MessageId]]:
        """The named client's acknowledged cursors, for those topics it has one for."""


class Archive(Protocol):
    """The store's answers to questions that change nothing. The same promises as for `Store`."""

    def history(
        self, topic: str, cursor: MessageId | None, max_messages: int, max_bytes: int, *, descends: bool
    ) -> Awaitable[HistoryPage]: ...

    def describe(self, topic: str) -> Awaitable[Description | None]: ...

    def topics(self, after: str, limit: int) -> Awaitable[Sequence[str]]: ...

    def topic_count(self) -> Awaitable[int]: ...


class Sink(Protocol):
    """One connection's sending side. Never blocks, never raises: a broken connection swallows what it is
    given and says `Disconnect`.

    What it is given is written in that order.
    """

    def subscribed(self, cursors: Mapping[str, MessageId], epochs: Mapping[str, str], ref: object) -> None:
        """Confirm a subscribe request, before any message of these topics."""

    def unsubscribed(self, topics: Sequence[str], ref: object) -> None: ...

    def deliver(self, batch: Batch) -> bool:
        """Write a batch. True: the outbox is above its high mark; send nothing more until it says
        `Drained`."""

    def notify(self, notice: Notice) -> None: ...

    def acknowledged(self, topic: str, message_id: MessageId, ref: object) -> None:
        """The acknowledgement is stored."""

    def refuse(self, code: str, detail: str, ref: object) -> None:
        """A request of the client was not carried out; the connection goes on."""

    def complete(self, cursors: Mapping[str, MessageId], has_more: bool, failure: str | None) -> None:
        """A long-poll is over: answer with what was delivered. `failure`: the error code if some topic
        could never be read."""

    def fail(self) -> None:
        """The subscriber's actor failed: close the connection, the client may come back with its cursor."""


@dataclass(slots=True)
class Counters:
    """Plain integers the actors of one worker add to; formatted as metrics at the edge."""

    messages_published: int = 0
    messages_delivered: int = 0
    replayed_publishes: int = 0
    refused_publishes: int = 0
    append_batches: int = 0
    hot_hits: int = 0
    hot_misses: int = 0
    gaps: int = 0
    resets: int = 0
    order_inversions: int = 0
    lagging_subscribers: int = 0
    demotions: int = 0
    trimmed_messages: int = 0
    topics_failed: int = 0
    subscribers: dict[str, int] = field(default_factory=dict)
