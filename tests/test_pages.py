from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise

import pytest
import valkey as valkey_client
from hypothesis import given
from hypothesis import strategies as st

from actors.ports import Draft, Publish, StreamPage
from actors.stream import BEGINNING, MessageId
from pulsar_relay.store import schema
from tests.stores import OpenStore, Where, in_loop, open_store, publish
from tests.valkeys import RealValkey

MakeValkey = Callable[..., RealValkey]
LAST_OF_ALL = MessageId.of(2**64 - 1, 2**64 - 1)
PAGE_BYTES = 100_000


async def _fill(opened: OpenStore, sizes: list[int], topic: str = "t") -> list[MessageId]:
    """One message of each size; returns their ids."""
    ids: list[MessageId] = []
    for start in range(0, len(sizes), 100):
        batch = [publish(topic, b"x" * size) for size in sizes[start : start + 100]]
        ids += [m.id for m in (await opened.store.append(topic, batch, BEGINNING)).messages]
    return ids


def _sizes(count: int, seed: int) -> list[int]:
    """Sizes that make estimating hopeless: mostly small ones, and some larger than a page."""
    random_ = random.Random(seed)
    return [random_.choice([1, 10, 200, 200, 200, 5000, 60_000, 3 * PAGE_BYTES]) for _ in range(count)]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("max_messages", [1, 7, 500])
@in_loop
async def test_pages_of_mixed_sizes_keep_both_bounds_and_skip_and_double_nothing(
    where: Where, seed: int, max_messages: int
) -> None:
    sizes = _sizes(120, seed)
    async with open_store(where) as opened:
        ids = await _fill(opened, sizes)
        for descends in (False, True):
            seen: list[MessageId] = []
            cursor = None
            while True:
                page = await opened.store.history("t", cursor, max_messages, PAGE_BYTES, descends=descends)
                assert 1 <= len(page.messages) <= max_messages
                used = sum(len(m.payload) for m in page.messages)
                assert used <= PAGE_BYTES or len(page.messages) == 1
                seen += [m.id for m in page.messages]
                cursor = seen[-1]
                if not page.has_more:
                    break
                following = sizes[len(seen)] if not descends else sizes[-len(seen) - 1]
                is_full = len(page.messages) == max_messages
                assert is_full or used + following + 100 > PAGE_BYTES, "there was room for more"
            assert seen == (ids[::-1] if descends else ids)


@in_loop
async def test_small_messages_are_read_in_full_pages_also_without_the_script(where: Where) -> None:
    async with open_store(where) as opened:
        ids = await _fill(opened, [100] * 2000)
        cursor, pages = BEGINNING, []
        while True:
            pages.append(await opened.store.read("t", cursor, 500, 1_000_000))
            cursor = pages[-1].batch.last
            if not pages[-1].has_more:
                break
        assert [len(page.batch) for page in pages] == [500] * 4
        assert [m.id for page in pages for m in page.batch.messages] == ids
        for page, following in pairwise(pages):
            assert following.first_prev == page.batch.last
            assert following.knows_cursor
        assert {page.oldest_prev for page in pages} == {BEGINNING}
        assert {page.position for page in pages} == {await opened.store.position("t")}


@in_loop
async def test_a_page_without_the_script_ends_where_large_messages_begin(
    valkey: str, admin: valkey_client.Valkey
) -> None:
    async with open_store(valkey) as opened, open_store(valkey) as other:
        ids = await _fill(opened, [100] * 300)
        await opened.store.read("t", BEGINNING, 200, PAGE_BYTES)  # now it knows how large messages are
        ids += await _fill(other, [50, 3 * PAGE_BYTES, 50])
        admin.config_resetstat()
        second = await opened.store.read("t", ids[199], 200, PAGE_BYTES)
        assert [m.id for m in second.batch.messages] == ids[200:300]
        assert second.has_more
        third = await opened.store.read("t", ids[299], 200, PAGE_BYTES)
        assert [m.id for m in third.batch.messages] == ids[300:301]
        fourth = await opened.store.read("t", ids[300], 200, PAGE_BYTES)
        assert [m.id for m in fourth.batch.messages] == ids[301:302]
        last = await opened.store.read("t", ids[301], 200, PAGE_BYTES)
        assert [m.id for m in last.batch.messages] == ids[302:]
        assert not last.has_more


@in_loop
async def test_many_small_messages_behind_a_large_one_are_still_read_in_large_pages(where: Where) -> None:
    async with open_store(where) as opened:
        ids = await _fill(opened, [3 * PAGE_BYTES] + [100] * 600)
        page = await opened.store.read("t", ids[0], 500, PAGE_BYTES)
        assert [m.id for m in page.batch.messages] == ids[1:501]
        assert page.has_more


@in_loop
async def test_a_topic_made_anew_is_read_as_fast_as_a_new_one(
    valkey: str, admin: valkey_client.Valkey
) -> None:
    async with open_store(valkey) as opened:
        await _fill(opened, [5 * PAGE_BYTES])
        await opened.store.delete("t")
        await _fill(opened, [100] * 300)
        admin.delete(schema.stream("t"))
        ids = await _fill(opened, [100] * 300)
        await opened.store.read("t", BEGINNING, 100, PAGE_BYTES)
        admin.config_resetstat()
        page = await opened.store.read("t", ids[99], 100, PAGE_BYTES)
        assert [m.id for m in page.batch.messages] == ids[100:200]
        assert admin.info("commandstats")["cmdstat_xrange"]["calls"] <= 5, "entries were fetched one by one"


# Where the cursor stands: asked twice, since the second time XRANGE may answer without the script


async def _read_both_ways(opened: OpenStore, cursor: MessageId, count: int = 10) -> StreamPage:
    opened.store._pages._bounds.clear()
    by_script = await opened.store.read("t", cursor, count, PAGE_BYTES)
    by_range = await opened.store.read("t", cursor, count, PAGE_BYTES)
    for page in (by_script, by_range):
        assert page.batch.last == (page.batch.messages[-1].id if page.batch.messages else cursor)
    fields = ("position", "has_more", "first_id", "first_prev", "knows_cursor", "oldest_prev")
    assert [getattr(by_script, name) for name in fields] == [getattr(by_range, name) for name in fields]
    assert [m.id for m in by_script.batch.messages] == [m.id for m in by_range.batch.messages]
    return by_script


@in_loop
async def test_a_cursor_inside_the_stream_is_known_and_named_as_predecessor(where: Where) -> None:
    async with open_store(where) as opened:
        ids = await _fill(opened, [10] * 30)
        for index in range(29):
            page = await _read_both_ways(opened, ids[index])
            assert page.first_id == ids[index + 1]
            assert page.first_prev == ids[index]
            assert page.knows_cursor
            assert page.has_more == (index + 10 < 29)


@in_loop
async def test_at_the_end_there_is_nothing_and_the_cursor_is_known(where: Where) -> None:
    async with open_store(where) as opened:
        ids = await _fill(opened, [10] * 3)
        page = await _read_both_ways(opened, ids[-1])
        assert (page.first_id, page.first_prev, page.has_more) == (None, None, False)
        assert page.knows_cursor
        assert page.oldest_prev == BEGINNING


@pytest.mark.parametrize(
    "cursor",
    [LAST_OF_ALL, MessageId(LAST_OF_ALL - 1), MessageId.of(2**63, 0), BEGINNING, MessageId(1)],
    ids=str,
)
@in_loop
async def test_cursors_far_before_and_far_behind_everything_are_answered(
    where: Where, cursor: MessageId
) -> None:
    async with open_store(where) as opened:
        empty = await _read_both_ways(opened, cursor)
        assert (empty.first_id, empty.has_more, empty.knows_cursor, empty.oldest_prev) == (
            None,
            False,
            False,
            None,
        )
        assert empty.position.newest == BEGINNING
        assert empty.position.epoch == ""
        ids = await _fill(opened, [10] * 3)
        page = await _read_both_ways(opened, cursor)
        is_before = cursor < ids[0]
        assert [m.id for m in page.batch.messages] == (ids if is_before else [])
        assert not page.knows_cursor
        for descends in (False, True):
            history = await opened.store.history("t", cursor, 10, PAGE_BYTES, descends=descends)
            assert len(history.messages) == (3 if is_before != descends else 0)
            assert not history.has_more


@in_loop
async def test_a_trimmed_stream_tells_what_came_before_its_oldest(
    where: Where, admin: valkey_client.Valkey
) -> None:
    async with open_store(where) as opened:
        ids = await _fill(opened, [10] * 30)
        admin.execute_command("XTRIM", schema.stream("t"), "MINID", "=", str(ids[10]))
        for cursor, knows in ((BEGINNING, False), (ids[3], False), (ids[9], False), (ids[10], True)):
            page = await _read_both_ways(opened, cursor, 100)
            assert page.oldest_prev == ids[9]
            assert page.knows_cursor == knows
            assert page.first_id == (ids[11] if knows else ids[10])
            assert page.first_prev == (ids[10] if knows else ids[9])
            assert not page.has_more


@in_loop
async def test_deleted_entries_leave_a_hole_that_shows(where: Where, admin: valkey_client.Valkey) -> None:
    async with open_store(where) as opened:
        ids = await _fill(opened, [10] * 10)
        admin.xdel(schema.stream("t"), str(ids[4]), str(ids[5]), str(ids[9]))
        page = await _read_both_ways(opened, ids[3])
        assert (page.first_id, page.first_prev, page.knows_cursor) == (ids[6], ids[5], True)
        assert [m.id for m in page.batch.messages] == ids[6:9]
        page = await _read_both_ways(opened, ids[4])
        assert (page.first_id, page.first_prev, page.knows_cursor) == (ids[6], ids[5], False)
        page = await _read_both_ways(opened, ids[8])
        assert (page.first_id, page.has_more, page.position.newest) == (None, False, ids[9])


@in_loop
async def test_a_stream_emptied_by_hand_keeps_its_position(where: Where, admin: valkey_client.Valkey) -> None:
    async with open_store(where) as opened:
        ids = await _fill(opened, [10] * 10)
        epoch = (await opened.store.position("t")).epoch
        admin.xtrim(schema.stream("t"), maxlen=0, approximate=False)
        page = await _read_both_ways(opened, ids[2])
        assert (page.first_id, page.oldest_prev, page.knows_cursor) == (None, None, False)
        assert (page.position.newest, page.position.epoch) == (ids[-1], epoch)


@in_loop
async def test_entries_of_another_server_follow_the_cursor_only_if_it_is_an_entry(
    where: Where, admin: valkey_client.Valkey
) -> None:
    added = [
        MessageId.parse(admin.xadd(schema.stream("t"), {"payload": "1"}, id=f"{n}-0").decode())
        for n in range(5, 10)
    ]
    async with open_store(where) as opened:
        page = await _read_both_ways(opened, added[1])
        assert (page.first_prev, page.knows_cursor) == (added[1], True)
        page = await _read_both_ways(opened, MessageId(added[1] + 1))
        assert (page.first_prev, page.knows_cursor) == (BEGINNING, False)
        assert page.oldest_prev is not None
        assert page.oldest_prev < added[0]
        page = await _read_both_ways(opened, MessageId.of(2, 0))
        assert page.oldest_prev is not None
        assert MessageId.of(2, 0) < page.oldest_prev, "a cursor from before is seen to be trimmed"
        assert page.position.newest == added[-1]


@in_loop
async def test_an_entry_without_a_payload_is_passed_over_but_not_stumbled_over(
    where: Where, admin: valkey_client.Valkey
) -> None:
    async with open_store(where) as opened:
        ids = await _fill(opened, [10] * 2)
        strange = MessageId.parse(admin.xadd(schema.stream("t"), {"note": "x"}).decode())
        page = await opened.store.read("t", ids[0], 10, PAGE_BYTES)
        assert ([m.id for m in page.batch.messages], page.batch.last) == (ids[1:], strange)
        page = await opened.store.read("t", ids[1], 10, PAGE_BYTES)
        assert (list(page.batch.messages), page.batch.last, page.first_id) == ([], strange, strange)


@in_loop
async def test_messages_whose_time_has_passed_are_left_out_of_history(where: Where) -> None:
    async with open_store(where) as opened:
        drafts = (Draft(b"1"), Draft(b"2", None, 1), Draft(b"3", None, 4102444800000), Draft(b"4", None, 2))
        await opened.store.append("t", [Publish("t", drafts)], BEGINNING)
        for descends in (False, True):
            page = await opened.store.history("t", None, 10, PAGE_BYTES, descends=descends)
            assert [m.payload for m in page.messages] == ([b"3", b"1"] if descends else [b"1", b"3"])


@in_loop
async def test_a_server_that_forgot_its_scripts_answers_reads_of_both_kinds(
    valkey: str, admin: valkey_client.Valkey
) -> None:
    async with open_store(valkey) as opened:
        ids = await _fill(opened, [10] * 300)
        for _ in range(3):
            admin.script_flush()
            page = await opened.store.read("t", BEGINNING, 200, PAGE_BYTES)
            assert [m.id for m in page.batch.messages] == ids[:200]
        assert page.has_more


@in_loop
async def test_a_reader_in_the_middle_of_appends_trims_and_a_deletion_sees_no_lie(where: Where) -> None:
    async with open_store(where, persistent_tier_retention_seconds=0) as opened:
        random_ = random.Random(7)
        for _ in range(30):
            await _fill(opened, [random_.choice([10, 10, 10, 5000]) for _ in range(50)])
            position = await opened.store.position("t")
            cursor = BEGINNING
            while True:
                page = await opened.store.read("t", cursor, 60, 50_000)
                assert page.position == position
                if cursor:
                    assert page.first_prev == cursor
                cursor = page.batch.last
                if not page.has_more:
                    break
            assert cursor == position.newest
            if random_.random() < 0.3:
                await opened.store.trim("t", position.newest.milliseconds)
            if random_.random() < 0.2:
                await opened.store.delete("t")


@given(
    sizes=st.lists(st.sampled_from([1, 50, 800, 3000]), min_size=1, max_size=60),
    deleted=st.sets(st.integers(0, 59)),
    max_messages=st.integers(1, 70),
    max_bytes=st.integers(1, 20_000),
)
def test_any_stream_is_read_as_a_list_would_be(
    valkey_server: RealValkey, sizes: list[int], deleted: set[int], max_messages: int, max_bytes: int
) -> None:
    @in_loop
    async def read_all() -> None:
        valkey_server.command("FLUSHALL")
        async with open_store(valkey_server.socket_path) as opened:
            ids = await _fill(opened, sizes)
            gone = [str(ids[index]) for index in deleted if index < len(ids)]
            if gone:
                valkey_server.command("XDEL", schema.stream("t"), *gone)
            expected = [i for i in ids if str(i) not in gone]
            seen: list[MessageId] = []
            cursor, has_more = BEGINNING, True
            while has_more:
                page = await opened.store.read("t", cursor, max_messages, max_bytes)
                seen += [m.id for m in page.batch.messages]
                assert page.has_more == (len(seen) < len(expected))
                cursor, has_more = page.batch.last, page.has_more
            assert seen == expected

    read_all()
