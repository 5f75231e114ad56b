"""Consumers: what is kept of clients with a name. A hash for each: acknowledged cursors, marks of what it was
given, and the claim of the connection that speaks for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from actors.ports import Claim, ConsumerEntry, ConsumerPage, StoreError
from actors.stream import MessageId
from pulsar_relay.store import schema
from pulsar_relay.store.client import Client, Script
from pulsar_relay.store.entries import id_or_none
from pulsar_relay.store.link import Word

KEPT_SECONDS = 30 * 24 * 3600
"""How long a client that neither claims, acknowledges nor is given anything is remembered."""
FIELDS_AT_ONCE = 1000
CLAIM_ATTEMPTS = 10
"""Who finds so often that another connection claimed the name just now is taken for superseded."""
_DELIVERED = schema.delivered_field("").removesuffix(":")


class Consumers:
    """All methods raise StoreError only: `taken_over` where another connection has claimed the name since.

    `worker` is the name of this worker's feed: while that is connected, so are its connections.
    """

    def __init__(self, client: Client, worker: str) -> None:
        self._client = client
        self._worker = worker
        self._claim = Script("claim")
        self._acknowledge = Script("acknowledge")
        self._list_script = Script("consumers")
        self._forget = Script("forget")

    async def claim(
        self, client_id: str, subscriber_id: int, topics: Sequence[str], *, is_held: bool
    ) -> Claim:
        fields = [name for topic in topics for name in (topic, schema.delivered_field(topic))]
        generation, values = b"0", []
        for start in range(0, max(1, len(fields)), FIELDS_AT_ONCE):
            part = fields[start : start + FIELDS_AT_ONCE]
            generation, found = await self._claim_part(client_id, subscriber_id, part, is_held=is_held)
            is_held = True
            values += found
        ids = [id_or_none(text or b"") for text in values]
        return Claim(int(generation), _known(topics, ids[::2]), _known(topics, ids[1::2]))

    async def _claim_part(
        self, client_id: str, subscriber_id: int, fields: Sequence[str], *, is_held: bool
    ) -> Any:
        key, reply = schema.offsets(client_id), None
        for _ in range(CLAIM_ATTEMPTS):
            known = b"" if is_held else await self._client.command("HGET", key, schema.CLAIM_FIELD)
            args: list[Word] = [
                KEPT_SECONDS * 1000,
                self._holder(subscriber_id),
                int(is_held),
                schema.CLAIMS,
                client_id,
                known or b"",
                *fields,
            ]
            claimed = self._claim.run(self._client, [key], args)
            # Behind the script: who takes forgotten names out of the index finds the hash, or is too early.
            reply, _ = await asyncio.gather(claimed, self._list(client_id))
            if reply != 0:
                break
        if not reply:
            raise StoreError("taken_over")
        return reply

    async def acknowledge(
        self, client_id: str, subscriber_id: int | None, cursors: Mapping[str, MessageId]
    ) -> Mapping[str, MessageId]:
        holder = "" if subscriber_id is None else self._holder(subscriber_id)
        stored = await self._move(client_id, holder, "", cursors)
        if subscriber_id is None:
            await self._list(client_id)
        return stored

    async def mark(self, client_id: str, delivered: Mapping[str, MessageId]) -> None:
        await self._move(client_id, "", "", _marks(delivered))

    async def release(self, client_id: str, subscriber_id: int, delivered: Mapping[str, MessageId]) -> None:
        await self._move(client_id, "", self._holder(subscriber_id), _marks(delivered))

    async def claims(self, client_ids: Sequence[str]) -> Mapping[str, int]:
        calls = [
            self._client.command("HGET", schema.offsets(client_id), schema.CLAIM_FIELD)
            for client_id in client_ids
        ]
        found = await asyncio.gather(*calls)
        claims = {one: schema.claim_of(text or b"") for one, text in zip(client_ids, found, strict=True)}
        return {client_id: generation for client_id, (generation, _) in claims.items() if generation}

    async def fields(self, client_id: str) -> Mapping[str, tuple[MessageId | None, MessageId | None]]:
        """By topic: the acknowledged cursor, and the last message that was given."""
        flat = await self._client.command("HGETALL", schema.offsets(client_id))
        cursors: dict[str, MessageId] = {}
        delivered: dict[str, MessageId] = {}
        for name, text in zip(flat[::2], flat[1::2], strict=True):
            cursor = id_or_none(text)
            prefix, colon, topic = name.decode("utf-8", "replace").rpartition(":")
            if cursor is not None and prefix in ("", _DELIVERED):
                (delivered if colon else cursors)[topic] = cursor
        topics = sorted({*cursors, *delivered})
        return {topic: (cursors.get(topic), delivered.get(topic)) for topic in topics}

    async def entries(self, client_ids: Sequence[str]) -> Sequence[ConsumerEntry]:
        """Those of which anything is kept; the others leave the index."""
        groups = self._client.apart(client_ids, schema.offsets)
        replies = await asyncio.gather(
            *[
                self._list_script.run(
                    self._client,
                    [schema.offsets(client_ids[index]) for index in group],
                    [schema.heartbeat("")],
                )
                for group in groups
            ]
        )
        found = dict(zip(chain.from_iterable(groups), chain.from_iterable(replies), strict=True))
        gone = [client_ids[index] for index, one in found.items() if not one]
        if gone:
            await self._unlist(gone)
        return [
            ConsumerEntry(client_id, bool(one[0]), max(0, KEPT_SECONDS * 1000 - one[1]))
            for index, client_id in enumerate(client_ids)
            if (one := found[index])
        ]

    async def page(self, after: str, limit: int) -> ConsumerPage:
        first = f"({after}" if after else "-"
        texts = await self._client.command(
            "ZRANGE", schema.CONSUMERS, first, "+", "BYLEX", "LIMIT", 0, limit + 1
        )
        names = [text.decode("utf-8", "replace") for text in texts[:limit]]
        return ConsumerPage(await self.entries(names), names[-1] if len(texts) > limit else None)

    async def forget(self, client_id: str) -> None:
        forgotten = await self._forget.run(self._client, [schema.offsets(client_id)], [schema.heartbeat("")])
        if forgotten < 0:
            raise StoreError("consumer_connected")
        if not forgotten:
            raise StoreError("consumer_not_found")
        # Takes it out of the index, unless it is kept again by now.
        await self.entries([client_id])

    async def _move(
        self, client_id: str, holder: str, released: str, fields: Mapping[str, MessageId]
    ) -> Mapping[str, MessageId]:
        args: list[Word] = [KEPT_SECONDS * 1000, holder, released]
        for name, value in fields.items():
            args += (name, str(value))
        values = await self._acknowledge.run(self._client, [schema.offsets(client_id)], args)
        if values is None:
            raise StoreError("taken_over")
        return {
            name: MessageId.parse(text.decode("ascii")) for name, text in zip(fields, values, strict=True)
        }

    async def _unlist(self, client_ids: Sequence[str]) -> None:
        command = self._client.command
        await command("ZREM", schema.CONSUMERS, *client_ids)
        # Kept again, between the look and the removal? Then whoever did that has listed it in vain.
        there = await asyncio.gather(*[command("EXISTS", schema.offsets(one)) for one in client_ids])
        again = [client_id for client_id, is_there in zip(client_ids, there, strict=True) if is_there]
        await asyncio.gather(*map(self._list, again))

    async def _list(self, client_id: str) -> None:
        try:
            await self._client.command("ZADD", schema.CONSUMERS, 0, client_id)
        except StoreError:
            # Where the index is on another shard than the client, who may be down alone, the client is listed
            # by its next claim.
            index, own = schema.CONSUMERS.encode(), schema.offsets(client_id).encode()
            if self._client.home(index) is self._client.home(own):
                raise

    def _holder(self, subscriber_id: int) -> str:
        return f"{self._worker}.{subscriber_id}"


def _marks(delivered: Mapping[str, MessageId]) -> dict[str, MessageId]:
    return {schema.delivered_field(topic): cursor for topic, cursor in delivered.items()}


def _known(topics: Sequence[str], ids: Sequence[MessageId | None]) -> dict[str, MessageId]:
    return {topic: cursor for topic, cursor in zip(topics, ids, strict=True) if cursor is not None}
