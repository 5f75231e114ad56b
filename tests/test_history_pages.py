"""A topic's history, where messages among it have expired."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from actors.ports import Draft, Publish
from actors.stream import BEGINNING, MessageId
from pulsar_relay.store.history_pages import READ_MESSAGES, READS_AT_MOST
from tests.stores import OpenStore, Where, in_loop, open_store

EXPIRED_MS = 1
BYTES = 1 << 20


async def _publish(opened: OpenStore, lives: Sequence[bool], payload: bytes = b"x") -> list[MessageId]:
    """Messages of which some have expired; the ids of the others."""
    drafts = [Draft(payload, None, None if is_alive else EXPIRED_MS) for is_alive in lives]
    ids = []
    for start in range(0, len(drafts), 1000):
        publishes = [Publish("t", tuple(drafts[start : start + 1000]))]
        ids += [m.id for m in (await opened.store.append("t", publishes, BEGINNING)).messages]
    return [message_id for message_id, is_alive in zip(ids, lives, strict=True) if is_alive]


async def _pages(opened: OpenStore, limit: int, *, descends: bool) -> list[list[MessageId]]:
    pages: list[list[MessageId]] = []
    cursor = None
    while True:
        page = await opened.store.history("t", cursor, limit, BYTES, descends=descends)
        pages.append([message.id for message in page.messages])
        if not page.has_more:
            return pages
        assert page.end != cursor
        cursor = page.end


@pytest.mark.parametrize("behind", [0, 1, 9, 500, 5000])
@in_loop
async def test_the_newest_message_that_lives_is_found_behind_those_that_expired(
    where: Where, behind: int
) -> None:
    async with open_store(where) as opened:
        ids = await _publish(opened, [True, True] + [False] * behind)
        page = await opened.store.history("t", None, 1, BYTES, descends=True)
        assert [message.id for message in page.messages] == [ids[1]]
        assert page.has_more
        page = await opened.store.history("t", page.end, 1, BYTES, descends=True)
        assert [message.id for message in page.messages] == [ids[0]]


@pytest.mark.parametrize("limit", [1, 2, 3, 10, 1000])
@pytest.mark.parametrize("descends", [False, True])
@in_loop
async def test_pages_are_full_and_none_is_lost_or_doubled(
    where: Where, *, limit: int, descends: bool
) -> None:
    lives = [n % 7 in (0, 3) or 40 < n < 60 for n in range(150)]
    async with open_store(where) as opened:
        ids = await _publish(opened, lives)
        pages = await _pages(opened, limit, descends=descends)
        assert [i for page in pages for i in page] == (ids[::-1] if descends else ids)
        assert all(len(page) == limit for page in pages[:-1])


@pytest.mark.parametrize("descends", [False, True])
@in_loop
async def test_a_topic_whose_messages_have_all_expired_is_empty(where: Where, *, descends: bool) -> None:
    async with open_store(where) as opened:
        await _publish(opened, [False] * 50)
        page = await opened.store.history("t", None, 10, BYTES, descends=descends)
        assert (list(page.messages), page.has_more) == ([], False)


@in_loop
async def test_after_many_reads_a_page_is_given_as_it_is_and_leads_on(where: Where) -> None:
    async with open_store(where) as opened:
        ids = await _publish(opened, [True] + [False] * (READS_AT_MOST * READ_MESSAGES + 2000))
        page = await opened.store.history("t", None, 1, BYTES, descends=True)
        assert (list(page.messages), page.has_more) == ([], True)
        assert [i for page in await _pages(opened, 1, descends=True) for i in page] == ids


@in_loop
async def test_a_page_stays_within_its_bytes(where: Where) -> None:
    async with open_store(where) as opened:
        ids = await _publish(opened, [n % 2 == 0 for n in range(60)], b"x" * 100_000)
        page = await opened.store.history("t", None, 50, BYTES, descends=False)
        assert 3 <= len(page.messages) <= 11
        assert page.has_more
        assert [i for page in await _pages(opened, 50, descends=False) for i in page] == ids


@in_loop
async def test_what_was_published_since_the_last_look_is_on_the_page(valkey: str) -> None:
    async with open_store(valkey) as opened, open_store(valkey) as other:
        ids: list[MessageId] = []
        for count in (3, 1, 2):
            ids += await _publish(other, [True] * count)
            page = await opened.store.history("t", None, 10, BYTES, descends=False)
            assert ([message.id for message in page.messages], page.has_more) == (ids, False)


@pytest.mark.parametrize("descends", [False, True])
@in_loop
async def test_a_page_has_no_more_bytes_than_asked_for_but_one_message_at_least(
    valkey: str, *, descends: bool
) -> None:
    async with open_store(valkey) as opened:
        ids = await _publish(opened, [n % 5 != 0 for n in range(50)], b"x" * 300)
        for most_bytes in (1, 300, 1000, 3000):
            cursor = None
            found: list[MessageId] = []
            while True:
                page = await opened.store.history("t", cursor, 20, most_bytes, descends=descends)
                found += [message.id for message in page.messages]
                assert len(page.messages) == 1 or 300 * len(page.messages) <= most_bytes
                if not page.has_more:
                    break
                cursor = page.end
            assert found == (ids[::-1] if descends else ids)
