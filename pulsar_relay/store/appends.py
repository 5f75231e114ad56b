"""Appends: the write path to Valkey. One script call a batch; batches of many topics that start in one loop turn share one write."""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
from collections.abc import Sequence
from typing import Any

from valkey.asyncio import Valkey
from valkey.exceptions import NoScriptError, ValkeyError

from actors.protocol import Appended, Publish, StoreError
from actors.stream import Message, MessageId
from pulsar_relay.store import schema
from pulsar_relay.store.client import Script, command, explain
from pulsar_relay.store.entries import message_id

logger = logging.getLogger(__name__)

INLINE_FEED_BYTES = 8 * 1024
"""Batches up to this size travel inside the feed message. Larger ones are named only: payloads of 16 KiB and more escape Valkey's
limit on a subscriber's output buffer (measured on 9.1.2), and one stuck reader could then fill the server."""
BATCH_TOKEN_SECONDS = 120
REPEAT_PAUSE_SECONDS = (0.02, 0.05, 0.1, 0.2, 0.5)


class Appends:
    """Runs append.lua, and repeats an attempt whose outcome is unknown until it is known or the publish deadline has passed."""

    def __init__(
        self,
        client: Valkey,
        worker: str,
        *,
        max_messages_per_topic: int,
        idempotency_window_seconds: float,
        publish_deadline_seconds: float,
    ) -> None:
        self._client = client
        self._worker = worker
        self._max_messages = max_messages_per_topic
        self._window_ms = int(idempotency_window_seconds * 1000)
        self._deadline_seconds = publish_deadline_seconds
        self._script = Script("append")
        self._sha: str | None = None
        self._numbers = itertools.count(1)
        self._calls: list[tuple[list[str], list[Any], asyncio.Future[Any]]] = []
        self._writes: set[asyncio.Task[None]] = set()

    async def append(self, topic: str, publishes: Sequence[Publish], floor: MessageId) -> Appended:
        """See `Store.append`. The batch's number is its token: the script knows it again."""
        keys, args = self._call(topic, publishes, floor)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._deadline_seconds
        is_outcome_unknown = False
        for attempt in itertools.count():
            try:
                return _appended(topic, publishes, await self._run(keys, args))
            except StoreError as error:
                is_outcome_unknown = is_outcome_unknown or error.is_outcome_unknown
                pause = REPEAT_PAUSE_SECONDS[min(attempt, len(REPEAT_PAUSE_SECONDS) - 1)]
                # After one unknown outcome even a definite refusal of the repetition does not tell what became of the first attempt.
                may_repeat = error.is_outcome_unknown or (is_outcome_unknown and error.code.startswith("store_"))
                if not may_repeat or loop.time() + pause >= deadline:
                    raise StoreError(error.code, error.detail, is_outcome_unknown=is_outcome_unknown) from error
                await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    def _call(self, topic: str, publishes: Sequence[Publish], floor: MessageId) -> tuple[list[str], list[Any]]:
        keys = [schema.stream(topic), schema.meta(topic), schema.batch(topic, self._worker)]
        args: list[Any] = [
            self._max_messages,
            str(floor),
            secrets.token_hex(8),
            schema.feed(topic),
            self._worker,
            INLINE_FEED_BYTES,
            self._window_ms,
            next(self._numbers),
            BATCH_TOKEN_SECONDS * 1000,
            len(publishes),
        ]
        for publish in publishes:
            if publish.dedupe is None:
                args += (0, "")
            else:
                keys.append(schema.idempotency(topic, publish.dedupe.key))
                args += (len(keys), publish.dedupe.digest)
            args.append(len(publish.drafts))
            for draft in publish.drafts:
                args += (draft.payload, draft.metadata or b"", draft.expires_at_ms or b"")
        return keys, args

    def _run(self, keys: list[str], args: list[Any]) -> asyncio.Future[Any]:
        """Queue one script call for this loop turn's write."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        if not self._calls:
            loop.call_soon(self._write)
        self._calls.append((keys, args, future))
        return future

    def _write(self) -> None:
        calls, self._calls = self._calls, []
        task = asyncio.get_running_loop().create_task(self._write_calls(calls))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    async def _write_calls(self, calls: list[tuple[list[str], list[Any], asyncio.Future[Any]]]) -> None:
        try:
            replies = await self._replies(calls)
        except (ValkeyError, OSError, StoreError) as error:
            replies = [error] * len(calls)
        for (_, _, future), reply in zip(calls, replies, strict=True):
            if future.done():
                continue
            if isinstance(reply, BaseException):
                future.set_exception(explain(reply))
            else:
                future.set_result(reply)

    async def _replies(self, calls: list[tuple[list[str], list[Any], asyncio.Future[Any]]]) -> list[Any]:
        if self._sha is None:
            self._sha = await self._load()
        replies = await self._pipeline(calls, self._sha)
        forgotten = [index for index, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if forgotten:
            self._sha = await self._load()
            repeated = await self._pipeline([calls[index] for index in forgotten], self._sha)
            for index, reply in zip(forgotten, repeated, strict=True):
                replies[index] = reply
        return replies

    async def _pipeline(self, calls: Sequence[tuple[list[str], list[Any], asyncio.Future[Any]]], sha: str) -> list[Any]:
        if len(calls) == 1:
            keys, args, _ = calls[0]
            try:
                return [await self._client.execute_command("EVALSHA", sha, len(keys), *keys, *args)]
            except NoScriptError as error:
                return [error]
        pipeline = self._client.pipeline(transaction=False)
        for keys, args, _ in calls:
            pipeline.execute_command("EVALSHA", sha, len(keys), *keys, *args)
        return list(await pipeline.execute(raise_on_error=False))

    async def _load(self) -> str:
        sha = await command(self._client, "SCRIPT", "LOAD", self._script.text)
        return sha.decode() if isinstance(sha, bytes) else str(sha)


def _appended(topic: str, publishes: Sequence[Publish], reply: Sequence[bytes]) -> Appended:
    """The script's reply with the messages it made; see append.lua."""
    prev = first_prev = message_id(reply[0])
    messages: list[Message] = []
    outcomes: list[tuple[tuple[str, ...], bool] | None] = []
    for publish, outcome in zip(publishes, reply[2:], strict=True):
        text = outcome.decode("ascii")
        if text == "!":
            outcomes.append(None)
            continue
        ids = tuple(text[1:].split(" "))
        is_repeat = text[0] == "r"
        outcomes.append((ids, is_repeat))
        if is_repeat:
            continue
        for id_text, draft in zip(ids, publish.drafts, strict=True):
            this = message_id(id_text)
            messages.append(Message(topic, this, id_text, prev, draft.payload, draft.metadata, draft.expires_at_ms))
            prev = this
    return Appended(first_prev, reply[1].decode("ascii"), messages, outcomes)
