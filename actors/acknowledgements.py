"""Acknowledgements: how far one connection's client says it has come, on the way to the store."""

from __future__ import annotations

from actors.ports import Sink, Store
from actors.protocol import Acknowledge
from actors.runtime import LoopActor
from actors.stream import BEGINNING, MessageId

WAITING_MAX = 1000


class AckBatch:
    """Cursors stored together for one client, and what the client called each acknowledgement. Also the tag
    under which the outcome comes back."""

    __slots__ = ("client_id", "cursors", "refs")

    def __init__(self, client_id: str) -> None:
        self.client_id = client_id
        self.cursors: dict[str, MessageId] = {}
        self.refs: list[tuple[str, MessageId, object]] = []

    def add(self, topic: str, message_id: MessageId, ref: object) -> None:
        self.cursors[topic] = max(self.cursors.get(topic, BEGINNING), message_id)
        self.refs.append((topic, message_id, ref))


class Acknowledgements:
    """A part of the subscriber's actor. One batch at a time is under way; what comes meanwhile shares the
    next. Each acknowledgement is confirmed once it is stored, or refused."""

    def __init__(self, actor: LoopActor, store: Store, sink: Sink) -> None:
        self._actor = actor
        self._store = store
        self._sink = sink
        self._waiting: list[AckBatch] = []
        self._is_under_way = False

    def add(self, client_id: str, topic: str, acknowledge: Acknowledge) -> None:
        waiting = self._waiting
        if sum(len(batch.refs) for batch in waiting) >= WAITING_MAX:
            self._sink.refuse("overloaded", "too many acknowledgements wait for the store", acknowledge.ref)
            return
        if not waiting or waiting[-1].client_id != client_id:
            waiting.append(AckBatch(client_id))
        waiting[-1].add(topic, acknowledge.message_id, acknowledge.ref)
        self._store_next()

    def _store_next(self) -> None:
        if self._waiting and not self._is_under_way:
            self._is_under_way = True
            self._perform(self._waiting.pop(0))

    def _perform(self, batch: AckBatch) -> None:
        self._actor.perform(self._store.acknowledge(batch.client_id, batch.cursors), batch)

    def stored(self, batch: AckBatch) -> None:
        for topic, message_id, ref in batch.refs:
            self._sink.acknowledged(topic, message_id, ref)
        self._is_under_way = False
        self._store_next()

    def fail(self, batch: AckBatch, code: str) -> None:
        for _topic, _message_id, ref in batch.refs:
            self._sink.refuse(code, "the acknowledgement was not stored; acknowledge again", ref)
        self._is_under_way = False
        self._store_next()

    def end(self) -> None:
        """The connection is gone: store what waits, unheard. The order does not matter, a stored cursor only
        moves forward."""
        waiting, self._waiting = self._waiting, []
        for batch in waiting:
            self._perform(batch)
