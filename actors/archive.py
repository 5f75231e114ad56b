"""ArchiveActor: answers what needs no topic in memory: history, the list of topics, what is said of one, what
is kept of named clients.

One per worker. Opening a topic's actor for each of these would let whoever asks for names at random fill the
worker's memory.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

from thespian.actors import ActorExitRequest

from actors.consumer_protocol import AcknowledgeFor, DescribeConsumer, ForgetConsumer, ListConsumers
from actors.ports import StoreError
from actors.protocol import (
    ChangeTopic,
    CountTopics,
    CreateTopic,
    Describe,
    ListTopics,
    ReadHistory,
    Refused,
    StartArchive,
)
from actors.runtime import LoopActor, Performed, PerformFailed
from actors.value import value

logger = logging.getLogger(__name__)


@value
class _Asked:
    asker: Any


class ArchiveActor(LoopActor):
    """The first message is `StartArchive`. Each question is answered by the store's answer, or by
    `Refused`."""

    def receiveMessage(self, message: Any, sender: Any) -> None:
        question = self._questions.get(type(message))
        if question is not None:
            self.perform(question(self, message), _Asked(sender))
        else:
            self._handlers[type(message)](self, message)

    def on_start(self, start: StartArchive) -> None:
        self._archive = start.archive

    def on_performed(self, performed: Performed) -> None:
        self.send(performed.tag.asker, performed.result)

    def on_perform_failed(self, failed: PerformFailed) -> None:
        error = failed.error
        if isinstance(error, StoreError):
            self.send(failed.tag.asker, Refused(error.code, error.detail))
        else:
            logger.error("archive: a read failed", exc_info=error)
            self.send(failed.tag.asker, Refused("internal_error"))

    def on_exit(self, _exit: ActorExitRequest) -> None:
        """The worker stops. Who waits is answered by the runtime."""

    def _history(self, ask: ReadHistory) -> Awaitable[Any]:
        return self._archive.history(
            ask.topic, ask.cursor, ask.max_messages, ask.max_bytes, descends=ask.descends
        )

    def _describe(self, ask: Describe) -> Awaitable[Any]:
        return self._archive.describe(ask.topic)

    def _create(self, ask: CreateTopic) -> Awaitable[Any]:
        return self._archive.create(ask.topic, ask.terms)

    def _change(self, ask: ChangeTopic) -> Awaitable[Any]:
        return self._archive.change(ask.topic, ask.terms)

    def _list(self, ask: ListTopics) -> Awaitable[Any]:
        return self._archive.topics(ask.after, ask.limit)

    def _count(self, _ask: CountTopics) -> Awaitable[Any]:
        return self._archive.topic_count()

    def _acknowledge(self, ask: AcknowledgeFor) -> Awaitable[Any]:
        return self._archive.acknowledge(ask.client_id, None, ask.cursors, proves=True)

    def _describe_consumer(self, ask: DescribeConsumer) -> Awaitable[Any]:
        return self._archive.consumer(ask.client_id)

    def _list_consumers(self, ask: ListConsumers) -> Awaitable[Any]:
        return self._archive.consumers(ask.after, ask.limit)

    def _forget(self, ask: ForgetConsumer) -> Awaitable[Any]:
        return self._archive.forget(ask.client_id)

    _questions: ClassVar[dict[type, Callable[[ArchiveActor, Any], Awaitable[Any]]]] = {
        ReadHistory: _history,
        Describe: _describe,
        CreateTopic: _create,
        ChangeTopic: _change,
        ListTopics: _list,
        CountTopics: _count,
        AcknowledgeFor: _acknowledge,
        DescribeConsumer: _describe_consumer,
        ListConsumers: _list_consumers,
        ForgetConsumer: _forget,
    }
    _handlers: ClassVar[dict[type, Callable[[ArchiveActor, Any], None]]] = {
        StartArchive: on_start,
        ActorExitRequest: on_exit,
        Performed: on_performed,
        PerformFailed: on_perform_failed,
    }
