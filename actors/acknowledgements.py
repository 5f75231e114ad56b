"""Acknowledgements: how far one connection's client says it has come, on the way to the store."""

from __future__ import annotations

from actors.ports import Sink, Store
from actors.protocol import Acknowledge
from actors.runtime import LoopActor
from actors.stream import BEGINNING, MessageId

WAITING_MAX = 1000


class AckBatch:
    """Cursors stored together, and what the client called each acknowledgement. Also the tag under which the
    outcome comes back. `proves`: the store must see whether the one cursor was ever given out."""

    __slots__ = ("cursors", "proves", "refs")

    def __init__(self, *, proves: bool) -> None:
        self.proves = proves
        self.cursors: dict[str, MessageId] = {}
        self.refs: list[tuple[str, MessageId, object]] = []

    def add(self, topic: str, message_id: MessageId, ref: object) -> None:
        self.cursors[topic] = max(self.cursors.get(topic, BEGINNING), message_id)
        self.refs.append((topic, message_id, ref))


class Acknowledgements:
    """A part of the subscriber's actor. One batch at a time is under way; what comes meanwhile shares the
    next, except that what must be proved goes alone. Each acknowledgement is confirmed once it is stored, or
    refused."""

    def __init__(
        self, actor: LoopActor, store: Store, sink: Sink, client_id: str, subscriber_id: int
    ) -> None:
        self._actor = actor
        self._store = store
        self._sink = sink
        self._client_id = client_id
        self._subscriber_id = subscriber_id
        self._waiting: list[AckBatch] = []
        self._has_begun = False
        self._is_under_way = False

    def begin(self) -> None:
        """The connection speaks for the client: nothing is stored before. May be called again."""
        self._has_begun = True
        self._store_next()

    def add(self, topic: str, acknowledge: Acknowledge, *, proves: bool) -> None:
        waiting = self._waiting
        if sum(len(batch.refs) for batch in waiting) >= WAITING_MAX:
            self._sink.refuse("overloaded", "too many acknowledgements wait for the store", acknowledge.ref)
            return
        if proves or not waiting or waiting[-1].proves:
            waiting.append(AckBatch(proves=proves))
        waiting[-1].add(topic, acknowledge.message_id, acknowledge.ref)
        self._store_next()

    def _store_next(self) -> None:
        if self._waiting and self._has_begun and not self._is_under_way:
            self._is_under_way = True
            self._perform(self._waiting.pop(0))

    def _perform(self, batch: AckBatch) -> None:
        stored = self._store.acknowledge(
            self._client_id, self._subscriber_id, batch.cursors, proves=batch.proves
        )
        self._actor.perform(stored, batch)

    def stored(self, batch: AckBatch) -> None:
        for topic, message_id, ref in batch.refs:
            self._sink.acknowledged(topic, message_id, ref)
        self._is_under_way = False
        self._store_next()

    def fail(self, batch: AckBatch, code: str) -> None:
        detail = "" if batch.proves else "The acknowledgement was not stored; acknowledge again."
        for _topic, _message_id, ref in batch.refs:
            self._sink.refuse(code, detail, ref)
        self._is_under_way = False
        self._store_next()

    def end(self) -> None:
        """The connection is gone: store what waits, unheard. The order does not matter, a stored cursor only
        moves forward."""
        waiting, self._waiting = self._waiting, []
        for batch in waiting:
            self._perform(batch)
