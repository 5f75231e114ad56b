"""Values of one topic's stream: message ids, messages, batches, and the hot buffer of the newest of them.

Pure values: nothing here does I/O, knows a wire format, or reads a clock. A message id carries its own
position: it is `<milliseconds>-<number>`, where the number counts the topic's messages from 1, so the
distance between two ids of a topic is the number of messages between them, also when those are long trimmed.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import islice
from typing import ClassVar, TypeVar

from actors.value import value

_NUMBER_BITS = 64
_NUMBER_MASK = (1 << _NUMBER_BITS) - 1
_ID_PATTERN = re.compile(r"([0-9]{1,20})-([0-9]{1,20})", re.ASCII)

MESSAGE_OVERHEAD_BYTES = 640
"""What a message costs in the hot buffer beside its payload, measured: the object, its ids, the head of its
shared item text."""

NEVER_MS = 1 << 62
"""A time that does not come, for messages without a time to live."""

T = TypeVar("T")

_UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MILLISECONDS = (datetime(9999, 12, 31, tzinfo=UTC) - _UNIX_EPOCH) // timedelta(milliseconds=1)


@lru_cache(maxsize=1024)
def timestamp_text(milliseconds: int) -> str:
    """Unix milliseconds as ISO-8601 in UTC with microseconds; after the year 9999, its last day."""
    seconds, rest = divmod(min(milliseconds, _LAST_MILLISECONDS), 1000)
    return f"{_second_text(seconds)}.{rest:03}000Z"


@lru_cache(maxsize=64)
def _second_text(seconds: int) -> str:
    return (_UNIX_EPOCH + timedelta(seconds=seconds)).isoformat().removesuffix("+00:00")


class MessageId(int):
    """An id as one integer, so that ids compare, sort and hash at the speed of integers.

    >>> MessageId.parse("9-0") < MessageId.parse("10-0")
    True
    """

    __slots__ = ()

    @classmethod
    def of(cls, milliseconds: int, number: int) -> MessageId:
        return cls(milliseconds << _NUMBER_BITS | number)

    @classmethod
    def parse(cls, text: str) -> MessageId:
        """The id written as `text`; ValueError unless it is two decimal numbers below 2**64 and a dash."""
        match = _ID_PATTERN.fullmatch(text)
        if match is None:
            raise ValueError(f"not a message id: {text[:60]!r}")
        milliseconds, number = int(match[1]), int(match[2])
        if milliseconds > _NUMBER_MASK or number > _NUMBER_MASK:
            raise ValueError(f"message id out of range: {text!r}")
        return cls(milliseconds << _NUMBER_BITS | number)

    @property
    def milliseconds(self) -> int:
        """The store's clock, Unix time, when the message was appended."""
        return int(self) >> _NUMBER_BITS

    @property
    def number(self) -> int:
        """How many messages the topic had ever received, this one included."""
        return int(self) & _NUMBER_MASK

    def __str__(self) -> str:
        return f"{int(self) >> _NUMBER_BITS}-{int(self) & _NUMBER_MASK}"

    def __repr__(self) -> str:
        return f"MessageId({str(self)!r})"


BEGINNING = MessageId(0)
"""The cursor before every message; also the predecessor of a topic's first message."""


class Message:
    """One message as it stands in the stream. Treat as immutable; `item` alone is filled later, once.

    `payload` and `metadata` are JSON texts exactly as the publisher sent them. `prev` is the id before this
    one in the topic. The time of a message is the time in its id; only entries that another server wrote
    carry a `timestamp` of their own. `item` is the message's JSON text on the wire, kept by whoever encodes
    it first so that all transports share those bytes.
    """

    __slots__ = (
        "_timestamp",
        "expires_at_ms",
        "id",
        "id_text",
        "item",
        "metadata",
        "payload",
        "prev",
        "topic",
    )

    def __init__(
        self,
        topic: str,
        message_id: MessageId,
        id_text: str,
        prev: MessageId,
        payload: bytes,
        metadata: bytes | None = None,
        expires_at_ms: int | None = None,
        timestamp: str | None = None,
    ) -> None:
        self.topic = topic
        self.id = message_id
        self.id_text = id_text
        self.prev = prev
        self.payload = payload
        self._timestamp = timestamp
        self.metadata = metadata
        self.expires_at_ms = expires_at_ms
        self.item: bytes | None = None

    is_redelivered: ClassVar[bool] = False

    @property
    def timestamp(self) -> str:
        """When the message was appended, ISO-8601."""
        return self._timestamp or timestamp_text(self.id.milliseconds)

    @property
    def size_bytes(self) -> int:
        """What keeping this message in memory costs: its texts twice (once inside `item`) and overhead."""
        return 2 * (len(self.payload) + len(self.metadata or b"")) + MESSAGE_OVERHEAD_BYTES

    def is_expired(self, now_ms: int) -> bool:
        """Whether its time to live has passed: then it is given to nobody."""
        return self.expires_at_ms is not None and self.expires_at_ms <= now_ms

    def __repr__(self) -> str:
        return f"Message({self.topic!r}, {self.id_text!r}, {len(self.payload)} bytes)"


class Redelivered(Message):
    """A message that a named client was given before, or may have been; it has an item of its own."""

    __slots__ = ()
    is_redelivered = True

    @classmethod
    def of(cls, message: Message) -> Redelivered:
        return cls(
            message.topic,
            message.id,
            message.id_text,
            message.prev,
            message.payload,
            message.metadata,
            message.expires_at_ms,
            message._timestamp,
        )


class Batch:
    """Messages of one topic in ascending order, handed to any number of subscribers.

    Each wire format's bytes are made once, by the first who asks, and shared by all others.
    """

    __slots__ = ("_alive", "_encoded", "_soonest_expiry_ms", "last", "messages", "prev", "topic")

    def __init__(
        self,
        topic: str,
        messages: Sequence[Message],
        last: MessageId | None = None,
        prev: MessageId | None = None,
    ) -> None:
        self.topic = topic
        self.messages = messages
        self.last = messages[-1].id if last is None else last
        """Where reading continues after this batch; beyond the last message if expired ones were left out."""
        if prev is None:
            prev = messages[0].prev if messages else self.last
        self.prev = prev
        """The cursor this batch follows directly; before the first message's own if expired ones were left
        out, or removed from the stream."""
        self._encoded: dict[object, object] = {}
        self._soonest_expiry_ms: int | None = None
        self._alive: Batch | None = None

    def encoded(self, encode: Callable[[Sequence[Message]], T]) -> T:
        """`encode(self.messages)`, computed on the first call with this very function."""
        found = self._encoded.get(encode)
        if found is None:
            found = self._encoded[encode] = encode(self.messages)
        return found  # type: ignore[return-value]

    def first(self, limit: int) -> Batch:
        """The first `limit` messages of this batch; the batch itself if it has no more."""
        if len(self.messages) <= limit:
            return self
        return Batch(self.topic, self.messages[:limit], prev=self.prev)

    def after(self, cursor: MessageId) -> Batch | None:
        """The part of this batch strictly after `cursor`, None if it ends there. Without messages, if all
        that come after the cursor have expired."""
        if self.prev >= cursor:
            return self
        if self.last <= cursor:
            return None
        rest = [message for message in self.messages if message.id > cursor]
        return Batch(self.topic, rest, self.last, cursor)

    def redelivered(self, given: MessageId) -> Batch:
        """The same for one client, to whom what is at or below `given` comes again."""
        messages = [Redelivered.of(message) if message.id <= given else message for message in self.messages]
        return Batch(self.topic, messages, self.last, self.prev)

    def unexpired(self, now_ms: int) -> Batch:
        """The batch without the messages whose time to live has passed; the batch itself if none has.

        Whoever asks while no more of them expire is given the same batch, and shares its encoding.
        """
        if self._soonest_expiry_ms is None:
            expiries = [m.expires_at_ms for m in self.messages if m.expires_at_ms is not None]
            self._soonest_expiry_ms = min(expiries, default=NEVER_MS)
        if now_ms < self._soonest_expiry_ms:
            return self
        alive = self._alive
        if alive is None:
            living = [m for m in self.messages if not m.is_expired(now_ms)]
            alive = Batch(self.topic, living, self.last, self.prev)
        self._alive = alive = alive.unexpired(now_ms)
        return alive

    def __len__(self) -> int:
        return len(self.messages)


@value
class HotLimits:
    """Bounds of one topic's hot buffer. Whichever is reached first drops the oldest message."""

    max_messages: int
    max_bytes: int
    max_age_ms: int


class HotBuffer:
    """The newest messages of a topic, gapless: `floor` is the id before the oldest one held.

    A reader whose cursor is at or above `floor` can be served from here and misses nothing.
    """

    __slots__ = ("_dropped_bytes", "_ends", "_ids", "_limits", "_messages", "_start", "floor")

    def __init__(self, limits: HotLimits, floor: MessageId = BEGINNING) -> None:
        self._limits = limits
        # Lists with a moving start instead of deques: bisect needs random access, and a deque's is linear.
        self._messages: list[Message] = []
        self._ids: list[MessageId] = []
        # The bytes of all messages that ever came up to and with each one: a range's size is a subtraction.
        self._ends: list[int] = []
        self._dropped_bytes = 0
        self._start = 0
        self.floor = floor

    def __len__(self) -> int:
        return len(self._ids) - self._start

    def __iter__(self) -> Iterator[Message]:
        return islice(self._messages, self._start, None)

    @property
    def size_bytes(self) -> int:
        return self._ends[-1] - self._dropped_bytes if self._ends else 0

    @property
    def newest(self) -> MessageId:
        """Id of the newest message held; `floor` when there is none."""
        return self._ids[-1] if len(self._ids) > self._start else self.floor

    def extend(self, messages: Sequence[Message]) -> None:
        """Append messages that follow the newest one directly, then drop the oldest until the bounds hold."""
        self._messages.extend(messages)
        self._ids.extend([message.id for message in messages])
        total = self._ends[-1] if self._ends else self._dropped_bytes
        for message in messages:
            total += message.size_bytes
            self._ends.append(total)
        self._keep_bounds()

    def bound(self, limits: HotLimits) -> None:
        """Other bounds from now on; drops the oldest until they hold. Age counts with the next `expire`."""
        self._limits = limits
        self._keep_bounds()

    def _keep_bounds(self) -> None:
        excess = len(self) - self._limits.max_messages
        if excess > 0:
            self._drop_to(self._start + excess)
        self.shrink(self._limits.max_bytes)

    def expire(self, now_ms: int) -> None:
        """Drop what is older than the age bound."""
        self.drop_before(MessageId.of(max(0, now_ms - self._limits.max_age_ms), 0))

    def drop_before(self, oldest: MessageId) -> None:
        """Drop the messages below `oldest`."""
        self._drop_to(bisect_left(self._ids, oldest, lo=self._start))

    def shrink(self, max_bytes: int) -> None:
        """Drop the oldest until at most `max_bytes` are held."""
        excess = self.size_bytes - max_bytes
        if excess > 0:
            self._drop_to(bisect_left(self._ends, self._dropped_bytes + excess, lo=self._start) + 1)

    def clear(self, floor: MessageId) -> None:
        """Forget everything and start anew behind `floor`."""
        self._messages, self._ids, self._ends, self._start = [], [], [], 0
        self._dropped_bytes = 0
        self.floor = floor

    def knows(self, cursor: MessageId) -> bool:
        """Whether `cursor` is the id of a message held, or the one before the oldest of them."""
        if cursor == self.floor:
            return True
        index = bisect_left(self._ids, cursor, lo=self._start)
        return index < len(self._ids) and self._ids[index] == cursor

    def after(self, cursor: MessageId, max_messages: int, max_bytes: int) -> list[Message]:
        """Messages strictly after `cursor`, bounded by count and bytes, at least one if there is any."""
        start = bisect_right(self._ids, cursor, lo=self._start)
        before = self._ends[start - 1] if start > self._start else self._dropped_bytes
        fitting = bisect_right(self._ends, before + max_bytes, lo=start)
        return self._messages[start : min(start + max_messages, max(fitting, start + 1))]

    def iterate_after(self, cursor: MessageId) -> Iterator[Message]:
        """Messages strictly after `cursor`, ascending."""
        return islice(self._messages, bisect_right(self._ids, cursor, lo=self._start), None)

    def size_between(self, cursor: MessageId, last: MessageId) -> int:
        """The bytes of the messages held that come after `cursor`, up to and with `last`."""
        start = bisect_right(self._ids, cursor, lo=self._start)
        end = bisect_right(self._ids, last, lo=start)
        if end == start:
            return 0
        return self._ends[end - 1] - (self._ends[start - 1] if start > self._start else self._dropped_bytes)

    def _drop_to(self, start: int) -> None:
        dropped = start - self._start
        if dropped <= 0:
            return
        self.floor = self._ids[start - 1]
        self._dropped_bytes = self._ends[start - 1]
        # Lets the messages go before the next compaction.
        self._messages[self._start : start] = [None] * dropped  # type: ignore[list-item]
        self._start = start
        if start > 256 and start * 2 > len(self._ids):
            del self._messages[:start]
            del self._ids[:start]
            del self._ends[:start]
            self._start = 0


class PageCache:
    """The last few pages read by cursor, so that readers of the same range share one encoding of it."""

    __slots__ = ("_max_bytes", "_pages", "size_bytes")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._pages: dict[tuple[MessageId, int], tuple[Batch, int]] = {}
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._pages)

    def get(self, cursor: MessageId, limit: int) -> Batch | None:
        found = self._pages.get((cursor, limit))
        return None if found is None else found[0]

    def put(self, cursor: MessageId, limit: int, page: Batch, size_bytes: int) -> None:
        """Keep a page that is not kept yet; the oldest give way to it. One beyond the bound is not kept."""
        if size_bytes > self._max_bytes:
            return
        self._pages[cursor, limit] = (page, size_bytes)
        self.size_bytes += size_bytes
        self.bound(self._max_bytes)

    def bound(self, max_bytes: int) -> None:
        """From now on; the oldest give way until it holds."""
        self._max_bytes = max_bytes
        while self.size_bytes > self._max_bytes:
            _, oldest_bytes = self._pages.pop(next(iter(self._pages)))
            self.size_bytes -= oldest_bytes

    def clear(self) -> None:
        self._pages.clear()
        self.size_bytes = 0
