"""Every message between actors. What passes through the ports to the outside world stands in `ports.py`,
what is about named clients in `consumer_protocol.py`.

Commands are imperative (`Publish`), facts are past (`Appended`). A message is a value: whoever receives one
must not change it. All messages for a topic travel through the `DirectoryActor`, which creates the topic's
actor on first use and forwards with the original sender; so nobody but the directory ever holds a topic's
address, and a topic can leave memory at any time.

    handler ──ask Publish──▶ Directory ──forward──▶ Topic ──append──▶ Store
    handler ◀─────────────────Published───────────── Topic ◀─Appended── Store
    Subscriber ──Fetch──▶ Directory ──forward──▶ Topic ──Page | WentLive | FetchFailed──▶ Subscriber
    Topic ──deliver──▶ the Sink of each live Subscriber that has lent its cursor
    Topic ──Delivered──▶ every other live Subscriber ──deliver──▶ Sink
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from enum import Enum

from actors.counters import Counters
from actors.live_cursor import LiveCursor
from actors.ports import Archive, Notice, Position, Sink, Store, TopicTerms, WallClock
from actors.stream import Batch, HotLimits, Message, MessageId
from actors.value import value

# Publishing


@value
class Published:
    """The drafts are in the stream under these ids. `is_replay`: they were already, from an earlier
    attempt with the same key."""

    topic: str
    ids: tuple[str, ...]
    is_replay: bool = False


@value
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


@value
class Locate:
    """Ask where the topic's newest message is. Answered by `Located` or `FetchFailed`."""

    topic: str
    ticket: int


@value
class Located:
    topic: str
    ticket: int
    newest: MessageId
    epoch: str


@value
class Fetch:
    """Ask for the messages strictly after `cursor`, or, if there is none, to be made live: one decision,
    taken in one turn. Answered by `Page`, `WentLive` or `FetchFailed`; not at all after a `Leave`.

    `ticket` comes back with the answer; an answer with an older ticket than the last one asked for is stale.
    `proves`: the cursor is a place in the stream, and must be shown to be one, else a `Notice` comes with the
    answer. False for what is only a place to begin at: the beginning, a time. `epoch`: the history the cursor
    is from, where the subscriber knows it. `live`: lent for the time it is live; None: all it is delivered
    goes by message. `completes`: it wants the first messages only (a long-poll): with them the topic lets go
    of it, without a `Leave`.
    """

    topic: str
    subscriber_id: int
    ticket: int
    cursor: MessageId
    max_messages: int
    proves: bool = False
    epoch: str | None = None
    live: LiveCursor | None = field(default=None, compare=False)
    completes: bool = False


@value
class Page:
    """Messages after the asked cursor, ascending, at least up to `batch.last`. `has_more`: the stream
    holds more behind it."""

    topic: str
    ticket: int
    batch: Batch
    has_more: bool
    notice: Notice | None = None


@value
class WentLive:
    """The subscriber has everything up to `cursor` and is in the live set: what is appended from now on is
    delivered to it."""

    topic: str
    ticket: int
    cursor: MessageId
    epoch: str
    notice: Notice | None = None


@value
class FetchFailed:
    """The fetch could not be answered now; `code` says why. The subscriber keeps its cursor and asks
    again."""

    topic: str
    ticket: int
    code: str


@value
class Delivered:
    """New messages for a live subscriber: they follow its cursor directly, or what is on its way to it."""

    topic: str
    batch: Batch


@value
class Filled:
    """The subscriber's sink was full after what a topic delivered straight to it. Comes before `Drained`."""


@value
class SinkFailed:
    """The subscriber's sink raised `error` when a topic delivered straight to it."""

    error: BaseException


@value
class Leave:
    """Take the subscriber out of the topic's live set, and forget what it asked. Not answered; what was sent
    before it may still arrive."""

    topic: str
    subscriber_id: int


@value
class Evicted:
    """The topic no longer delivers to this subscriber; it must fetch again from its cursor."""

    topic: str


# What a connection's edge says


@value
class StartSubscriber:
    """First message of a `SubscriberActor`. `completes`: end after the first messages instead of going on
    (a long-poll). `is_counted`: topics may count what they deliver straight to the sink; False for the
    relay's own, whose `counters` are nobody's. `subscribe`: what it begins with, if that is known."""

    subscriber_id: int
    sink: Sink
    directory: object
    claims: object
    store: Store
    page_max_messages: int
    completes: bool
    counters: Counters
    is_counted: bool = True
    subscribe: Subscribe | None = None


@value
class Wanted:
    """One topic of a subscribe request: where to begin. `epoch` is checked if the client presents one.

    `proves`: a message id in `start` was given out for this topic and must be shown to be part of its stream;
    without it the id is only a time to begin at.
    """

    topic: str
    start: MessageId | Start
    epoch: str | None = None
    proves: bool = True


@value
class Subscribe:
    """Add subscriptions; a topic already subscribed starts anew from its new place. `ref` is the client's,
    given back. `client_id` names the client that the connection speaks for from now on, None if that is not
    new."""

    wanted: tuple[Wanted, ...]
    ref: object = None
    client_id: str | None = None


@value
class Unsubscribe:
    topics: tuple[str, ...]
    ref: object = None


@value
class Acknowledge:
    """The client has dealt with everything up to `message_id`. `topic` None: of the only topic it is
    subscribed to."""

    topic: str | None
    message_id: MessageId
    ref: object = None


@value
class Drained:
    """The sink's outbox fell to its low mark."""


@value
class Expire:
    """A long-poll's time is over: complete with what there is, as soon as every topic has said what that is
    or cannot be read."""


@value
class Disconnect:
    """The connection is gone, or must go: leave every topic and end."""


# Between directory and topic


@value
class StartDirectory:
    """First message of the `DirectoryActor`."""

    store: Store
    limits: TopicLimits
    clock: WallClock
    counters: Counters
    tick_seconds: float
    compare_seconds: float


@value
class StartTopic:
    """First message of a `TopicActor`. `directory` is told what concerns the whole worker."""

    topic: str
    directory: object
    store: Store
    limits: TopicLimits
    clock: WallClock
    counters: Counters


@value
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


@value
class ChangeLimits:
    """From now on these bounds hold, in the topics that are open too."""

    limits: TopicLimits
    tick_seconds: float
    compare_seconds: float


@value
class Flush:
    """A topic's note to itself: everything published in this burst is in the pending batch, append it."""


@value
class Tick:
    """Time passes: expire, trim, and retire if idle."""


@value
class Idle:
    """A topic has nothing to do. `received` counts what the directory forwarded to it; if more is on its
    way it stays."""

    topic: str
    received: int


@value
class Retire:
    """Leave memory: nothing is on its way to this topic any more."""


@value
class FollowingChanged:
    """A topic began or stopped to follow the feed."""

    topic: str
    is_following: bool


@value
class HotSize:
    """A topic's hot buffer has grown or shrunk to about this size."""

    topic: str
    size_bytes: int


@value
class ShrinkHot:
    """Give hot-buffer memory back: other topics of this worker need it."""

    max_bytes: int


@value
class Fed:
    """Another worker appended: `messages` follow `prev`. None: too large to be carried; read them from the
    stream up to `newest`."""

    topic: str
    prev: MessageId
    newest: MessageId
    epoch: str
    messages: Sequence[Message] | None


@value
class Compared:
    """The stream's position, read a moment ago."""

    topic: str
    position: Position


@value
class CompareNow:
    """The feed was interrupted: compare following topics with their streams at once; None: all of them."""

    topics: Sequence[str] | None = None


@value
class DeleteTopic:
    """Delete the topic with its data. Answered by `TopicDeleted` or `Refused`."""

    topic: str


@value
class TopicDeleted:
    topic: str
    existed: bool


@value
class TakeCensus:
    """Ask the directory how many subscribers each open topic has here. Answered by `Census`."""


@value
class SubscribersChanged:
    """A topic's live set changed size."""

    topic: str
    count: int


@value
class Census:
    subscribers: Mapping[str, int]
    open_topics: int
    following_topics: int
    hot_bytes: int


# The archive


@value
class StartArchive:
    """First message of the `ArchiveActor`."""

    archive: Archive


@value
class ReadHistory:
    """Ask for one page of a topic's messages. Answered by `HistoryPage` or `Refused`. `cursor` is
    exclusive; None begins at the end that the direction starts from."""

    topic: str
    cursor: MessageId | None
    max_messages: int
    max_bytes: int
    descends: bool


@value
class Describe:
    """Ask what is stored of a topic. Answered by `Description`, None if there is no such topic, or
    `Refused`."""

    topic: str


@value
class CreateTopic:
    """Make a topic without messages. Answered by whether it was made, False if there is one already, or by
    `Refused`."""

    topic: str
    terms: TopicTerms


@value
class ChangeTopic:
    """Change what is said of a topic. Answered by whether there is such a topic, or by `Refused`."""

    topic: str
    terms: TopicTerms


@value
class ListTopics:
    """Ask for the names of topics after `after`, in alphabetical order. Answered by a list of names, or
    `Refused`."""

    after: str
    limit: int


@value
class CountTopics:
    """Ask how many topics there are. Answered by a number, or `Refused`."""
