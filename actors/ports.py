"""The ports: behind them stands the outside world, what takes time and what leaves.

Actors know the outside by these promises and nothing else. With them stand the values that pass through:
what is appended, what is read, where a stream stands.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from actors.stream import Batch, Message, MessageId
from actors.value import value

WallClock = Callable[[], int]
"""Unix time in milliseconds. Injected, so that tests move it."""


# What is appended


@value
class Draft:
    """What a publisher gave for one message. `payload` and `metadata` are validated JSON texts, never
    parsed again."""

    payload: bytes
    metadata: bytes | None = None
    expires_at_ms: int | None = None


@value
class Dedupe:
    """Names one logical publish: the same `key` within a topic appends once. `digest` tells whether the
    body is the same too."""

    key: str
    digest: str


@value
class Publish:
    """Append these drafts in this order, all in one step. Answered by `Published` or `Refused`."""

    topic: str
    drafts: tuple[Draft, ...]
    dedupe: Dedupe | None = None

    @property
    def size_bytes(self) -> int:
        return sum([len(draft.payload) + len(draft.metadata or b"") + 64 for draft in self.drafts])


@value
class Appended:
    """Outcome of one append. `messages` are the new ones, ascending, following `prev`; `outcomes` answer
    each publish in order: its ids and whether they are an earlier attempt's, or None where the key was
    used before with another body."""

    prev: MessageId
    epoch: str
    messages: Sequence[Message]
    outcomes: Sequence[tuple[tuple[str, ...], bool] | None]


# What is read


@value
class Position:
    """Where a topic's stream stands. `newest` is its last id ever given, also when the stream is empty;
    epoch "" = never existed."""

    epoch: str
    newest: MessageId


@value
class StreamPage:
    """What a read found strictly after its cursor, and what is needed to judge whether the cursor belongs
    to the stream. The batch follows the cursor directly also if all that was between them had expired when
    it was removed."""

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


@value
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


@value
class Claim:
    """A connection speaks for a named client. Of two claims the later one has the higher `generation`.

    `cursors`: what the client acknowledged; `delivered`: the last message of a topic it was given. Both for
    those topics where there is one.
    """

    generation: int
    cursors: Mapping[str, MessageId]
    delivered: Mapping[str, MessageId]


@value
class HistoryPage:
    """Messages in the direction asked. Expired ones are left out; where there are very many of them, a page
    can be short, even empty, with more behind it. `end` is where the next one goes on, None if there was
    nothing."""

    messages: Sequence[Message]
    has_more: bool
    end: MessageId | None


@value
class Trimmed:
    """How many entries went, and the oldest that is left; None if the stream is empty."""

    count: int
    oldest: MessageId | None


# What is said of a topic


@value
class RetentionLimits:
    """How much a topic keeps, and how long. None: as the relay's settings say."""

    max_messages: int | None = None
    retention_ms: int | None = None

    def completed_by(self, defaults: RetentionLimits) -> RetentionLimits:
        """These limits, with the defaults' where there is none."""
        return RetentionLimits(
            defaults.max_messages if self.max_messages is None else self.max_messages,
            defaults.retention_ms if self.retention_ms is None else self.retention_ms,
        )


@value
class TopicTerms:
    """What is said of a topic when it is made or changed. `description` None: as before. `limits` has those
    that are set, by their name in `RetentionLimits`; None there: as the relay's settings say, from now on."""

    description: str | None
    limits: Mapping[str, int | None]


@value
class Description:
    """`length` counts entries, expired ones that are not yet trimmed included. `created_ms` is None for a
    topic that another server filled. `own` are the limits said of it, `effective` those that hold."""

    topic: str
    length: int
    oldest: str | None
    newest: str | None
    epoch: str
    created_ms: int | None
    text: str | None
    own: RetentionLimits
    effective: RetentionLimits


@value
class ConsumerEntry:
    """A named client of which something is kept. `idle_ms`: since it claimed, acknowledged or was given
    anything. `is_connected`: a connection to a living worker speaks for it."""

    client_id: str
    is_connected: bool
    idle_ms: int


@value
class Place:
    """Where a named client stands in a topic. `cursor`: what it acknowledged, None if nothing yet.
    `delivered`: the last message it was given, as far as that is stored. `page`: the first entry after the
    cursor, or without one the oldest. `limits`: how much the topic keeps; None in it for one that is not
    there."""

    topic: str
    cursor: MessageId | None
    delivered: MessageId | None
    page: StreamPage
    limits: RetentionLimits


@value
class ConsumerRecord:
    """`places` by the names of their topics."""

    entry: ConsumerEntry
    places: Sequence[Place]


@value
class ConsumerPage:
    """Forgotten names are left out, so a page can be short, even empty; it goes on after `last`, None if this
    was all."""

    consumers: Sequence[ConsumerEntry]
    last: str | None


# The ports


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

    def positions(self, topics: Sequence[str]) -> Awaitable[Sequence[Position | None]]:
        """The positions of many topics in one round trip; None for those that cannot be asked now, as long
        as others can."""

    def trim(self, topic: str, now_ms: int) -> Awaitable[Trimmed]:
        """Remove what the topic's retention does not keep at this Unix time, and what has expired at the
        stream's old end, but never the newest entry."""

    def delete(self, topic: str) -> Awaitable[Position | None]:
        """Delete the stream; its ids are never given again. None if there was no such topic."""

    def claim(
        self, client_id: str, subscriber_id: int, topics: Sequence[str], *, is_held: bool
    ) -> Awaitable[Claim]:
        """Have a connection speak for a named client, alone: all workers are told. Again by the same
        connection it only asks for more topics. `is_held`: it did before; StoreError `taken_over` if another
        one has claimed since."""

    def acknowledge(
        self,
        client_id: str,
        subscriber_id: int | None,
        cursors: Mapping[str, MessageId],
        *,
        proves: bool,
    ) -> Awaitable[Mapping[str, MessageId]]:
        """Move a named client's acknowledged cursors forward, and return the stored ones: a cursor that lies
        behind changes nothing. All or nothing: StoreError `taken_over` if another connection than this one
        speaks for the client (None: nobody's word is checked), `ahead_of_stream` if it `proves` and a cursor
        lies behind all that its topic ever gave."""

    def mark(self, client_id: str, delivered: Mapping[str, MessageId]) -> Awaitable[None]:
        """Remember the last messages a named client was given; a mark only moves forward."""

    def release(
        self, client_id: str, subscriber_id: int, delivered: Mapping[str, MessageId]
    ) -> Awaitable[None]:
        """`mark`, and the connection speaks for the client no more; if another one does by now, it stays."""

    def claims(self, client_ids: Sequence[str]) -> Awaitable[Mapping[str, int]]:
        """The generation of each client's latest claim, of those that have one."""


class Archive(Protocol):
    """What the store is asked without a topic in memory or a connection. The same promises as for `Store`."""

    def history(
        self, topic: str, cursor: MessageId | None, max_messages: int, max_bytes: int, *, descends: bool
    ) -> Awaitable[HistoryPage]: ...

    def describe(self, topic: str) -> Awaitable[Description | None]: ...

    def create(self, topic: str, terms: TopicTerms) -> Awaitable[bool]:
        """Make a topic without messages. False if there is such a topic already: then nothing is changed."""

    def change(self, topic: str, terms: TopicTerms) -> Awaitable[bool]:
        """Change what is said of a topic; the next append and the next trim go by it, on every worker. False
        if there is no such topic."""

    def topics(self, after: str, limit: int) -> Awaitable[Sequence[str]]: ...

    def topic_count(self) -> Awaitable[int]: ...

    def acknowledge(
        self,
        client_id: str,
        subscriber_id: int | None,
        cursors: Mapping[str, MessageId],
        *,
        proves: bool,
    ) -> Awaitable[Mapping[str, MessageId]]:
        """As for `Store`."""

    def consumer(self, client_id: str) -> Awaitable[ConsumerRecord]:
        """What is kept of a named client; StoreError `consumer_not_found` if nothing is."""

    def consumers(self, after: str, limit: int) -> Awaitable[ConsumerPage]:
        """Named clients, in the order of their names, from the first after `after` on."""

    def forget(self, client_id: str) -> Awaitable[None]:
        """Delete what is kept of a named client; StoreError `consumer_not_found` if nothing is,
        `consumer_connected` if a connection speaks for it."""


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

    def taken_over(self) -> None:
        """Another connection speaks for this one's client now: say so and close."""

    def fail(self) -> None:
        """The subscriber's actor failed: close the connection, the client may come back with its cursor."""
