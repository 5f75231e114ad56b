"""A store whose streams are lists: the promises of the `Store` port, kept when the test says so."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from actors.ports import Appended, Claim, Draft, Position, Publish, StoreError, StreamPage, Trimmed
from actors.protocol import Fed
from actors.stream import BEGINNING, Batch, Message, MessageId

START_MS = 1_700_000_000_000


class Call:
    """A call of the store, not yet carried out."""

    def __init__(self, name: str, function: Callable[[], Any], arguments: tuple[Any, ...]) -> None:
        self.name = name
        self.run = function
        self.arguments = arguments


class ModelStream:
    """One topic's stream as a list, with the store's promises.

    `messages` are retained, `history` is everything that was ever appended to the present stream.
    """

    def __init__(self, topic: str = "t") -> None:
        self.topic = topic
        self.messages: list[Message] = []
        self.history: list[Message] = []
        self.newest = BEGINNING
        self.epoch = ""
        self.epochs = 0
        self.clock_ms = START_MS
        self.announced: list[tuple[str, Fed]] = []
        """Every append, with the worker that made it, as the feed tells it."""
        self.is_inline = True
        """Whether announcements carry the messages."""
        self._keys: dict[str, tuple[str, tuple[str, ...]]] = {}

    def append(
        self, publishes: Sequence[Publish], floor: MessageId = BEGINNING, worker: str = ""
    ) -> Appended:
        if not self.epoch:
            self._new_epoch()
        is_new_history = self.newest < floor
        if is_new_history:
            # An id nobody has, between the floor and what is added now.
            ms = max(self.clock_ms, floor.milliseconds + 1)
            self.newest = MessageId.of(ms, floor.number)
            self._new_epoch()
        prev = self.newest
        outcomes: list[tuple[tuple[str, ...], bool] | None] = []
        added: list[Message] = []
        for publish in publishes:
            dedupe = publish.dedupe
            known = self._keys.get(dedupe.key) if dedupe is not None else None
            if dedupe is not None and known is not None:
                outcomes.append((known[1], True) if known[0] == dedupe.digest else None)
                continue
            new = [self._add(draft) for draft in publish.drafts]
            added += new
            ids = tuple(message.id_text for message in new)
            if dedupe is not None:
                self._keys[dedupe.key] = (dedupe.digest, ids)
            outcomes.append((ids, False))
        if added and is_new_history:
            first = added[0]
            stored = Message(
                first.topic,
                first.id,
                first.id_text,
                BEGINNING,
                first.payload,
                first.metadata,
                first.expires_at_ms,
            )
            self.messages[-len(added)] = self.history[-len(added)] = stored
        if added:
            inline = added if self.is_inline else None
            self.announced.append((worker, Fed(self.topic, prev, self.newest, self.epoch, inline)))
        return Appended(prev, self.epoch, added, outcomes)

    def add(self, *payloads: bytes, worker: str = "another") -> list[Message]:
        """Another worker appends."""
        return list(self.append([Publish(self.topic, tuple(map(Draft, payloads)))], worker=worker).messages)

    def _add(self, draft: Draft) -> Message:
        ms = max(self.clock_ms, self.newest.milliseconds)
        this = MessageId.of(ms, self.newest.number + 1)
        message = Message(
            self.topic, this, str(this), self.newest, draft.payload, draft.metadata, draft.expires_at_ms
        )
        self.messages.append(message)
        self.history.append(message)
        self.newest = this
        return message

    def _new_epoch(self) -> None:
        self.epochs += 1
        self.epoch = f"epoch-{self.epochs}"

    def read(self, after: MessageId, max_messages: int = 1000, max_bytes: int = 1 << 30) -> StreamPage:
        found = [message for message in self.messages if message.id > after]
        page: list[Message] = []
        size_bytes = 0
        for message in found[:max_messages]:
            size_bytes += message.size_bytes
            if page and size_bytes > max_bytes:
                break
            page.append(message)
        return StreamPage(
            self.position(),
            Batch(self.topic, page, page[-1].id if page else after),
            len(found) > len(page),
            page[0].id if page else None,
            page[0].prev if page else None,
            any(message.id == after for message in self.messages),
            self.messages[0].prev if self.messages else None,
        )

    def position(self) -> Position:
        return Position(self.epoch, self.newest)

    def trim(self, count: int) -> None:
        """Retention removes the oldest."""
        del self.messages[:count]

    def lose(self, count: int) -> None:
        """A power cut takes the newest, as if they had never been."""
        del self.messages[len(self.messages) - count :]
        self.newest = self.messages[-1].id if self.messages else BEGINNING

    def delete(self) -> Position | None:
        if not self.epoch:
            return None
        self.messages, self.history, self.epoch = [], [], ""
        return Position("", self.newest)

    def ids(self, start: int = 0) -> list[str]:
        return [message.id_text for message in self.messages[start:]]


class ScriptedStore:
    """The `Store` port of one worker. Each call waits in the system's works until the test has it run."""

    def __init__(self, *streams: ModelStream, worker: str = "this") -> None:
        self.streams = {stream.topic: stream for stream in streams}
        self.worker = worker
        self.followed: set[str] = set()
        self.trims: list[tuple[str, int]] = []
        self.stored_cursors: dict[str, dict[str, MessageId]] = {}
        self.marks: dict[str, dict[str, MessageId]] = {}
        self.claimed: dict[str, tuple[int, int | None]] = {}
        """Of each client the generation of its last claim, and who speaks for it."""

    def stream(self, topic: str = "t") -> ModelStream:
        return self.streams.setdefault(topic, ModelStream(topic))

    def append(self, topic: str, publishes: Sequence[Publish], floor: MessageId) -> Any:
        def run() -> Appended:
            return self.stream(topic).append(publishes, floor, self.worker)

        return Call("append", run, (topic, publishes, floor))

    def read(self, topic: str, after: MessageId, max_messages: int, max_bytes: int) -> Any:
        def run() -> StreamPage:
            return self.stream(topic).read(after, max_messages, max_bytes)

        return Call("read", run, (topic, after, max_messages, max_bytes))

    def follow(self, topic: str) -> Any:
        def run() -> Position:
            self.followed.add(topic)
            return self.stream(topic).position()

        return Call("follow", run, (topic,))

    def unfollow(self, topic: str) -> None:
        self.followed.discard(topic)

    def position(self, topic: str) -> Any:
        return Call("position", lambda: self.stream(topic).position(), (topic,))

    def positions(self, topics: Sequence[str]) -> Any:
        return Call("positions", lambda: [self.stream(topic).position() for topic in topics], (topics,))

    def trim(self, topic: str, now_ms: int) -> Any:
        def run() -> Trimmed:
            self.trims.append((topic, now_ms))
            messages = self.stream(topic).messages
            return Trimmed(0, messages[0].id if messages else None)

        return Call("trim", run, (topic, now_ms))

    def delete(self, topic: str) -> Any:
        return Call("delete", lambda: self.stream(topic).delete(), (topic,))

    def claim(self, client_id: str, subscriber_id: int, topics: Sequence[str], *, is_held: bool) -> Any:
        def run() -> Claim:
            generation, holder = self.claimed.get(client_id, (0, None))
            if holder != subscriber_id:
                if is_held and generation:
                    raise StoreError("taken_over")
                generation += 1
                self.claimed[client_id] = generation, subscriber_id
            cursors, marks = self.stored_cursors.get(client_id, {}), self.marks.get(client_id, {})
            return Claim(
                generation,
                {topic: cursors[topic] for topic in topics if topic in cursors},
                {topic: marks[topic] for topic in topics if topic in marks},
            )

        return Call("claim", run, (client_id, subscriber_id, tuple(topics), is_held))

    def acknowledge(
        self, client_id: str, subscriber_id: int | None, cursors: Mapping[str, MessageId], *, proves: bool
    ) -> Any:
        def run() -> dict[str, MessageId]:
            if proves and any(cursor > self.stream(topic).newest for topic, cursor in cursors.items()):
                raise StoreError("ahead_of_stream")
            if subscriber_id is not None and self._is_anothers(client_id, subscriber_id):
                raise StoreError("taken_over")
            return _move(self.stored_cursors.setdefault(client_id, {}), cursors)

        return Call("acknowledge", run, (client_id, dict(cursors), proves))

    def _is_anothers(self, client_id: str, subscriber_id: int) -> bool:
        return client_id in self.claimed and self.claimed[client_id][1] != subscriber_id

    def mark(self, client_id: str, delivered: Mapping[str, MessageId]) -> Any:
        def run() -> None:
            _move(self.marks.setdefault(client_id, {}), delivered)

        return Call("mark", run, (client_id, dict(delivered)))

    def release(self, client_id: str, subscriber_id: int, delivered: Mapping[str, MessageId]) -> Any:
        def run() -> None:
            _move(self.marks.setdefault(client_id, {}), delivered)
            generation, holder = self.claimed.get(client_id, (0, None))
            if holder == subscriber_id:
                self.claimed[client_id] = generation, None

        return Call("release", run, (client_id, subscriber_id, dict(delivered)))

    def claims(self, client_ids: Sequence[str]) -> Any:
        def run() -> dict[str, int]:
            return {name: self.claimed[name][0] for name in client_ids if name in self.claimed}

        return Call("claims", run, (tuple(client_ids),))


def _move(stored: dict[str, MessageId], cursors: Mapping[str, MessageId]) -> dict[str, MessageId]:
    for topic, cursor in cursors.items():
        stored[topic] = max(stored.get(topic, BEGINNING), cursor)
    return {topic: stored[topic] for topic in cursors}


def make_messages(
    first: int, last: int, *, topic: str = "t", size: int = 1, expires_at_ms: int | None = None
) -> list[Message]:
    """Messages with the numbers `first` to `last`, each following the one before."""
    return [
        Message(topic, nth(n), str(nth(n)), nth(n - 1), b"x" * size, None, expires_at_ms)
        for n in range(first, last + 1)
    ]


def nth(number: int) -> MessageId:
    """The id of a topic's message with this number, all of the same millisecond; 0 is the beginning."""
    return MessageId.of(START_MS, number) if number else BEGINNING


def id_texts(messages: Iterable[Message]) -> list[str]:
    return [message.id_text for message in messages]
