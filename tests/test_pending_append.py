from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable

import pytest

from actors.ports import Dedupe, Draft, Publish, StoreError
from actors.stream import BEGINNING, MessageId
from pulsar_relay.store.pending_append import Deadlines, PendingAppend, appended_by
from tests.proxies import Proxy
from tests.stores import in_loop, open_store, publish, until
from tests.valkeys import RealValkey

MakeValkey = Callable[..., RealValkey]


def test_the_new_messages_of_a_batch_are_told_apart_from_those_that_are_known() -> None:
    dedupe = Dedupe("s:k", "digest")
    publishes = [
        Publish("t", (Draft(b"1"), Draft(b"2"))),
        Publish("t", (Draft(b"old"), Draft(b"older")), dedupe),
        Publish("t", (Draft(b"3", b"{}", 5),)),
        Publish("t", (Draft(b"other"),), dedupe),
    ]
    reply = [b"7-6", b"e", b"9", b"7", b"", b"5-2 2", b"", b"!"]
    appended = appended_by("t", publishes, reply)
    assert [(m.id_text, m.prev, m.payload) for m in appended.messages] == [
        ("9-7", MessageId.of(7, 6), b"1"),
        ("9-8", MessageId.of(9, 7), b"2"),
        ("9-9", MessageId.of(9, 8), b"3"),
    ]
    assert [m.id for m in appended.messages] == [MessageId.of(9, n) for n in (7, 8, 9)]
    assert {type(m.id) for m in appended.messages} == {MessageId}
    assert appended.messages[2].expires_at_ms == 5
    assert appended.outcomes == [
        (("9-7", "9-8"), False),
        (("5-2", "5-3"), True),
        (("9-9",), False),
        None,
    ]


@in_loop
async def test_an_answer_that_cannot_be_read_fails_the_append_and_not_the_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    append = PendingAppend("t", [publish("t", b"1")], (), "e", lambda *_: None, lambda *_: None)
    with caplog.at_level(logging.CRITICAL):
        append.set_result([b"nonsense"])
    with pytest.raises(StoreError) as caught:
        await append
    assert (caught.value.code, caught.value.is_outcome_unknown) == ("store_error", True)


@in_loop
async def test_one_timer_ends_all_that_are_not_answered_in_time_and_those_only() -> None:
    deadlines, answered, late, given_up, soon = Deadlines(), *[_append() for _ in range(4)]
    deadlines.add(late, 3600)
    for append in (answered, given_up, soon):
        deadlines.add(append, 0.02)
    deadlines.discard(answered)
    given_up.cancel()
    with pytest.raises(StoreError) as caught:
        await soon
    assert (caught.value.code, caught.value.is_outcome_unknown) == ("store_unavailable", True)
    assert not answered.done() and not late.done()
    assert list(deadlines._waiting) == [late]


def _append() -> PendingAppend:
    return PendingAppend("t", [], (), "e", lambda *_: None, lambda *_: None)


@in_loop
async def test_an_append_that_is_answered_at_the_first_attempt_has_no_task(valkey: str) -> None:
    async with open_store(valkey) as opened:
        await opened.append("t", b"0")
        before = asyncio.all_tasks()
        append = opened.store.append("t", [publish("t", b"1")], BEGINNING)
        while not append.done():
            assert asyncio.all_tasks() == before
            await asyncio.sleep(0)
        assert append.result().messages[0].payload == b"1"


@in_loop
async def test_an_append_given_up_while_it_is_repeated_is_repeated_no_more(make_valkey: MakeValkey) -> None:
    server = make_valkey()
    async with open_store(server.socket_path) as opened:
        before = asyncio.all_tasks()
        append = opened.store.append("t", [publish("t", b"1")], BEGINNING)
        await until(lambda: _repeating() - before)
        append.cancel()
        await until(lambda: not _repeating() - before)
        server.start()
        await until(lambda: opened.client.line.waiting == 0)
        with pytest.raises(asyncio.CancelledError):
            await append
        assert (await opened.append("t", b"2")).messages[0].id.number == 1


def _repeating() -> set[asyncio.Task[object]]:
    return {task for task in asyncio.all_tasks() if "_repeated" in repr(task.get_coro())}


@in_loop
async def test_an_append_nobody_holds_is_neither_lost_nor_repeated_twice(valkey: str) -> None:
    async with Proxy(valkey) as proxy, open_store(proxy) as opened:
        await opened.append("t", b"0")
        proxy.replies_to_lose = 1
        opened.store.append("t", [publish("t", b"1")], BEGINNING)
        await until(lambda: not proxy.replies_to_lose)
        gc.collect()
        await until(lambda: not _repeating())
        assert [m.payload for m in await opened.all_messages("t")] == [b"0", b"1"]
