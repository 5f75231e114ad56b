from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest
import valkey as valkey_client

from actors.ports import Draft, Notice, Publish, StoreError
from actors.proof import judge
from actors.stream import BEGINNING, MessageId
from pulsar_relay.store import schema
from pulsar_relay.store.line import Answer
from pulsar_relay.store.link import Word
from tests.proxies import Proxy
from tests.stores import (
    PROMPT_SECONDS,
    OpenStore,
    Where,
    assert_contiguous,
    code_of,
    in_loop,
    open_store,
    publish,
    until,
    until_code,
)
from tests.valkeys import RealValkey

MakeValkey = Callable[..., RealValkey]
MIB = 1024 * 1024


# Ids, order and the chain


@in_loop
async def test_ids_count_the_messages_of_a_topic(where: Where) -> None:
    async with open_store(where) as opened:
        first = await opened.append("t", b"1", b"2")
        second = await opened.append("t", b"3")
        numbers = [message.id.number for message in [*first.messages, *second.messages]]
        assert numbers == [1, 2, 3]
        assert first.prev == BEGINNING
        assert second.prev == first.messages[-1].id
        assert second.epoch == first.epoch != ""


@in_loop
async def test_what_is_answered_is_what_is_stored(where: Where) -> None:
    drafts = (
        Draft(b'{"a":1}'),
        Draft(b"[1.10, 2]", b'{"k":"v"}'),
        Draft(b"null", None, 4102444800000),
        Draft(b'"both"', b"{}", 4102444800001),
    )
    async with open_store(where) as opened:
        appended = await opened.store.append("t", [Publish("t", drafts), publish("t", b"plain")], BEGINNING)
        stored = await opened.all_messages("t")
    assert_contiguous(stored)
    described = [(m.id_text, m.payload, m.metadata, m.expires_at_ms) for m in stored]
    assert described == [(m.id_text, m.payload, m.metadata, m.expires_at_ms) for m in appended.messages]
    assert [(m.payload, m.metadata, m.expires_at_ms) for m in stored[:4]] == [
        (d.payload, d.metadata, d.expires_at_ms) for d in drafts
    ]
    assert appended.outcomes == [
        (tuple(m.id_text for m in stored[:4]), False),
        ((stored[4].id_text,), False),
    ]


@in_loop
async def test_a_thousand_drafts_in_one_publish_and_a_thousand_publishes_in_one_batch(where: Where) -> None:
    async with open_store(where) as opened:
        bulk = await opened.append("t", *[b"%d" % n for n in range(1000)], key="bulk")
        single = await opened.store.append("t", [publish("t", b"%d" % n) for n in range(1000)], BEGINNING)
        again = await opened.append("t", *[b"%d" % n for n in range(1000)], key="bulk")
        stored = await opened.all_messages("t")
    assert_contiguous(stored)
    assert [m.payload for m in stored] == [b"%d" % n for n in range(1000)] * 2
    assert [m.id for m in stored] == [m.id for m in [*bulk.messages, *single.messages]]
    assert again.outcomes == [(tuple(m.id_text for m in bulk.messages), True)]
    assert again.messages == []


@in_loop
async def test_a_payload_of_32_mib_and_bytes_that_are_no_text_come_back_as_they_were(where: Where) -> None:
    payloads = [b'"' + b"x" * (32 * MIB) + b'"', bytes(range(256)), b"", b"a\r\nb c\x00d"]
    async with open_store(where) as opened:
        await opened.append("t", *payloads)
        assert [m.payload for m in await opened.all_messages("t")] == payloads


@in_loop
async def test_two_workers_append_to_one_history(where: Where) -> None:
    async with open_store(where) as one, open_store(where) as other:

        async def append_all(opened: OpenStore, mark: int) -> set[str]:
            ids, floor = [], BEGINNING
            for n in range(100):
                appended = await opened.append("t", b"[%d,%d]" % (mark, n), b"0", floor=floor)
                floor = appended.messages[-1].id
                ids += appended.messages
            assert [m.id for m in ids] == sorted({m.id for m in ids})
            return {m.id_text for m in ids}

        ids = await asyncio.gather(append_all(one, 1), append_all(other, 2))
        stored = await one.all_messages("t")
        positions = [await opened.store.position("t") for opened in (one, other)]
    assert_contiguous(stored)
    assert {m.id_text for m in stored} == ids[0] | ids[1]
    assert len(stored) == 400 == stored[-1].id.number
    for mark in (1, 2):
        own = [m.payload for m in stored if m.payload.startswith(b"[%d," % mark)]
        assert own == [b"[%d,%d]" % (mark, n) for n in range(100)]
    assert positions[0] == positions[1]


# Floors, epochs, and what others do to the keys


@in_loop
async def test_below_the_floor_history_was_lost_and_goes_on_above_it_under_a_new_epoch(where: Where) -> None:
    async with open_store(where) as opened:
        before = await opened.append("t", b"1")
        floor = MessageId.of(before.messages[0].id.milliseconds + 3_600_000, 41)
        after = await opened.append("t", b"2", floor=floor)
        message = after.messages[0]
        # Between the two is an id that nobody has: no cursor looks as if it went on from there.
        assert message.prev == after.prev == MessageId.of(floor.milliseconds + 1, 41)
        assert message.id == MessageId.of(floor.milliseconds + 1, 42)
        assert after.epoch != before.epoch
        # The clock is an hour behind now, as after a step back: ids go on where they are.
        later = await opened.append("t", b"3", floor=floor)
        assert later.messages[0].id == MessageId.of(floor.milliseconds + 1, 43)
        assert later.epoch == after.epoch


@in_loop
@pytest.mark.parametrize("left", [0, 3])
async def test_whoever_has_a_lost_message_is_told_also_if_it_was_the_last(
    where: Where, admin: valkey_client.Valkey, left: int
) -> None:
    async with open_store(where) as opened:
        payloads = [b"1", b"2", b"3", b"4", b"5"]
        kept = (await opened.append("t", *payloads[:left])).messages if left else ()
        dumps = {key: admin.dump(key) for key in schema.stream_keys("t") if left}
        lost = (await opened.append("t", *payloads[left:])).messages
        admin.delete(*schema.stream_keys("t"))
        for key, dump in dumps.items():
            admin.restore(key, 0, dump)
        after = (await opened.append("t", b"6", floor=lost[-1].id)).messages[0]
        for message in lost:
            page = await opened.store.read("t", message.id, 10, MIB)
            notice = judge("t", message.id, None, page)
            assert notice == Notice("reset", "t", "unknown_cursor", None, after.id_text)
        for message in kept[-1:]:
            page = await opened.store.read("t", message.id, 10, MIB)
            notice = judge("t", message.id, None, page)
            assert notice == Notice("reset", "t", "epoch_changed", len(lost), after.id_text)


@in_loop
async def test_a_topic_begins_anew_above_the_floor_when_all_its_keys_are_gone(
    where: Where, admin: valkey_client.Valkey
) -> None:
    async with open_store(where) as opened:
        before = await opened.append("t", b"1", b"2")
        floor = before.messages[-1].id
        admin.flushall()
        after = await opened.append("t", b"3", floor=floor)
        assert floor < after.prev < after.messages[0].id
        assert after.messages[0].id.number == 3
        assert after.epoch != before.epoch
        assert await opened.store.topics("", 10) == ["t"]


@in_loop
async def test_a_stream_deleted_by_hand_goes_on_where_its_meta_says(
    where: Where, admin: valkey_client.Valkey
) -> None:
    async with open_store(where) as opened:
        before = await opened.append("t", b"1", b"2")
        admin.delete(schema.stream("t"))
        after = await opened.append("t", b"3")
        assert after.prev == before.messages[-1].id
        assert after.messages[0].id.number == 3
        assert after.epoch == before.epoch


@in_loop
async def test_a_meta_deleted_by_hand_is_made_anew_from_the_stream(
    where: Where, admin: valkey_client.Valkey
) -> None:
    async with open_store(where) as opened:
        before = await opened.append("t", b"1", b"2")
        admin.delete(schema.meta("t"))
        after = await opened.append("t", b"3")
        assert after.prev == before.messages[-1].id
        assert after.messages[0].id.number == 3
        assert after.epoch != before.epoch
        assert_contiguous(await opened.all_messages("t"))


@in_loop
async def test_a_stream_that_another_server_filled_is_continued(
    where: Where, admin: valkey_client.Valkey
) -> None:
    for n in range(3):
        admin.xadd(schema.stream("t"), {"payload": f"{n}", "timestamp": "2026-01-01T00:00:00+00:00"})
    top = MessageId.parse(admin.xinfo_stream(schema.stream("t"))["last-generated-id"].decode())
    async with open_store(where) as opened:
        assert (await opened.store.position("t")).newest == top
        appended = await opened.append("t", b"3")
        assert appended.prev == top < appended.messages[0].id
        assert [m.payload for m in await opened.all_messages("t")] == [b"0", b"1", b"2", b"3"]
        assert_contiguous(await opened.all_messages("t"))


@pytest.mark.parametrize("ahead_ms", [0, 3_600_000], ids=["now", "an hour ahead"])
@in_loop
async def test_what_a_hand_added_becomes_part_of_the_history(
    where: Where, admin: valkey_client.Valkey, ahead_ms: int
) -> None:
    async with open_store(where) as opened:
        before = await opened.append("t", b"1")
        added_id = MessageId.of(before.messages[0].id.milliseconds + ahead_ms + 1, 7)
        admin.xadd(schema.stream("t"), {"payload": "2"}, id=str(added_id))
        assert (await opened.store.position("t")).newest == added_id
        after = await opened.append("t", b"3", floor=before.messages[0].id)
        assert after.prev == added_id < after.messages[0].id
        assert after.epoch == before.epoch
        stored = await opened.all_messages("t")
    assert [m.payload for m in stored] == [b"1", b"2", b"3"]
    assert_contiguous(stored)


@in_loop
async def test_ids_a_stream_remembers_but_holds_no_more_are_not_given_again(
    where: Where, admin: valkey_client.Valkey
) -> None:
    async with open_store(where) as opened:
        before = await opened.append("t", b"1")
        ahead = MessageId.of(before.messages[0].id.milliseconds + 3_600_000, 9)
        admin.xadd(schema.stream("t"), {"payload": "gone"}, id=str(ahead))
        admin.xdel(schema.stream("t"), str(ahead))
        after = await opened.append("t", b"2", b"3")
        assert after.messages[0].id > ahead
        stored = await opened.all_messages("t")
    assert_contiguous(stored)
    assert [m.payload for m in stored] == [b"1", b"2", b"3"]


@in_loop
async def test_a_number_we_did_not_give_is_not_counted_on(where: Where, admin: valkey_client.Valkey) -> None:
    admin.xadd(schema.stream("t"), {"payload": "0"}, id=f"5-{2**64 - 1}")
    async with open_store(where) as opened:
        appended = await opened.append("t", b"1")
        assert appended.prev == MessageId.of(5, 2**64 - 1)
        assert appended.messages[0].id.number == 1
        assert_contiguous(await opened.all_messages("t"))


@pytest.mark.parametrize(
    ("key", "command"),
    [
        (schema.stream("t"), ("SET", schema.stream("t"), "x")),
        (schema.stream("t"), ("XADD", schema.stream("t"), f"{2**64 - 1}-{2**64 - 1}", "payload", "0")),
        (schema.meta("t"), ("SET", schema.meta("t"), "x")),
        (schema.meta("t"), ("HSET", schema.meta("t"), "last", "x", "epoch", "e")),
        (schema.idempotency("t", "scope:k"), ("RPUSH", schema.idempotency("t", "scope:k"), "x")),
    ],
    ids=["stream is a string", "stream is exhausted", "meta is a string", "last id is none", "key is a list"],
)
@in_loop
async def test_a_damaged_topic_is_refused_as_such_and_nothing_of_the_batch_is_stored(
    where: Where, admin: valkey_client.Valkey, key: str, command: tuple[str, ...]
) -> None:
    admin.execute_command(*command)
    before = admin.dump(key)
    async with open_store(where) as opened:
        with pytest.raises(StoreError) as caught:
            await opened.store.append("t", [publish("t", b"1"), publish("t", b"2", key="k")], BEGINNING)
        assert caught.value.code == "store_damaged"
        assert not caught.value.is_outcome_unknown
    assert admin.dump(key) == before
    assert admin.type(schema.stream("t")) in (b"none", b"string") or admin.xlen(schema.stream("t")) == 1


@in_loop
async def test_max_messages_are_kept_about(where: Where, admin: valkey_client.Valkey) -> None:
    async with open_store(where, max_messages_per_topic=100) as opened:
        for _ in range(10):
            await opened.append("t", *[b"1"] * 100)
        assert 100 <= admin.xlen(schema.stream("t")) <= 200
        newest = (await opened.all_messages("t"))[-1]
        assert newest.id.number == 1000


@in_loop
async def test_where_many_messages_are_kept_a_hundred_more_are_at_most_and_a_block(
    where: Where, admin: valkey_client.Valkey
) -> None:
    async with open_store(where, max_messages_per_topic=1001) as opened:
        for _ in range(15):
            await opened.append("t", *[b"1"] * 99)
        for _ in range(250):
            await opened.append("t", b"1")
            assert 1001 <= admin.xlen(schema.stream("t")) <= 1001 + 100 + 100


# Publishes with a key of their own


@in_loop
async def test_one_key_appends_once_also_when_two_workers_try_at_the_same_time(where: Where) -> None:
    async with open_store(where) as one, open_store(where) as other:
        for n in range(50):
            tries = [opened.append("t", b"1", b"2", key=f"k{n}") for opened in (one, other, one)]
            outcomes = [appended.outcomes[0] for appended in await asyncio.gather(*tries)]
            assert len({outcome[0] for outcome in outcomes if outcome}) == 1
            assert sorted(outcome[1] for outcome in outcomes if outcome) == [False, True, True]
        stored = await one.all_messages("t")
    assert len(stored) == 100
    assert_contiguous(stored)


@in_loop
async def test_one_key_twice_in_a_batch_appends_once(where: Where) -> None:
    async with open_store(where) as opened:
        batch = [
            publish("t", b"1", key="k"),
            publish("t", b"2"),
            publish("t", b"1", key="k"),
            publish("t", b"3", key="k", digest="another body"),
            publish("t", b"4"),
        ]
        appended = await opened.store.append("t", batch, BEGINNING)
        ids = [m.id_text for m in appended.messages]
        assert appended.outcomes == [
            ((ids[0],), False),
            ((ids[1],), False),
            ((ids[0],), True),
            None,
            ((ids[2],), False),
        ]
        assert [m.payload for m in await opened.all_messages("t")] == [b"1", b"2", b"4"]


@in_loop
async def test_a_key_used_with_another_body_stores_nothing(where: Where) -> None:
    async with open_store(where) as opened:
        first = await opened.append("t", b"1", key="k")
        other = await opened.store.append("t", [publish("t", b"2", key="k", digest="other")], BEGINNING)
        assert other.outcomes == [None]
        assert other.messages == []
        assert other.prev == first.messages[0].id
        assert len(await opened.all_messages("t")) == 1


@in_loop
async def test_a_key_is_remembered_for_its_window_in_its_topic(
    where: Where, admin: valkey_client.Valkey
) -> None:
    async with open_store(where, idempotency_window_seconds=700.0) as opened:
        await opened.append("t", b"1", key="k")
        assert 600_000 < admin.pttl(schema.idempotency("t", "scope:k")) <= 700_000
        elsewhere = await opened.append("u", b"1", key="k")
        assert elsewhere.outcomes[0] is not None
        assert not elsewhere.outcomes[0][1]


@in_loop
async def test_a_key_survives_the_messages_it_stands_for(where: Where) -> None:
    async with open_store(where) as opened:
        first = await opened.append("t", b"1", key="k")
        await opened.store.delete("t")
        again = await opened.append("t", b"1", key="k")
        assert again.outcomes == [((first.messages[0].id_text,), True)]


# Lost replies


@in_loop
async def test_a_batch_whose_reply_was_lost_is_not_doubled(valkey: str) -> None:
    async with Proxy(valkey) as proxy, open_store(proxy) as opened:
        await opened.append("t", b"0")
        for n in range(1, 21):
            proxy.replies_to_lose = 1 + n % 3
            batch = [publish("t", b"%d" % n), publish("t", b"key", key=f"k{n}"), publish("t", b"x", b"y")]
            appended = await opened.store.append("t", batch, BEGINNING)
            assert [outcome and outcome[1] for outcome in appended.outcomes] == [False, False, False]
            stored = await opened.all_messages("t")
            assert [m.id for m in stored[-4:]] == [m.id for m in appended.messages]
            assert stored[-1].id.number == len(stored) == 1 + 4 * n
    assert_contiguous(stored)


@in_loop
async def test_when_no_reply_ever_comes_the_outcome_is_unknown_and_the_batch_is_stored_once(
    valkey: str, admin: valkey_client.Valkey
) -> None:
    async with Proxy(valkey) as proxy, open_store(proxy, publish_deadline_seconds=0.5) as opened:
        await opened.append("t", b"1")
        proxy.replies_to_lose = 10_000
        begun = time.monotonic()
        with pytest.raises(StoreError) as caught:
            await opened.append("t", b"2")
        assert time.monotonic() - begun < 0.5 + 5 * PROMPT_SECONDS
        assert caught.value.code == "store_unavailable"
        assert caught.value.is_outcome_unknown
        assert admin.xlen(schema.stream("t")) == 2
        proxy.replies_to_lose = 0
        # The next attempt is another batch, and finds its place.
        assert (await opened.append("t", b"3")).messages[0].id.number == 3


@in_loop
async def test_an_attempt_that_arrives_after_the_worker_went_on_is_refused(
    where: Where, admin: valkey_client.Valkey
) -> None:
    async with open_store(where) as opened:
        sent: list[tuple[Word, ...]] = []
        appends = opened.client.appends
        send = appends.send

        def recorded(words: tuple[Word, ...], answer: Answer) -> None:
            sent.append(words)
            send(words, answer)

        appends.send = recorded  # type: ignore[method-assign]
        await opened.append("t", b"1")
        await opened.append("t", b"2")
        first, second = [words for words in sent if words[0] == "EVALSHA"][-2:]
        with pytest.raises(valkey_client.ResponseError, match="STALE"):
            admin.execute_command(*first)
        admin.execute_command(*second)  # the last one is known again
        assert admin.xlen(schema.stream("t")) == 2


@in_loop
async def test_a_repetition_that_comes_too_late_ends_at_once_with_an_unknown_outcome(valkey: str) -> None:
    async with Proxy(valkey) as proxy, open_store(proxy) as opened:
        await opened.append("t", b"0")
        proxy.replies_to_lose = 1
        first = asyncio.create_task(opened.append("t", b"1"))
        await until(lambda: not proxy.replies_to_lose)
        # Two appends of one topic at a time: what only a worker that has lost its head does.
        second = asyncio.create_task(opened.append("t", b"2"))
        outcomes = await asyncio.gather(first, second, return_exceptions=True)
        for outcome in outcomes:
            assert not isinstance(outcome, StoreError) or outcome.is_outcome_unknown
        payloads = [m.payload for m in await opened.all_messages("t")]
        assert sorted(payloads) == [b"0", b"1", b"2"]


@in_loop
async def test_two_lives_of_a_worker_are_not_taken_for_one(where: Where) -> None:
    async with open_store(where, name="w") as first:
        await first.append("t", b"1")
    async with open_store(where, name="w") as second:
        appended = await second.append("t", b"2")
        assert appended.messages[0].payload == b"2"
        assert appended.messages[0].id.number == 2


# Refusals


async def _refused(opened: OpenStore, topic: str = "t") -> StoreError:
    begun = time.monotonic()
    with pytest.raises(StoreError) as caught:
        await opened.append(topic, b"refused")
    assert time.monotonic() - begun < PROMPT_SECONDS
    assert not caught.value.is_outcome_unknown
    return caught.value


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"maxmemory": "1"}, "store_full"),
        ({"min-replicas-to-write": "1"}, "store_replicas_missing"),
    ],
    ids=["OOM", "NOREPLICAS"],
)
@in_loop
async def test_a_definite_refusal_is_told_at_once_and_heals(
    make_valkey: MakeValkey, settings: dict[str, str], code: str
) -> None:
    server = make_valkey().start()
    async with open_store(server.socket_path) as opened:
        await opened.append("t", b"1")
        usual = {name: server.config(name, value) and "0" for name, value in settings.items()}
        assert (await _refused(opened)).code == code
        assert (await _refused(opened, "never made")).code == code
        assert server.command("EXISTS", schema.stream("never made"), schema.meta("never made")) == 0
        assert len(await opened.all_messages("t")) == 1
        for name, value in usual.items():
            server.config(name, value)
        assert (await opened.append("t", b"2")).messages[0].id.number == 2


@in_loop
async def test_a_full_server_still_trims_and_deletes(make_valkey: MakeValkey) -> None:
    server = make_valkey().start()
    async with open_store(server.socket_path, persistent_tier_retention_seconds=0) as opened:
        await opened.append("t", *[b"1"] * 300)
        await opened.append("u", b"1")
        server.config("maxmemory", "1")
        assert (await opened.store.trim("t", 4102444800000)).count == 299
        assert await opened.store.delete("u") is not None
        assert server.command("EXISTS", schema.stream("u")) == 0


@in_loop
async def test_a_read_only_server_is_told_as_such(make_valkey: MakeValkey) -> None:
    primary, replica = make_valkey(tcp=True).start(), make_valkey(tcp=True).start()
    async with open_store("", valkey={"host": replica.host, "port": replica.port}) as opened:
        await opened.append("t", b"1")
        replica.command("REPLICAOF", primary.host, primary.port)
        assert (await _refused(opened)).code == "store_read_only"
        replica.command("REPLICAOF", "NO", "ONE")
        await opened.append("t", b"2")


@in_loop
async def test_a_server_that_cannot_write_its_snapshot_is_told_as_such(make_valkey: MakeValkey) -> None:
    server = make_valkey(settings={"stop-writes-on-bgsave-error": "yes"}).start()
    (server.directory / "dump.rdb").mkdir()
    server.config("save", "1 1")
    async with open_store(server.socket_path) as opened:
        await opened.append("t", b"1")

        await until(lambda: _persistence(server)["rdb_last_bgsave_status"] == "err")
        assert (await _refused(opened)).code == "store_disk_failed"
        server.config("save", "")
        await opened.append("t", b"2")


@in_loop
async def test_a_busy_server_is_told_as_such(make_valkey: MakeValkey) -> None:
    server = make_valkey(settings={"busy-reply-threshold": "20"}).start()
    async with open_store(server.socket_path) as opened:
        await opened.append("t", b"1")
        hog = asyncio.get_running_loop().run_in_executor(None, _hog, server)
        await until_code(lambda: opened.store.probe(opened.client), "store_busy")
        assert (await _refused(opened)).code == "store_busy"
        server.command("SCRIPT", "KILL")
        await hog
        await opened.append("t", b"2")


@in_loop
async def test_a_replica_without_its_primary_is_told_as_such(make_valkey: MakeValkey) -> None:
    server = make_valkey(settings={"replica-serve-stale-data": "no"}).start()
    async with open_store(server.socket_path) as opened:
        await opened.append("t", b"1")
        server.command("REPLICAOF", "127.0.0.1", "1")
        assert (await _refused(opened)).code == "store_read_only"
        assert await code_of(opened.store.position("t")) == "store_primary_down"
        server.command("REPLICAOF", "NO", "ONE")
        await opened.append("t", b"2")


@in_loop
async def test_a_cluster_with_a_part_down_is_told_as_such(make_valkey: MakeValkey) -> None:
    server = make_valkey(settings={"cluster-enabled": "yes"}, tcp=True).start()
    async with open_store("", valkey={"host": server.host, "port": server.port}) as opened:
        assert (await _refused(opened)).code == "store_cluster_down"


@in_loop
async def test_a_user_without_the_right_to_append_is_told_as_such(make_valkey: MakeValkey) -> None:
    server = make_valkey().start()
    async with open_store(server.socket_path) as opened:
        await opened.append("t", b"1")
        server.command("ACL", "SETUSER", "default", "-xadd")
        assert (await _refused(opened)).code == "store_denied"
        server.command("ACL", "SETUSER", "default", "+@all")
        await opened.append("t", b"2")


@in_loop
async def test_a_server_without_room_for_a_connection_is_told_as_such(make_valkey: MakeValkey) -> None:
    server = make_valkey(settings={"maxclients": "1"}).start()
    async with open_store(server.socket_path) as opened:
        with server.client() as occupant:
            occupant.ping()
            assert (await _refused(opened)).code == "store_crowded"
        await until_code(lambda: opened.append("t", b"1"), None, 1.0)


def _persistence(server: RealValkey) -> dict[str, object]:
    with server.client() as client:
        return dict(client.info("persistence"))


def _hog(server: RealValkey) -> None:
    with pytest.raises(valkey_client.ResponseError, match="killed"):
        server.command("EVAL", "while true do end", 0)


@in_loop
async def test_a_loading_server_is_told_as_such_and_waited_for_if_it_was_away_before(
    make_valkey: MakeValkey,
) -> None:
    server = make_valkey(settings={"aof-use-rdb-preamble": "yes"}).start()
    async with open_store(server.socket_path, publish_deadline_seconds=30.0) as opened:
        await opened.append("t", *[b"1"] * 1000)
        server.command("DEBUG", "POPULATE", 20_000)
        server.command("BGREWRITEAOF")
        await until(lambda: _persistence(server)["aof_rewrite_in_progress"] == 0)
        server.stop()
        waiting = asyncio.create_task(opened.append("t", b"2"))
        server.settings |= {"key-load-delay": "50", "loading-process-events-interval-bytes": "1024"}
        server.start(wait=False)
        await until_code(lambda: opened.store.probe(opened.client), "store_loading")
        async with open_store(server.socket_path) as newcomer:
            assert (await _refused(newcomer)).code == "store_loading"
        assert not waiting.done()
        assert (await waiting).messages[0].id.number == 1001


# A server that is away


@in_loop
async def test_a_publish_waits_for_a_server_that_comes_back_within_the_deadline(
    make_valkey: MakeValkey,
) -> None:
    server = make_valkey().start()
    async with open_store(server.socket_path) as opened:
        await opened.append("t", b"1")
        server.kill()
        waiting = asyncio.create_task(opened.append("t", b"2"))
        first_on_its_topic = asyncio.create_task(opened.append("new", b"1"))
        await asyncio.sleep(0)
        server.start()
        assert (await waiting).messages[0].id.number == 2
        assert (await first_on_its_topic).messages[0].id.number == 1
        assert await opened.store.topics("", 10) == ["new", "t"]
        assert_contiguous(await opened.all_messages("t"))


@in_loop
async def test_where_nobody_listens_nothing_was_stored_and_that_is_known(make_valkey: MakeValkey) -> None:
    server = make_valkey()
    async with open_store(server.socket_path, publish_deadline_seconds=0.3) as opened:
        begun = time.monotonic()
        with pytest.raises(StoreError) as caught:
            await opened.append("t", b"1")
        assert 0.1 < time.monotonic() - begun < 0.3 + 5 * PROMPT_SECONDS
        assert caught.value.code == "store_unavailable"
        assert not caught.value.is_outcome_unknown


@in_loop
async def test_a_paused_server_stores_what_it_was_sent_at_most_once(make_valkey: MakeValkey) -> None:
    server = make_valkey().start()
    quick = {"command_timeout_seconds": 0.1}
    async with open_store(server.socket_path, valkey=quick, publish_deadline_seconds=0.6) as opened:
        await opened.append("t", b"0")
        for n in range(1, 4):
            server.pause()
            with pytest.raises(StoreError) as caught:
                await opened.append("t", b"%d" % n)
            assert caught.value.is_outcome_unknown
            server.resume()
            # What was sent to it while it slept is carried out now, from several connections in any order.
            await opened.append("t", b"after")
        stored = [m.payload for m in await opened.all_messages("t")]
        for n in range(1, 4):
            assert stored.count(b"%d" % n) <= 1
        assert stored.count(b"after") == 3
        assert_contiguous(await opened.all_messages("t"))


@in_loop
async def test_kills_of_the_server_lose_and_double_nothing_that_was_acknowledged(
    make_valkey: MakeValkey,
) -> None:
    server = make_valkey().start()
    patient = {"publish_deadline_seconds": 60.0}
    async with (
        open_store(server.socket_path, **patient) as one,
        open_store(server.socket_path, **patient) as other,
    ):
        is_over = asyncio.Event()

        async def publish_all(opened: OpenStore, mark: bytes) -> dict[str, bytes]:
            acknowledged, floor, n = {}, BEGINNING, 0
            while not is_over.is_set():
                payloads = [b"%b%d.%d" % (mark, n, part) for part in range(n % 3 + 1)]
                appended = await opened.append("t", *payloads, floor=floor)
                floor = appended.messages[-1].id
                acknowledged.update({m.id_text: m.payload for m in appended.messages})
                n += 1
            return acknowledged

        publishing = [
            asyncio.create_task(publish_all(one, b"a")),
            asyncio.create_task(publish_all(other, b"b")),
        ]
        for _ in range(5):
            before = int(str(server.command("XLEN", schema.stream("t"))))
            await until(
                lambda count=before + 50: int(str(server.command("XLEN", schema.stream("t")))) > count
            )
            server.kill()
            server.start()
        is_over.set()
        first, second = await asyncio.gather(*publishing)
        stored = await one.all_messages("t")
    assert {m.id_text: m.payload for m in stored} == first | second
    assert len({m.payload for m in stored}) == len(stored)
    assert_contiguous(stored)


@in_loop
async def test_a_server_that_forgot_its_scripts_is_taught_them_again(make_valkey: MakeValkey) -> None:
    server = make_valkey().start()
    async with open_store(server.socket_path) as opened:
        await opened.append("t", b"1")
        server.command("SCRIPT", "FLUSH")
        topics = [f"t{n}" for n in range(50)]
        appended = await asyncio.gather(*[opened.append(topic, b"1") for topic in topics])
        assert all(one.messages[0].id.number == 1 for one in appended)
        server.stop()
        server.start()
        assert (await opened.append("t", b"2")).messages[0].id.number == 2


# Callers


@in_loop
async def test_a_caller_that_gives_up_harms_nobody_else(where: Where) -> None:
    async with open_store(where) as opened:
        await opened.append("t0", b"0")
        for turn in range(20):
            tasks = [asyncio.create_task(opened.append(f"t{n}", b"%d" % n)) for n in range(20)]
            for _ in range(turn % 7):
                await asyncio.sleep(0)
            for task in tasks[::3]:
                task.cancel()
            for n, task in enumerate(tasks):
                if n % 3:
                    assert (await task).messages[0].payload == b"%d" % n
                    assert (await task).messages[0].topic == f"t{n}"
        for n in range(1, 20, 3):
            assert {m.payload for m in await opened.all_messages(f"t{n}")} == {b"%d" % n}


@in_loop
async def test_appends_of_many_topics_that_start_together_share_one_write(valkey: str) -> None:
    async with Proxy(valkey) as proxy, open_store(proxy) as opened:
        topics = [f"t{n}" for n in range(50)]
        await asyncio.gather(*[opened.append(topic, b"1") for topic in topics])
        before = proxy.request_chunks
        await asyncio.gather(*[opened.append(topic, b"1") for topic in topics])
        assert proxy.request_chunks - before <= 3
        assert proxy.connections == 1


# The index of topics


@in_loop
async def test_a_topic_is_listed_with_its_first_message_and_again_after_it_was_deleted(
    where: Where, admin: valkey_client.Valkey
) -> None:
    async with open_store(where) as opened:
        await opened.append("b", b"1")
        await opened.append("a", b"1")
        assert await opened.store.topics("", 10) == ["a", "b"]
        await opened.store.delete("a")
        assert await opened.store.topics("", 10) == ["b"]
        await opened.append("a", b"2")
        assert await opened.store.topics("", 10) == ["a", "b"]


@in_loop
async def test_a_topic_whose_keys_somebody_deleted_is_listed_again_with_its_next_message(
    valkey: str, admin: valkey_client.Valkey
) -> None:
    async with open_store(valkey) as opened:
        appended = await opened.append("t", b"1")
        for key in list(admin.scan_iter()):
            admin.delete(key)
        await opened.append("t", b"2", floor=appended.messages[0].id)
        assert await opened.store.topics("", 10) == ["t"]


@in_loop
async def test_a_broken_index_costs_no_append(where: Where, admin: valkey_client.Valkey) -> None:
    admin.set(schema.TOPICS, "somebody's")
    async with open_store(where) as opened:
        await opened.append("t", b"1")
        admin.delete(schema.TOPICS)
        await opened.append("t", b"2")
        assert await opened.store.topics("", 10) == ["t"]


@in_loop
async def test_an_answer_that_repeats_an_earlier_one_is_a_write_and_waits_for_its_sync(
    make_valkey: MakeValkey,
) -> None:
    server = make_valkey().start()

    def log_bytes() -> int:
        with server.client() as client:
            size: int = client.info("persistence")["aof_current_size"]
            return size

    async with open_store(server.socket_path) as one, open_store(server.socket_path) as other:
        first = await one.append("t", b"1", key="k")
        await other.append("t", b"2")
        before = log_bytes()
        again = await other.append("t", b"1", key="k")
        assert again.outcomes == [((first.messages[0].id_text,), True)]
        assert log_bytes() > before
