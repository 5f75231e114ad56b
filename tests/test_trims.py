"""What is removed from a stream, and what of it a reader is told."""

from __future__ import annotations

import time

import pytest
import valkey as valkey_client

from actors.ports import Draft, Notice, Publish, TopicTerms, Trimmed
from actors.proof import judge
from actors.stream import BEGINNING, Message, MessageId
from pulsar_relay.settings import StorageSettings
from pulsar_relay.store import schema
from pulsar_relay.store.trims import Trims
from tests.stores import OpenStore, Where, in_loop, open_store, until

LATER_MS = 3_000_000_000_000
"""A time when everything that can expire has expired. Messages are kept longer than that here."""
FOREVER = {"persistent_tier_retention_seconds": 10.0**10}


async def _append(opened: OpenStore, *expiries_ms: int | None, payload: bytes = b"x") -> list[Message]:
    """Messages that expire at these times, in one publish; None never does."""
    drafts = tuple(Draft(payload, None, expiry_ms) for expiry_ms in expiries_ms)
    return list((await opened.store.append("t", [Publish("t", drafts)], BEGINNING)).messages)


async def _ids(opened: OpenStore) -> list[MessageId]:
    return [message.id for message in await opened.all_messages("t")]


async def _notice(opened: OpenStore, cursor: MessageId) -> Notice | None:
    """What a subscriber is told that comes back with this cursor."""
    return judge("t", cursor, None, await opened.store.read("t", cursor, 10, 10_000))


# A topic's own limits


@in_loop
async def test_a_topics_own_age_counts_be_it_shorter_or_longer_than_the_settings(where: Where) -> None:
    async with open_store(where, persistent_tier_retention_seconds=0.1) as opened:
        messages = await _append(opened, None, None, None)
        sent_ms = messages[0].id.milliseconds
        # By Valkey's clock they must be that old as well.
        await until(lambda: time.time_ns() // 1_000_000 > sent_ms + 150)
        await opened.store.change("t", TopicTerms(None, {"retention_ms": 200}))
        assert (await opened.store.trim("t", sent_ms + 150)).count == 0
        await opened.store.change("t", TopicTerms(None, {"retention_ms": 50}))
        assert (await opened.store.trim("t", sent_ms + 50)).count == 0
        assert (await opened.store.trim("t", sent_ms + 51)).count == 2
        assert await _ids(opened) == [messages[2].id]


@in_loop
async def test_a_clock_that_is_ahead_of_valkeys_deletes_nothing(where: Where) -> None:
    async with open_store(where, persistent_tier_retention_seconds=100.0) as opened:
        now_ms = time.time_ns() // 1_000_000
        messages = await _append(opened, None, now_ms + 60_000, None)
        assert (await opened.store.trim("t", now_ms + 10**9)).count == 0
        assert await _ids(opened) == [message.id for message in messages]


@in_loop
async def test_what_is_over_a_lowered_limit_goes_without_an_append(where: Where) -> None:
    async with open_store(where) as opened:
        for _ in range(12):
            await _append(opened, *[None] * 1000)
        await opened.store.change("t", TopicTerms(None, {"max_messages": 3}))
        assert (await opened.store.trim("t", 0)).count == 11_997
        assert [message_id.number for message_id in await _ids(opened)] == [11_998, 11_999, 12_000]
    async with open_store(where, max_messages_per_topic=2) as opened:
        await opened.store.change("t", TopicTerms(None, {"max_messages": None}))
        assert (await opened.store.trim("t", 0)).count == 1


# What has expired


@in_loop
async def test_what_has_expired_leaves_the_old_end_of_a_stream(where: Where) -> None:
    async with open_store(where, **FOREVER) as opened:
        messages = await _append(opened, 10, 20, 30, None, 10, None)
        assert (await opened.store.trim("t", 9)).count == 0
        assert (await opened.store.trim("t", 20)).count == 2
        assert (await opened.store.trim("t", LATER_MS)).count == 1
        assert (await opened.store.trim("t", LATER_MS)).count == 0
        assert await _ids(opened) == [message.id for message in messages[3:]]


@in_loop
async def test_the_newest_entry_stays_also_expired_and_ids_go_on(where: Where) -> None:
    async with open_store(where, **FOREVER) as opened:
        messages = await _append(opened, 10, 10, 10)
        assert (await opened.store.trim("t", LATER_MS)).count == 2
        assert await _ids(opened) == [messages[2].id]
        (following,) = await _append(opened, None)
        assert following.prev == messages[2].id
        assert (await opened.store.trim("t", LATER_MS)).count == 1


@pytest.mark.parametrize("first", [0, 2])
@in_loop
async def test_nobody_is_told_of_a_loss_where_all_that_is_gone_had_expired(where: Where, first: int) -> None:
    async with open_store(where, **FOREVER) as opened:
        lost = await _append(opened, *[None] * first)
        if lost:
            # These did not expire: they were trimmed, and who missed them must hear of it.
            await opened.store.change("t", TopicTerms(None, {"max_messages": 1}))
        expired = await _append(opened, 10)
        await opened.store.change("t", TopicTerms(None, {"max_messages": None}))
        expired += await _append(opened, 10, 20, 30)
        kept = await _append(opened, None, None)
        for now_ms in (10, 15, 20, LATER_MS):
            await opened.store.trim("t", now_ms)
            for cursor in [expired[0].prev, *[message.id for message in (*expired, *kept)]]:
                assert await _notice(opened, cursor) is None
            if lost:
                oldest = (await _ids(opened))[0]
                told = Notice("gap", "t", "trimmed", oldest.number - 2, str(oldest))
                assert await _notice(opened, lost[0].id) == told


@in_loop
async def test_what_is_trimmed_besides_is_told_with_all_that_went(where: Where) -> None:
    async with open_store(where, **FOREVER) as opened:
        expired = await _append(opened, 10, 10)
        rest = await _append(opened, None, None, None)
        assert (await opened.store.trim("t", LATER_MS)).count == 2
        assert await _notice(opened, expired[0].id) is None
        await opened.store.change("t", TopicTerms(None, {"max_messages": 2}))
        assert (await opened.store.trim("t", LATER_MS)).count == 1
        assert await _notice(opened, expired[0].id) == Notice("gap", "t", "trimmed", 2, rest[1].id_text)
        assert await _notice(opened, expired[1].id) == Notice("gap", "t", "trimmed", 1, rest[1].id_text)
        assert await _notice(opened, rest[0].id) is None


@in_loop
async def test_a_cursor_of_a_history_that_was_lost_is_told_of_it_also_where_messages_have_expired(
    where: Where, admin: valkey_client.Valkey
) -> None:
    async with open_store(where, **FOREVER) as opened:
        lost = await _append(opened, None, None, None)
        # The tail is lost, as by a power cut; what the worker knew of it is its floor.
        admin.delete(schema.stream("t"), schema.meta("t"))
        drafts = (Draft(b"x", None, 10), Draft(b"x", None, 10), Draft(b"x"))
        appended = await opened.store.append("t", [Publish("t", drafts)], lost[2].id)
        new = appended.messages
        assert await opened.store.trim("t", LATER_MS) == Trimmed(2, new[2].id)
        for cursor in (lost[0].id, lost[1].id):
            assert await _notice(opened, cursor) is not None
        for message in new:
            assert await _notice(opened, message.id) is None


@pytest.mark.parametrize("cursor", ["4-0", "5-1", "9-9"])
@in_loop
async def test_a_cursor_from_before_a_topics_first_message_is_not_of_it(where: Where, cursor: str) -> None:
    async with open_store(where, **FOREVER) as opened:
        messages = await _append(opened, 10, 10, None)
        await opened.store.trim("t", LATER_MS)
        assert await _notice(opened, MessageId.parse(cursor)) is not None
        assert await _notice(opened, BEGINNING) is None
        assert await _notice(opened, messages[0].id) is None


@in_loop
async def test_a_large_page_knows_what_expired_too(where: Where) -> None:
    async with open_store(where, **FOREVER) as opened:
        expired = await _append(opened, 10, 10)
        await _append(opened, *[None] * 600)
        await opened.store.trim("t", LATER_MS)
        await opened.store.read("t", BEGINNING, 10, 1 << 20)
        for _ in range(2):  # the second is read as a range, the largest entry being known
            page = await opened.store.read("t", expired[0].id, 500, 1 << 20)
            assert len(page.batch) == 500
            assert page.batch.prev == expired[0].id < page.batch.messages[0].prev
            assert judge("t", expired[0].id, None, page) is None


@in_loop
async def test_many_expired_messages_go_in_short_steps_to_the_end(
    valkey: str, admin: valkey_client.Valkey
) -> None:
    async with open_store(valkey, **FOREVER) as opened:
        for _ in range(7):
            await _append(opened, *[10] * 1000)
        await _append(opened, None)
        await opened.store.trim("none", 0)  # so that the script is known
        admin.config_resetstat()
        assert (await opened.store.trim("t", LATER_MS)).count == 7000
        assert admin.info("commandstats")["cmdstat_evalsha"]["calls"] == 4
        assert await _notice(opened, BEGINNING) is None
        trims = Trims(opened.client, StorageSettings())
        for _ in range(5):
            await _append(opened, *[10] * 1000)
        admin.xtrim(schema.stream("t"), maxlen=5000, approximate=False)
        trimmed = await trims.trim("t", 20, 2)
        assert trimmed is not None and trimmed.count == 4000


@in_loop
async def test_large_expired_messages_are_looked_at_few_at_a_time(
    valkey: str, admin: valkey_client.Valkey
) -> None:
    async with open_store(valkey, **FOREVER) as opened:
        for _ in range(40):
            await _append(opened, 10, payload=b"x" * (1 << 20))
        await opened.store.trim("none", 0)  # so that the script is known
        admin.config_resetstat()
        assert (await opened.store.trim("t", LATER_MS)).count == 39
        assert admin.info("commandstats")["cmdstat_evalsha"]["calls"] == 3


@in_loop
async def test_a_stream_that_another_server_filled_expires_and_is_trimmed(
    where: Where, admin: valkey_client.Valkey
) -> None:
    for number, expiry in enumerate(["10", "soon", "", "0x1"]):
        admin.xadd(schema.stream("t"), {"payload": "1", "expires_at": expiry}, id=f"5-{number + 1}")
    async with open_store(where, **FOREVER) as opened:
        assert (await opened.store.trim("t", LATER_MS)).count == 1
        assert [str(message_id) for message_id in await _ids(opened)] == ["5-2", "5-3", "5-4"]


@in_loop
async def test_a_topic_of_short_lived_messages_does_not_grow(where: Where) -> None:
    async with open_store(where, **FOREVER) as opened:
        now_ms = time.time_ns() // 1_000_000 - 60_000
        for n in range(50):
            await _append(opened, *[now_ms + n * 1000 + 5000] * 20)
            await opened.store.trim("t", now_ms + n * 1000)
            described = await opened.store.describe("t")
            assert described is not None and described.length <= 120
