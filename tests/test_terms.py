"""What is said of a topic: kept beside its stream, gone with it, and gone by at the next append."""

from __future__ import annotations

import asyncio

import pytest
import valkey as valkey_client

from actors.ports import Position, RetentionLimits, TopicTerms
from actors.stream import BEGINNING
from pulsar_relay.store import schema
from tests.stores import Where, assert_contiguous, in_loop, open_store

NOTHING = TopicTerms(None, {})
DEFAULTS = RetentionLimits(1_000_000, 86_400_000)


@in_loop
async def test_a_topic_that_was_made_is_there_without_a_message(
    where: Where, admin: valkey_client.Valkey
) -> None:
    terms = TopicTerms("jobs of ‹us›", {"max_messages": 7, "retention_ms": 5000})
    async with open_store(where) as opened:
        assert await opened.store.create("t", terms)
        described = await opened.store.describe("t")
        assert described is not None and described.created_ms is not None
        assert (described.length, described.oldest, described.newest) == (0, None, None)
        assert described.text == "jobs of ‹us›"
        assert described.own == described.effective == RetentionLimits(7, 5000)
        seconds, _ = admin.time()
        assert abs(described.created_ms / 1000 - seconds) < 10
        assert await opened.store.topics("", 10) == ["t"]
        assert await opened.store.position("t") == Position(described.epoch, BEGINNING)
        page = await opened.store.read("t", BEGINNING, 10, 1000)
        assert (page.first_id, page.position.epoch) == (None, described.epoch)


@in_loop
async def test_a_topic_is_made_once(where: Where, admin: valkey_client.Valkey) -> None:
    async with open_store(where) as opened:
        made = await asyncio.gather(
            *[opened.store.create("t", TopicTerms(str(n), {"max_messages": n + 1})) for n in range(10)]
        )
        assert sorted(made) == [False] * 9 + [True]
        described = await opened.store.describe("t")
        winner = made.index(True)
        assert described is not None
        assert (described.text, described.own.max_messages) == (str(winner), winner + 1)
        await opened.append("published", b"1")
        assert not await opened.store.create("published", NOTHING)
        admin.xadd(schema.stream("foreign"), {"payload": "1"})
        assert not await opened.store.create("foreign", NOTHING)


@in_loop
async def test_the_first_message_continues_a_topic_that_was_made(where: Where) -> None:
    async with open_store(where) as opened:
        await opened.store.create("t", TopicTerms("text", {}))
        before = await opened.store.describe("t")
        appended = await opened.append("t", b"1", b"2")
        after = await opened.store.describe("t")
        assert before is not None and after is not None
        assert appended.epoch == before.epoch == after.epoch
        assert [message.id.number for message in appended.messages] == [1, 2]
        assert_contiguous(await opened.all_messages("t"))
        assert (after.created_ms, after.text) == (before.created_ms, "text")


@in_loop
async def test_a_topic_that_was_published_to_has_the_settings_limits_and_its_time(
    where: Where, admin: valkey_client.Valkey
) -> None:
    async with open_store(where, max_messages_per_topic=50) as opened:
        first = await opened.append("t", b"1")
        await opened.append("t", b"2")
        described = await opened.store.describe("t")
        assert described is not None
        assert described.created_ms == first.messages[0].id.milliseconds
        assert (described.text, described.own) == (None, RetentionLimits())
        assert described.effective == RetentionLimits(50, DEFAULTS.retention_ms)
        admin.xadd(schema.stream("foreign"), {"payload": "1"})
        foreign = await opened.store.describe("foreign")
        assert foreign is not None and foreign.created_ms is None


@in_loop
async def test_what_is_changed_is_changed_and_the_rest_stays(where: Where) -> None:
    async with open_store(where) as opened:
        await opened.store.create("t", TopicTerms("one", {"max_messages": 7, "retention_ms": 5000}))
        steps = [
            (NOTHING, ("one", RetentionLimits(7, 5000), RetentionLimits(7, 5000))),
            (TopicTerms("two", {}), ("two", RetentionLimits(7, 5000), RetentionLimits(7, 5000))),
            (
                TopicTerms(None, {"max_messages": None}),
                ("two", RetentionLimits(None, 5000), RetentionLimits(DEFAULTS.max_messages, 5000)),
            ),
            (
                TopicTerms("", {"max_messages": 9, "retention_ms": None}),
                ("", RetentionLimits(9, None), RetentionLimits(9, DEFAULTS.retention_ms)),
            ),
            (TopicTerms(None, {"max_messages": None}), ("", RetentionLimits(), DEFAULTS)),
        ]
        for terms, expected in steps:
            assert await opened.store.change("t", terms)
            described = await opened.store.describe("t")
            assert described is not None
            assert (described.text, described.own, described.effective) == expected
        assert not await opened.store.change("never", TopicTerms("x", {"max_messages": 1}))
        assert await opened.store.describe("never") is None


@in_loop
async def test_a_deleted_topic_leaves_nothing_but_what_ids_need(
    where: Where, admin: valkey_client.Valkey
) -> None:
    async with open_store(where) as opened:
        for topic in ("published", "empty"):
            await opened.store.create(topic, TopicTerms("text", {"max_messages": 1, "retention_ms": 5000}))
        last = (await opened.append("published", b"1")).messages[0].id_text
        for topic in ("published", "empty"):
            assert await opened.store.delete(topic) is not None
            assert await opened.store.describe(topic) is None
            assert not await opened.store.change(topic, TopicTerms("x", {}))
        assert admin.hgetall(schema.meta("published")) == {b"last": last.encode()}
        assert not admin.exists(schema.meta("empty"))
        assert await opened.store.topics("", 10) == []
        # Made anew: above the old ids, without the old limits, and for good.
        assert await opened.store.create("published", NOTHING)
        described = await opened.store.describe("published")
        assert described is not None
        assert (described.text, described.own) == (None, RetentionLimits())
        assert admin.ttl(schema.meta("published")) == -1
        appended = await opened.append("published", b"1", b"2")
        assert [message.id.number for message in appended.messages] == [2, 3]
        assert appended.epoch == described.epoch


@in_loop
async def test_a_topic_whose_keys_are_taken_away_begins_anew_with_the_settings_limits(
    valkey: str, admin: valkey_client.Valkey
) -> None:
    async with open_store(valkey) as opened:
        await opened.store.create("t", TopicTerms("text", {"max_messages": 2}))
        floor = (await opened.append("t", b"1")).messages[0].id
        admin.delete(*admin.keys("*t:stream*"))
        appended = await opened.append("t", b"2", b"3", b"4", floor=floor)
        described = await opened.store.describe("t")
        assert described is not None and described.created_ms is not None
        assert (described.length, described.text, described.own) == (3, None, RetentionLimits())
        assert appended.messages[0].id > floor


# Limits, at the append


@pytest.mark.parametrize("most", [1, 2, 10, 99, 100, 101, 1000])
@in_loop
async def test_up_to_a_thousand_messages_a_limit_is_exact(where: Where, most: int) -> None:
    async with open_store(where, max_messages_per_topic=5) as opened:
        await opened.store.create("t", TopicTerms(None, {"max_messages": most}))
        ids = []
        for count in (1, most, 3, 1, 250, 1):
            ids += [message.id for message in (await opened.append("t", *[b"x"] * count)).messages]
            stored = await opened.all_messages("t")
            assert [message.id for message in stored] == ids[-most:]


@in_loop
async def test_a_larger_limit_than_the_settings_holds_and_is_overshot_by_a_block_at_most(
    where: Where,
) -> None:
    async with open_store(where, max_messages_per_topic=5) as opened:
        await opened.store.create("t", TopicTerms(None, {"max_messages": 1001}))
        for _ in range(30):
            await opened.append("t", *[b"x"] * 77)
        described = await opened.store.describe("t")
        assert described is not None and 1001 <= described.length <= 1001 + 100


@in_loop
async def test_a_changed_limit_holds_with_the_next_append_on_every_worker(where: Where) -> None:
    async with open_store(where) as one, open_store(where) as other:
        await one.append("t", *[b"x"] * 500)
        await one.store.change("t", TopicTerms(None, {"max_messages": 10}))
        await other.append("t", b"y")
        assert len(await one.all_messages("t")) == 10
        await other.store.change("t", TopicTerms(None, {"max_messages": None}))
        await one.append("t", *[b"z"] * 500)
        assert len(await one.all_messages("t")) == 510


@in_loop
async def test_a_limit_far_below_what_is_there_is_reached_in_steps(where: Where) -> None:
    async with open_store(where) as opened:
        for _ in range(25):
            await opened.append("t", *[b"x"] * 1000)
        await opened.store.change("t", TopicTerms(None, {"max_messages": 10}))
        lengths = []
        for _ in range(4):
            await opened.append("t", b"x")
            described = await opened.store.describe("t")
            assert described is not None
            lengths.append(described.length)
        assert lengths == [15_001, 5_002, 10, 10]
