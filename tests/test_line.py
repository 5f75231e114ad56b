from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from actors.ports import StoreError
from pulsar_relay.settings import ValkeySettings
from pulsar_relay.store.line import Line, Lines
from pulsar_relay.store.link import Endpoint
from tests.proxies import Proxy
from tests.stores import code_of, in_loop, until, until_code
from tests.valkeys import TIMEOUT_SCALE, RealValkey

MakeValkey = Callable[..., RealValkey]


def _endpoint(where: str | Proxy, timeout_seconds: float = 2.0) -> Endpoint:
    settings = replace(ValkeySettings(), command_timeout_seconds=timeout_seconds)
    if isinstance(where, Proxy):
        return Endpoint.of(replace(settings, host=where.host, port=where.port))
    return Endpoint.of(settings, where)


@asynccontextmanager
async def _line(where: str | Proxy, timeout_seconds: float = 2.0) -> AsyncIterator[Line]:
    line = Line(_endpoint(where, timeout_seconds))
    try:
        yield line
    finally:
        await line.aclose()


@asynccontextmanager
async def _lines(where: str | Proxy, max_lines: int, timeout_seconds: float = 2.0) -> AsyncIterator[Lines]:
    lines = Lines(_endpoint(where, timeout_seconds), max_lines)
    try:
        yield lines
    finally:
        await lines.aclose()


@in_loop
async def test_each_caller_gets_the_answer_to_its_own_command(valkey: str) -> None:
    async with _line(valkey) as line:
        answers = await asyncio.gather(*[line.call("ECHO", f"{n}") for n in range(1000)])
        assert answers == [b"%d" % n for n in range(1000)]
        assert line.waiting == 0


@in_loop
async def test_commands_are_carried_out_in_the_order_of_the_calls(valkey: str) -> None:
    async with _line(valkey) as line:
        answers = [line.call("INCR", "n") for _ in range(500)]
        assert await asyncio.gather(*answers) == list(range(1, 501))


@in_loop
async def test_an_error_is_one_callers_own(valkey: str) -> None:
    async with _line(valkey) as line:
        before, wrong, after = line.call("SET", "s", "x"), line.call("RPUSH", "s", "y"), line.call("GET", "s")
        assert await code_of(wrong) == "store_damaged"
        assert await before == b"OK"
        assert await after == b"x"


@in_loop
async def test_a_command_given_up_before_it_was_sent_is_not_sent(valkey: str) -> None:
    async with _line(valkey) as line:
        given_up = line.call("INCR", "n")
        given_up.cancel()
        assert await line.call("GET", "n") is None


@in_loop
async def test_the_reply_to_a_command_given_up_answers_nobody_else(valkey: str) -> None:
    async with _line(valkey) as line:
        await line.call("PING")
        for turn in range(50):
            answers = [line.call("ECHO", f"{turn}.{n}") for n in range(10)]
            await asyncio.sleep(0)  # they are sent now
            for answer in answers[::2]:
                answer.cancel()
            for n in range(1, 10, 2):
                assert await answers[n] == b"%d.%d" % (turn, n)


@in_loop
async def test_where_nobody_listens_a_command_was_not_carried_out(make_valkey: MakeValkey) -> None:
    server = make_valkey()
    async with _line(server.socket_path) as line:
        with pytest.raises(StoreError) as caught:
            await line.call("PING")
        assert caught.value.code == "store_unavailable"
        assert not caught.value.is_outcome_unknown
        server.start()
        assert await line.call("PING") == b"PONG"


@in_loop
async def test_what_was_sent_before_the_connection_was_lost_has_an_unknown_outcome(
    make_valkey: MakeValkey,
) -> None:
    server = make_valkey().start()
    async with _line(server.socket_path) as line:
        await line.call("PING")
        server.pause()
        answers = [line.call("INCR", "n") for _ in range(3)]
        await asyncio.sleep(0)
        server.kill()
        for answer in answers:
            with pytest.raises(StoreError) as caught:
                await answer
            assert caught.value.code == "store_unavailable"
            assert caught.value.is_outcome_unknown
        server.start()
        assert await line.call("PING") == b"PONG"


@in_loop
async def test_a_connection_lost_while_idle_is_replaced_unnoticed(valkey: str) -> None:
    async with Proxy(valkey) as proxy, _line(proxy) as line:
        for n in range(1, 6):
            assert await line.call("PING") == b"PONG"
            assert proxy.connections == n
            proxy.reset()
            await until(lambda: line._link is None)


@in_loop
async def test_a_silent_connection_is_given_up_in_time_and_replaced(valkey: str) -> None:
    async with Proxy(valkey) as proxy, _line(proxy, 0.2) as line:
        await line.call("PING")
        proxy.is_black_hole = True
        begun = time.monotonic()
        with pytest.raises(StoreError) as caught:
            await line.call("PING")
        assert 0.19 < time.monotonic() - begun < 0.4 * TIMEOUT_SCALE
        assert caught.value.is_outcome_unknown
        proxy.is_black_hole = False
        assert await line.call("PING") == b"PONG"
        assert proxy.connections == 2


@in_loop
async def test_a_late_reply_of_a_connection_given_up_answers_nobody(make_valkey: MakeValkey) -> None:
    server = make_valkey().start()
    async with _line(server.socket_path, 0.1) as line:
        await line.call("PING")
        server.pause()
        assert await code_of(line.call("ECHO", "late")) == "store_unavailable"
        waiting = line.call("ECHO", "next")
        server.resume()
        assert await waiting == b"next"
        assert await line.call("ECHO", "last") == b"last"


@in_loop
async def test_a_large_command_on_a_slow_network_is_waited_for_while_it_moves(valkey: str) -> None:
    async with Proxy(valkey) as proxy, _line(proxy, 0.6) as line:
        await line.call("PING")
        proxy.bytes_a_second = 15_000_000
        size = 24 * 1024 * 1024
        begun = time.monotonic()
        assert await line.call("SET", "large", b"x" * size) == b"OK"
        assert time.monotonic() - begun > 1.0, "too quick to show anything"
        proxy.bytes_a_second = None
        assert await line.call("STRLEN", "large") == size


@in_loop
async def test_a_server_without_room_for_another_client_has_carried_out_nothing(
    make_valkey: MakeValkey,
) -> None:
    server = make_valkey(settings={"maxclients": "1"}).start()
    with server.client() as occupant:
        occupant.ping()
        async with _line(server.socket_path) as line:
            with pytest.raises(StoreError) as caught:
                await line.call("PING")
            assert caught.value.code == "store_crowded"
            assert not caught.value.is_outcome_unknown
            occupant.close()
            await until_code(lambda: line.call("PING"), None)


@in_loop
async def test_who_met_a_replica_looks_for_the_primary_again(make_valkey: MakeValkey) -> None:
    primary, deposed = make_valkey().start(), make_valkey().start()
    async with Proxy(deposed.socket_path) as proxy, _line(proxy) as line:
        assert await line.call("SET", "x", 1) == b"OK"
        deposed.command("REPLICAOF", "127.0.0.1", 1)
        answers = [line.call("SET", "x", 2), line.call("GET", "x"), line.call("SET", "x", 3)]
        await asyncio.sleep(0)
        late = line.call("GET", "x")
        codes = [await code_of(answer) for answer in answers]
        assert codes == ["store_read_only", None, "store_read_only"]
        assert await late in (b"1", None)
        proxy.socket_path = primary.socket_path
        await until_code(lambda: line.call("SET", "x", 4), None)
        assert primary.command("GET", "x") == b"4"


@in_loop
async def test_closing_answers_everybody_and_connects_no_more(make_valkey: MakeValkey) -> None:
    server = make_valkey().start()
    async with _line(server.socket_path) as line:
        await line.call("PING")
        server.pause()
        sent = line.call("PING")
        await asyncio.sleep(0)
        queued = line.call("PING")
        await line.aclose()
        assert await code_of(sent) == await code_of(queued) == "store_unavailable"
        server.resume()
        assert await code_of(line.call("PING")) == "store_unavailable"


@in_loop
async def test_closing_while_connecting_answers_everybody(valkey: str) -> None:
    async with _line(valkey) as line:
        queued = line.call("PING")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await line.aclose()
        assert await code_of(queued) == "store_unavailable"


@in_loop
async def test_many_callers_of_a_server_that_is_away_make_few_attempts_to_connect(valkey: str) -> None:
    async with Proxy(valkey + ".nowhere") as proxy, _line(proxy) as line:
        deadline = time.monotonic() + 0.5
        tried = 0
        while time.monotonic() < deadline:
            await asyncio.gather(*[code_of(line.call("PING")) for _ in range(20)])
            tried += 20
        # Each attempt that fails takes a second connection, to hear whether there is no room.
        assert tried > proxy.connections * 5
        assert proxy.connections <= 2 * 12


@in_loop
async def test_an_answer_nobody_asked_for_does_not_shift_the_others(valkey: str) -> None:
    async with _line(valkey) as line:
        await line.call("PING")
        link = line._link
        assert link is not None
        link.write([b"*1\r\n$4\r\nPING\r\n"])
        await until(lambda: line._link is None)
        assert await line.call("ECHO", "x") == b"x"


# Lines


@in_loop
async def test_a_large_answer_delays_no_other(valkey: str) -> None:
    async with Proxy(valkey) as proxy, _lines(proxy, 2) as lines, _line(proxy) as line:
        await line.call("SET", "large", b"x" * 1000)
        await asyncio.gather(lines.call("PING"), lines.call("PING"))
        assert proxy.connections == 3
        slow = asyncio.create_task(lines.call("BLPOP", "never", 1))
        await asyncio.sleep(0)
        assert await lines.call("STRLEN", "large") == 1000
        assert not slow.done()
        slow.cancel()


@in_loop
async def test_who_finds_all_lines_in_use_waits_for_its_turn(valkey: str) -> None:
    async with Proxy(valkey) as proxy, _lines(proxy, 3) as lines:
        answers = await asyncio.gather(*[lines.call("ECHO", f"{n}") for n in range(200)])
        assert answers == [b"%d" % n for n in range(200)]
        assert proxy.connections == 3


@in_loop
async def test_who_waits_for_a_line_in_vain_is_told_that_there_is_too_much_to_do(
    make_valkey: MakeValkey,
) -> None:
    server = make_valkey().start()
    async with _lines(server.socket_path, 1, 0.2) as lines:
        await lines.call("PING")
        server.pause()
        stuck = asyncio.create_task(lines.call("PING"))
        await asyncio.sleep(0)
        assert await code_of(lines.call("PING")) == "overloaded"
        assert await code_of(stuck) == "store_unavailable"
        server.resume()
        assert await lines.call("PING") == b"PONG"


@in_loop
async def test_callers_that_give_up_lose_no_line(valkey: str) -> None:
    async with _lines(valkey, 2) as lines:
        for turn in range(200):
            tasks = [asyncio.create_task(lines.call("ECHO", f"{turn}.{n}")) for n in range(8)]
            for _ in range(turn % 5):
                await asyncio.sleep(0)
            for task in tasks[turn % 3 :: 2]:
                task.cancel()
            for n, task in enumerate(tasks):
                if not task.cancelled() and not task.cancelling():
                    assert await task == b"%d.%d" % (turn, n)
        await asyncio.gather(*tasks, return_exceptions=True)
        await until(lambda: len(lines._idle) == 2)


@in_loop
async def test_several_commands_reach_the_server_with_nothing_in_between(valkey: str) -> None:
    async with _lines(valkey, 1) as lines:

        async def transaction(n: int) -> list[object]:
            *_, done = await lines.call_all(("MULTI",), ("SET", "x", n), ("GET", "x"), ("EXEC",))
            return list(done)

        assert await asyncio.gather(*[transaction(n) for n in range(50)]) == [
            [b"OK", b"%d" % n] for n in range(50)
        ]
