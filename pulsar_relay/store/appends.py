"""Appends: the write path to Valkey. One script call a batch; batches of many topics that start in one loop
turn share one write, and nobody waits for another topic's answer.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import secrets
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from actors.ports import Publish, StoreError
from actors.stream import MessageId
from pulsar_relay.store import schema
from pulsar_relay.store.client import Client, Script
from pulsar_relay.store.link import Word
from pulsar_relay.store.pending_append import Deadlines, PendingAppend
from pulsar_relay.store.refusals import ScriptUnknownError, StaleBatchError, lost

logger = logging.getLogger(__name__)

INLINE_FEED_BYTES = 8 * 1024
"""Batches up to this size travel inside the feed message. Larger ones are named only: payloads of 16 KiB and
more escape Valkey's limit on a subscriber's output buffer (measured on 9.1.2), and one stuck reader could
then fill the server."""
BATCH_TOKEN_SECONDS = 120
REPEAT_PAUSE_SECONDS = (0.02, 0.05, 0.1, 0.2, 0.5)
KNOWN_TOPICS = 100_000
NAMED_TOPICS = 2000
"""For so many the names of their keys are at hand."""


class Appends:
    """Runs append.lua, and repeats an attempt whose outcome is unknown, or that met no store at all, until it
    is answered or the publish deadline has passed.
    """

    def __init__(
        self,
        client: Client,
        worker: str,
        *,
        max_messages_per_topic: int,
        idempotency_window_seconds: float,
        publish_deadline_seconds: float,
        lists_topics: bool = True,
    ) -> None:
        self._client = client
        self._worker = worker
        self.bound(
            max_messages_per_topic=max_messages_per_topic,
            idempotency_window_seconds=idempotency_window_seconds,
            publish_deadline_seconds=publish_deadline_seconds,
        )
        self._lists_topics = lists_topics
        self._script = Script("append")
        # Batch numbers begin at 1 in each life, so the key they are kept under must be this life's own.
        self._life = secrets.token_hex(6)
        self._numbers = itertools.count(1)
        self._names_of = lru_cache(NAMED_TOPICS)(self._names)
        self._listed: dict[str, None] = {}
        self._deadlines = Deadlines()

    def bound(
        self,
        *,
        max_messages_per_topic: int,
        idempotency_window_seconds: float,
        publish_deadline_seconds: float,
    ) -> None:
        """For the appends that begin from now on."""
        self._settings = (
            self._worker,
            INLINE_FEED_BYTES,
            int(idempotency_window_seconds * 1000),
        )
        self._max_messages = max_messages_per_topic
        self._deadline_seconds = publish_deadline_seconds

    def append(self, topic: str, publishes: Sequence[Publish], floor: MessageId) -> PendingAppend:
        """See `Store.append`. The batch's number is its token: the script knows it again."""
        number = next(self._numbers)
        new_epoch = f"{self._life}{number:x}"
        words = self._words(topic, publishes, floor, number, new_epoch)
        append = PendingAppend(topic, publishes, words, new_epoch, self._on_appended, self._on_refused)
        self._deadlines.add(append, self._deadline_seconds)
        if topic not in self._listed:
            # On the same connection and first: a topic with messages is never unlisted.
            self._list(topic)
        self._client.appends.send(words, append)
        return append

    def forget(self, topic: str) -> None:
        """The topic was deleted: its next append enters it into the index anew."""
        self._listed.pop(topic, None)

    def _words(
        self, topic: str, publishes: Sequence[Publish], floor: MessageId, number: int, new_epoch: str
    ) -> tuple[Word, ...]:
        *keys, feed = self._names_of(topic)
        drafts: list[Word] = []
        for publish in publishes:
            if publish.dedupe is None and len(publish.drafts) == 1:
                draft = publish.drafts[0]
                if draft.metadata is None and draft.expires_at_ms is None:
                    drafts += ("", draft.payload)
                    continue
            index, digest = 0, ""
            if publish.dedupe is not None:
                keys.append(schema.idempotency(topic, publish.dedupe.key))
                index, digest = len(keys), publish.dedupe.digest
            _add_headed(drafts, publish, index, digest)
        return (
            "EVALSHA",
            self._script.sha,
            len(keys),
            *keys,
            self._max_messages,
            str(floor),
            new_epoch,
            feed,
            *self._settings,
            number,
            BATCH_TOKEN_SECONDS * 1000,
            self._client.publish_word,
            *drafts,
        )

    def _names(self, topic: str) -> tuple[str, str, str, str]:
        """The script's first keys, and the channel of the feed."""
        return schema.stream(topic), schema.meta(topic), schema.batch(topic, self._life), schema.feed(topic)

    def _on_appended(self, append: PendingAppend, epoch: str) -> None:
        self._deadlines.discard(append)
        if epoch == append.new_epoch:
            # The topic begins, or somebody deleted it: then it may have left the index since we entered it.
            self._list(append.topic)

    def _on_refused(self, append: PendingAppend, error: StoreError) -> None:
        self._deadlines.discard(append)
        repetition = asyncio.ensure_future(self._repeated(append, error))

        def on_repeated(repetition: asyncio.Task[Sequence[bytes]]) -> None:
            if repetition.cancelled() or append.done():
                append.cancel()
            elif (failure := repetition.exception()) is not None:
                append.fail(failure)
            else:
                append.set_result(repetition.result())

        repetition.add_done_callback(on_repeated)
        append.add_done_callback(lambda _: repetition.cancel())

    async def _repeated(self, append: PendingAppend, error: StoreError) -> Sequence[bytes]:
        """The script's reply to another attempt, after a first one that ended with this error."""
        loop = asyncio.get_running_loop()
        deadline = append.deadline
        is_outcome_unknown = was_away = was_unconfirmed = False
        attempted = self._taught(append) if isinstance(error, ScriptUnknownError) else _failed(error)
        for attempt in itertools.count():
            try:
                return await attempted
            except StoreError as error:
                is_outcome_unknown = is_outcome_unknown or error.is_outcome_unknown
                was_away = was_away or error.code == "store_unavailable"
                was_unconfirmed = was_unconfirmed or error.code == "store_not_replicated"
                pause = REPEAT_PAUSE_SECONDS[min(attempt, len(REPEAT_PAUSE_SECONDS) - 1)]
                pause *= random.uniform(0.5, 1.0)
                # After one unknown outcome even a definite refusal of the repetition does not tell what
                # became of the first attempt: the next one may. And a store that was away is not back before
                # it has loaded its data, and others have come back to it too. Where another server takes a
                # deposed one's place it is as if the store were away.
                may_repeat = (
                    error.code == "store_unavailable"
                    or error.code in self._client.passing_codes
                    or is_outcome_unknown
                    or (was_away and error.code in ("store_loading", "store_crowded"))
                )
                if not may_repeat or isinstance(error, StaleBatchError) or loop.time() + pause >= deadline:
                    # Who gave up waiting for replicas once more is not to look for a store that is away.
                    code = "store_not_replicated" if was_unconfirmed else error.code
                    raise StoreError(code, error.detail, is_outcome_unknown=is_outcome_unknown) from error
                await asyncio.sleep(pause)
            attempted = self._attempt(append)
        raise AssertionError("unreachable")

    async def _attempt(self, append: PendingAppend) -> Sequence[bytes]:
        if append.topic not in self._listed:
            self._list(append.topic)
        try:
            return await self._answered(append)
        except ScriptUnknownError:
            return await self._taught(append)

    async def _taught(self, append: PendingAppend) -> Sequence[bytes]:
        """An attempt with a server that did not know the script."""
        await self._script.load(self._client)
        return await self._answered(append)

    async def _answered(self, append: PendingAppend) -> Sequence[bytes]:
        answer = self._client.appends.call(*append.words)
        timer = asyncio.get_running_loop().call_at(append.deadline, _give_up, answer)
        try:
            reply: Sequence[bytes] = await answer
            return reply
        finally:
            timer.cancel()

    def _list(self, topic: str) -> None:
        """Enter the topic into the index. Not waited for: what fails is done again with the next append."""

        def on_listed(answer: asyncio.Future[Any]) -> None:
            if answer.cancelled() or answer.exception() is not None:
                self._listed.pop(topic, None)
                return
            self._listed[topic] = None
            if len(self._listed) > KNOWN_TOPICS:
                del self._listed[next(iter(self._listed))]

        if self._lists_topics:
            self._client.appends.call("ZADD", schema.TOPICS, 0, topic).add_done_callback(on_listed)


async def _failed(error: StoreError) -> Sequence[bytes]:
    raise error


def _give_up(answer: asyncio.Future[Any]) -> None:
    if not answer.done():
        answer.set_exception(lost())


def _add_headed(words: list[Word], publish: Publish, key_index: int, digest: str) -> None:
    """Put a publish that is no plain draft into the script's arguments."""
    drafts = publish.drafts
    if all(draft.metadata is None and draft.expires_at_ms is None for draft in drafts):
        words.append(f"{key_index} {len(drafts)} 1 {digest}")
        words += [draft.payload for draft in drafts]
        return
    words.append(f"{key_index} {len(drafts)} 3 {digest}")
    for draft in drafts:
        words += (draft.payload, draft.metadata or b"", draft.expires_at_ms or b"")
