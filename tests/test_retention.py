from __future__ import annotations

import asyncio
from collections.abc import Callable

import valkey as valkey_client

from actors.counters import Counters
from actors.stream import MessageId
from pulsar_relay.settings import StorageSettings
from pulsar_relay.store import schema
from pulsar_relay.store.client import Client
from pulsar_relay.store.retention import SLICE_TOPICS, Retention
from tests.stores import Where, code_of, in_loop, open_store, until
from tests.valkeys import RealValkey

MakeValkey = Callable[..., RealValkey]
# In the past: the later of two clocks, this one and Valkey's, deletes nothing.
NOW_MS = 1_700_000_000_000
RETENTION_MS = 1_000_000


def _add(admin: valkey_client.Valkey, topic: str, ages_ms: list[int], *, is_listed: bool = True) -> None:
    """A topic whose messages have these ages, oldest first."""
    for number, age_ms in enumerate(ages_ms):
        admin.xadd(schema.stream(topic), {"payload": "1"}, id=f"{NOW_MS - age_ms}-{number}")
    if is_listed:
        admin.zadd(schema.TOPICS, {topic: 0})


def _ages(admin: valkey_client.Valkey, topic: str) -> list[int]:
    entries = admin.xrange(schema.stream(topic))
    return [NOW_MS - MessageId.parse(entry[0].decode()).milliseconds for entry in entries]


def _retention(
    client: Client,
    seconds: float = RETENTION_MS / 1000,
    *,
    interval_seconds: float = 30.0,
    now_ms: int = NOW_MS,
) -> Retention:
    settings = StorageSettings(
        persistent_tier_retention_seconds=seconds, trim_interval_seconds=interval_seconds
    )
    return Retention(client, settings, Counters(), clock=lambda: now_ms)


@in_loop
async def test_messages_past_their_age_go_and_each_topics_newest_stays(
    where: Where, admin: valkey_client.Valkey
) -> None:
    old, young = 3 * RETENTION_MS, RETENTION_MS // 2
    _add(admin, "mixed", [old] * 150 + [RETENTION_MS + 1, RETENTION_MS, young, young])
    _add(admin, "old", [old] * 300)
    _add(admin, "single", [old])
    _add(admin, "young", [young] * 5)
    _add(admin, "owner/name", [old, old])
    async with open_store(where) as opened:
        retention = _retention(opened.client)
        assert await retention.walk()
        assert _ages(admin, "mixed") == [RETENTION_MS, young, young]
        assert _ages(admin, "old") == [old]
        assert _ages(admin, "single") == [old]
        assert _ages(admin, "young") == [young] * 5
        assert _ages(admin, "owner/name") == [old]
        assert retention.counters.trimmed_messages == 151 + 299 + 1
        assert await retention.walk()
        assert retention.counters.trimmed_messages == 451
        assert await opened.store.topics("", 10) == ["mixed", "old", "owner/name", "single", "young"]


@in_loop
async def test_more_topics_than_a_slice_are_all_walked(where: Where, admin: valkey_client.Valkey) -> None:
    count = 2 * SLICE_TOPICS + 50
    pipeline = admin.pipeline(transaction=False)
    for n in range(count):
        pipeline.xadd(schema.stream(f"t{n}"), {"payload": "1"}, id="1-1")
        pipeline.xadd(schema.stream(f"t{n}"), {"payload": "1"}, id="1-2")
        pipeline.zadd(schema.TOPICS, {f"t{n}": 0})
    pipeline.execute()
    async with open_store(where) as opened:
        retention = _retention(opened.client)
        assert await retention.walk()
        assert retention.counters.trimmed_messages == count


@in_loop
async def test_a_large_backlog_goes_in_steps(valkey: str, admin: valkey_client.Valkey) -> None:
    async with open_store(valkey) as opened:
        for _ in range(45):
            await opened.append("t", *[b"x"] * 1000)
        retention = _retention(opened.client, 0, now_ms=NOW_MS * 2)
        admin.config_resetstat()
        await retention.walk()
        assert admin.xlen(schema.stream("t")) == 1
        assert admin.info("commandstats")["cmdstat_xtrim"]["calls"] >= 5


@in_loop
async def test_a_topic_missing_in_the_index_is_found(where: Where, admin: valkey_client.Valkey) -> None:
    _add(admin, "lost", [1], is_listed=False)
    _add(admin, "owner/lost", [1], is_listed=False)
    admin.set("topic:string:stream", "x")
    admin.xadd("topic:no topic:stream", {"a": "b"})
    admin.xadd("another:stream", {"a": "b"})
    async with open_store(where) as opened:
        await _retention(opened.client).walk()
        assert await opened.store.topics("", 10) == ["lost", "owner/lost"]


@in_loop
async def test_all_keys_are_scanned_however_many_there_are(where: Where, admin: valkey_client.Valkey) -> None:
    admin.execute_command("DEBUG", "POPULATE", 30_000)
    _add(admin, "lost", [1], is_listed=False)
    async with open_store(where) as opened:
        retention = _retention(opened.client)
        walks = 0
        while await opened.store.topic_count() == 0:
            await retention.walk()
            walks += 1
            assert walks < 20


@in_loop
async def test_a_name_without_a_topic_leaves_the_index(where: Where, admin: valkey_client.Valkey) -> None:
    admin.zadd(schema.TOPICS, {"gone": 0, "no topic": 0, b"\xff\xfe": 0, "a:b": 0})
    async with open_store(where) as opened:
        await opened.append("emptied", b"1")
        admin.xtrim(schema.stream("emptied"), maxlen=0, approximate=False)
        await opened.append("cut", b"1")
        admin.delete(schema.stream("cut"))
        await _retention(opened.client).walk()
        # These two live: their meta remembers them, though they hold nothing.
        assert await opened.store.topics("", 10) == ["cut", "emptied"]


@in_loop
async def test_one_worker_at_a_time_walks(where: Where, admin: valkey_client.Valkey) -> None:
    async with open_store(where) as one, open_store(where) as other:
        first, second = _retention(one.client), _retention(other.client)
        assert await first.walk()
        assert not await second.walk()
        assert await first.walk()
        assert 0 < admin.pttl(schema.RETENTION_LEASE) <= 90_000
        admin.delete(schema.RETENTION_LEASE)  # as when the first has died and its lease has expired
        assert await second.walk()
        assert not await first.walk()


@in_loop
async def test_a_worker_that_stops_lets_another_walk_at_once(valkey: str) -> None:
    async with open_store(valkey) as one, open_store(valkey) as other:
        first, second = _retention(one.client), _retention(other.client)
        assert await first.walk()
        assert not await second.walk()
        await second.stop()
        assert not await second.walk(), "only who holds the lease gives it back"
        await first.stop()
        assert await second.walk()


@in_loop
async def test_it_walks_by_itself_survives_the_store_and_stops(make_valkey: MakeValkey) -> None:
    server = make_valkey().start()
    async with open_store(server.socket_path) as opened:
        await opened.append("t", b"1", b"2")
        retention = _retention(opened.client, 0, interval_seconds=0.01, now_ms=NOW_MS * 2)
        await retention.stop()
        retention.start()
        await until(lambda: retention.counters.trimmed_messages == 1)
        server.kill()
        await until(lambda: retention.is_failing)
        server.start()
        await until(lambda: not retention.is_failing)
        await opened.append("t", b"3")
        await until(lambda: retention.counters.trimmed_messages == 2)
        await retention.stop()
        await retention.stop()


@in_loop
async def test_a_full_server_gets_room_again(make_valkey: MakeValkey) -> None:
    server = make_valkey().start()
    async with open_store(server.socket_path) as opened:
        for n in range(20):
            await opened.append(f"t{n}", *[b"x" * 10_000] * 20)
        retention = _retention(opened.client, 0, now_ms=NOW_MS * 2)
        used = int(server.command("INFO", "memory")["used_memory"])  # type: ignore[index]
        server.config("maxmemory", str(used - 100_000))
        assert await code_of(opened.append("t0", b"x")) == "store_full"
        await retention.walk()
        await opened.append("t0", b"x")


@in_loop
async def test_a_topic_made_while_its_name_is_taken_out_is_listed(where: Where) -> None:
    async with open_store(where) as opened, open_store(where) as other:
        retention = _retention(opened.client)

        async def walk_all() -> None:
            for _ in range(30):
                await retention.walk()

        async def make_all() -> None:
            for n in range(300):
                await other.append(f"t{n % 10}", b"1")
                if n % 3 == 0:
                    await other.store.delete(f"t{n % 10}")
                await asyncio.sleep(0.001)

        await asyncio.gather(walk_all(), make_all())
        for n in range(10):
            await other.append(f"t{n}", b"last")
        assert await opened.store.topics("", 20) == [f"t{n}" for n in range(10)]
