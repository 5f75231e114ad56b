"""ValkeyStore: what is neither appending nor reading pages nor following, which have tests of their own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
import valkey as valkey_client

from actors.ports import Position
from actors.stream import BEGINNING, MessageId
from pulsar_relay.store import schema
from tests.stores import Where, code_of, in_loop, open_store, until, until_code
from tests.valkeys import RealValkey

MakeValkey = Callable[..., RealValkey]


# Positions


@in_loop
async def test_a_topic_that_never_was_has_no_epoch_and_stands_at_the_beginning(where: Where) -> None:
    async with open_store(where) as opened:
        assert await opened.store.position("t") == Position("", BEGINNING)


@in_loop
async def test_positions_of_many_topics_come_in_the_order_asked(where: Where) -> None:
    async with open_store(where) as opened:
        expected = {}
        for n in range(0, 350, 3):
            appended = await opened.append(f"t{n}", *[b"x"] * (n % 5 + 1))
            expected[f"t{n}"] = Position(appended.epoch, appended.messages[-1].id)
        topics = [f"t{n}" for n in range(349, -1, -1)]
        positions = await opened.store.positions(topics)
        assert list(positions) == [expected.get(topic, Position("", BEGINNING)) for topic in topics]
        assert await opened.store.positions([]) == []


@in_loop
async def test_a_position_follows_what_a_hand_adds_or_takes_away(
    where: Where, admin: valkey_client.Valkey
) -> None:
    async with open_store(where) as opened:
        appended = await opened.append("t", b"1", b"2")
        newest = appended.messages[-1].id
        admin.xdel(schema.stream("t"), str(newest))
        assert await opened.store.position("t") == Position(appended.epoch, newest)
        added = MessageId.parse(admin.xadd(schema.stream("t"), {"payload": "3"}).decode())
        assert await opened.store.position("t") == Position(appended.epoch, added)


# Trimming


@pytest.mark.parametrize("count", [1, 2, 99, 100, 101, 1000])
@in_loop
async def test_the_newest_message_survives_any_age(
    where: Where, admin: valkey_client.Valkey, count: int
) -> None:
    async with open_store(where, persistent_tier_retention_seconds=0) as opened:
        appended = await opened.append("t", *[b"x"] * count)
        for before_ms in (2**53, 10**15, appended.messages[0].id.milliseconds + 1):
            await opened.store.trim("t", before_ms)
            assert [m.id for m in await opened.all_messages("t")] == [appended.messages[-1].id]


@in_loop
async def test_exactly_what_is_older_goes(where: Where) -> None:
    async with open_store(where, persistent_tier_retention_seconds=0) as opened:
        floor, ids = BEGINNING, []
        start_ms = (await opened.append("t", b"0")).messages[0].id.milliseconds
        for n in range(250):
            # Each message in a millisecond of its own, without waiting for it.
            floor = MessageId.of(start_ms + 4 * (n + 1), n + 1)
            ids += [m.id for m in (await opened.append("t", b"x", floor=floor)).messages]
        bound = ids[149].milliseconds
        # By Valkey's clock they must be that old as well.
        await until(lambda: time.time_ns() // 1_000_000 > bound)
        assert (await opened.store.trim("t", bound)).count == 150
        assert [m.id for m in await opened.all_messages("t")] == ids[149:]
        assert (await opened.store.trim("t", bound)).count == 0
        assert (await opened.store.trim("t", 0)).count == 0
        assert (await opened.store.trim("t", -5)).count == 0


@in_loop
async def test_a_large_backlog_is_trimmed_in_steps_to_the_end(
    valkey: str, admin: valkey_client.Valkey
) -> None:
    async with open_store(valkey, persistent_tier_retention_seconds=0) as opened:
        for _ in range(35):
            await opened.append("t", *[b"x"] * 1000)
        admin.config_resetstat()
        assert (await opened.store.trim("t", 10**15)).count == 34_999
        assert admin.info("commandstats")["cmdstat_evalsha"]["calls"] >= 4


@in_loop
async def test_trimming_what_is_not_there_removes_nothing(where: Where, admin: valkey_client.Valkey) -> None:
    async with open_store(where, persistent_tier_retention_seconds=0) as opened:
        assert (await opened.store.trim("t", 10**15)).count == 0
        await opened.append("t", b"x")
        admin.xtrim(schema.stream("t"), maxlen=0, approximate=False)
        assert (await opened.store.trim("t", 10**15)).count == 0


# Deleting


@in_loop
async def test_a_deleted_topic_is_gone_and_its_ids_are_never_given_again(where: Where) -> None:
    async with open_store(where) as opened:
        before = await opened.append("t", b"1", b"2")
        assert await opened.store.delete("t") == Position("", before.messages[-1].id)
        assert await opened.store.describe("t") is None
        assert await opened.store.topics("", 10) == []
        assert await opened.store.position("t") == Position("", before.messages[-1].id)
        after = await opened.append("t", b"3")
        assert after.prev == before.messages[-1].id < after.messages[0].id
        assert after.messages[0].id.number == 3
        assert after.epoch not in ("", before.epoch)


@in_loop
async def test_a_deleted_topic_is_remembered_for_a_while_and_a_new_one_for_good(
    where: Where, admin: valkey_client.Valkey
) -> None:
    async with open_store(where) as opened:
        await opened.append("t", b"1")
        await opened.store.delete("t")
        assert admin.ttl(schema.meta("t")) > 24 * 3600
        await opened.append("t", b"2")
        assert admin.ttl(schema.meta("t")) == -1


@in_loop
async def test_deleting_what_is_not_there_says_so(where: Where) -> None:
    async with open_store(where) as opened:
        assert await opened.store.delete("t") is None
        await opened.append("t", b"1")
        await opened.store.delete("t")
        assert await opened.store.delete("t") is None


@pytest.mark.parametrize("is_empty", [False, True])
@in_loop
async def test_a_stream_another_server_filled_can_be_deleted(
    where: Where, admin: valkey_client.Valkey, is_empty: bool
) -> None:
    added = MessageId.parse(admin.xadd(schema.stream("t"), {"payload": "1"}).decode())
    if is_empty:
        admin.xtrim(schema.stream("t"), maxlen=0, approximate=False)
    async with open_store(where) as opened:
        deleted = await opened.store.delete("t")
        assert deleted == Position("", BEGINNING if is_empty else added)
        assert not admin.exists(schema.stream("t"))


@in_loop
async def test_a_topic_deleted_while_it_is_published_to_is_listed_as_long_as_it_has_messages(
    where: Where,
) -> None:
    async with open_store(where) as one, open_store(where) as other:

        async def publish_all() -> None:
            floor = BEGINNING
            for _ in range(200):
                floor = (await one.append("t", b"x", floor=floor)).messages[-1].id

        async def delete_all() -> None:
            for _ in range(60):
                await other.store.delete("t")
                await asyncio.sleep(0.001)

        await asyncio.gather(publish_all(), delete_all())
        await one.append("t", b"last")
        assert await one.store.topics("", 10) == ["t"]


# Questions


@in_loop
async def test_a_topic_is_described_as_it_is_stored(where: Where) -> None:
    async with open_store(where) as opened:
        assert await opened.store.describe("t") is None
        appended = await opened.append("t", *[b"x"] * 5)
        described = await opened.store.describe("t")
        assert described is not None
        assert (described.topic, described.length, described.epoch) == ("t", 5, appended.epoch)
        assert described.oldest == appended.messages[0].id_text
        assert described.newest == appended.messages[-1].id_text


@in_loop
async def test_a_topic_emptied_by_hand_or_filled_by_another_server_is_described(
    where: Where, admin: valkey_client.Valkey
) -> None:
    async with open_store(where) as opened:
        appended = await opened.append("t", b"x")
        admin.xtrim(schema.stream("t"), maxlen=0, approximate=False)
        described = await opened.store.describe("t")
        assert described is not None
        assert (described.length, described.oldest) == (0, None)
        assert described.newest == appended.messages[-1].id_text
        added = admin.xadd(schema.stream("u"), {"payload": "1"}).decode()
        described = await opened.store.describe("u")
        assert described is not None
        assert (described.oldest, described.newest, described.epoch) == (added, added, "")


@in_loop
async def test_topics_are_listed_in_alphabetical_order_page_by_page(where: Where) -> None:
    async with open_store(where) as opened:
        names = ["a", "B", "a-b", "owner/a", "Z9", "_x"]
        for name in names:
            await opened.append(name, b"x")
        listed: list[str] = []
        while page := await opened.store.topics(listed[-1] if listed else "", 2):
            assert len(page) <= 2
            listed += page
        assert listed == sorted(names)
        assert await opened.store.topic_count() == len(names)


@in_loop
async def test_all_workers_get_the_same_cookie_key_and_keep_it(make_valkey: MakeValkey) -> None:
    server = make_valkey().start()
    async with open_store(server.socket_path) as one, open_store(server.socket_path) as other:
        keys = await asyncio.gather(*[opened.store.cookie_key() for opened in (one, other) * 5])
        assert len(set(keys)) == 1
        assert len(keys[0]) >= 32
        server.stop()
        server.start()
        await until_code(other.store.cookie_key, None)
        assert await other.store.cookie_key() == keys[0]


@in_loop
async def test_the_probe_is_refused_where_an_append_would_be(make_valkey: MakeValkey) -> None:
    server = make_valkey().start()
    async with open_store(server.socket_path) as opened:
        await opened.store.probe(opened.client)
        server.config("maxmemory", "1")
        assert await code_of(opened.store.probe(opened.client)) == "store_full"
        server.config("maxmemory", "0")
        server.config("min-replicas-to-write", "1")
        assert await code_of(opened.store.probe(opened.client)) == "store_replicas_missing"
        server.config("min-replicas-to-write", "0")
        await opened.store.probe(opened.client)
        server.kill()
        assert await code_of(opened.store.probe(opened.client)) == "store_unavailable"
        server.start()
        await opened.store.probe(opened.client)


@in_loop
async def test_every_question_works_again_when_the_server_is_back(make_valkey: MakeValkey) -> None:
    server = make_valkey().start()
    async with open_store(server.socket_path) as opened:
        appended = await opened.append("t", b"1")
        store = opened.store
        questions: list[Callable[[], Awaitable[object]]] = [
            lambda: store.position("t"),
            lambda: store.positions(["t"]),
            lambda: store.read("t", BEGINNING, 10, 1000),
            lambda: store.history("t", None, 10, 1000, descends=True),
            lambda: store.describe("t"),
            lambda: store.topics("", 10),
            store.topic_count,
            lambda: store.trim("t", 0),
            lambda: store.acknowledge("c", None, {"t": appended.messages[0].id}, proves=True),
            lambda: store.claims(["c"]),
        ]
        before = [await question() for question in questions]
        server.kill()
        for question in questions:
            assert await code_of(question()) == "store_unavailable"
        server.start()
        after = [await question() for question in questions]
        assert [after[0], after[1], *after[5:]] == [before[0], before[1], *before[5:]]
