"""Appends that replicas have to confirm, over real primaries and replicas."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from actors.ports import StoreError
from pulsar_relay.settings import ValkeySettings
from pulsar_relay.store.link import Endpoint
from pulsar_relay.store.replicated_line import ReplicatedLine
from tests.stores import PROMPT_SECONDS, OpenStore, code_of, in_loop, open_store, until
from tests.valkeys import TIMEOUT_SCALE, RealValkey

MakeValkey = Callable[..., RealValkey]
COMMAND_SECONDS = 1.6 * TIMEOUT_SCALE
COMMAND_TIMEOUT = {"command_timeout_seconds": COMMAND_SECONDS}
"""A WAIT takes a quarter of it."""


@pytest.fixture
def make_replicas(make_valkey: MakeValkey) -> Callable[[int], list[RealValkey]]:
    """A primary and so many replicas of it, all started."""

    def make(count: int) -> list[RealValkey]:
        quick = {"repl-diskless-sync-delay": "0", "repl-ping-replica-period": "1"}
        servers = [make_valkey(tcp=True, settings=quick).start() for _ in range(1 + count)]
        for replica in servers[1:]:
            replica.replicate(servers[0])
        return servers

    return make


@asynccontextmanager
async def _line(primary: RealValkey, replicas: int) -> AsyncIterator[ReplicatedLine]:
    settings = ValkeySettings(host=primary.host, port=primary.port, command_timeout_seconds=COMMAND_SECONDS)
    line = ReplicatedLine(Endpoint.of(settings), replicas)
    try:
        yield line
    finally:
        await line.aclose()


def _store(primary: RealValkey, **settings: Any) -> Any:
    where = {"host": primary.host, "port": primary.port, **COMMAND_TIMEOUT}
    return open_store("", valkey=where, replicas=1, **settings)


def _waits(server: RealValkey) -> int:
    """How many WAITs the server has carried out."""
    with server.client() as client:
        told = client.info("commandstats")
    return int(told.get("cmdstat_wait", {"calls": 0})["calls"])


async def _unconfirmed(line: ReplicatedLine, *words: str) -> None:
    with pytest.raises(StoreError) as caught:
        await line.call(*words)
    assert caught.value.code == "store_not_replicated"
    assert caught.value.is_outcome_unknown


async def _confirmed(line: ReplicatedLine, *words: str) -> object:
    """Repeat it until a replica that may not be awake yet has it."""
    while True:
        with suppress(StoreError):
            return await line.call(*words)


@in_loop
async def test_what_is_answered_is_on_the_replicas(make_replicas: Callable[[int], list[RealValkey]]) -> None:
    primary, *replicas = make_replicas(2)
    async with _line(primary, 2) as line:
        for number in range(50):
            assert await line.call("INCR", "n") == number + 1
            for replica in replicas:
                assert replica.command("GET", "n") == str(number + 1).encode()


@in_loop
async def test_all_that_leaves_in_one_write_shares_one_wait(
    make_replicas: Callable[[int], list[RealValkey]],
) -> None:
    primary, _ = make_replicas(1)
    async with _line(primary, 1) as line:
        await line.call("SET", "first", 1)
        before = _waits(primary)
        assert await asyncio.gather(*[line.call("INCR", "n") for _ in range(20)]) == list(range(1, 21))
        assert _waits(primary) == before + 1


@in_loop
async def test_a_replica_that_is_stuck_confirms_nothing_until_it_goes_on(
    make_replicas: Callable[[int], list[RealValkey]],
) -> None:
    primary, replica = make_replicas(1)
    async with _line(primary, 1) as line:
        assert await line.call("SET", "x", 1) == b"OK"
        replica.pause()
        await _unconfirmed(line, "SET", "x", "2")
        replica.resume()
        assert await _confirmed(line, "SET", "x", "3") == b"OK"
        assert replica.command("GET", "x") == b"3"


@in_loop
async def test_one_replica_of_two_is_too_few_where_two_are_wanted(
    make_replicas: Callable[[int], list[RealValkey]],
) -> None:
    primary, replica, other = make_replicas(2)
    async with _line(primary, 2) as both, _line(primary, 1) as one:
        other.kill()
        await _unconfirmed(both, "SET", "x", "1")
        assert await one.call("SET", "x", "2") == b"OK"
        assert replica.command("GET", "x") == b"2"


@in_loop
async def test_a_refusal_is_told_at_once_and_waits_for_no_replica(
    make_replicas: Callable[[int], list[RealValkey]],
) -> None:
    primary, replica = make_replicas(1)
    async with _line(primary, 1) as line:
        await line.call("SET", "x", 1)
        replica.pause()
        began = time.monotonic()
        with pytest.raises(StoreError) as caught:
            await line.call("LPUSH", "x", 1)
        assert time.monotonic() - began < PROMPT_SECONDS
        assert (caught.value.code, caught.value.is_outcome_unknown) == ("store_damaged", False)
        replica.resume()


@in_loop
async def test_a_stuck_replica_leaves_no_tail_of_waits_behind(
    make_replicas: Callable[[int], list[RealValkey]],
) -> None:
    primary, replica = make_replicas(1)
    async with _line(primary, 1) as line:
        await line.call("SET", "x", 1)
        replica.pause()
        calls = []
        for number in range(100):
            calls.append(line.call("SET", f"y{number}", 1))
            await asyncio.sleep(0)
        codes = {await code_of(call) for call in calls}
        assert codes == {"store_not_replicated"}
        replica.resume()
        await until(lambda: primary.online_replicas == 1)
        began = time.monotonic()
        while await code_of(line.call("SET", "x", 2)):
            assert time.monotonic() - began < 2 * TIMEOUT_SCALE
        assert _waits(primary) < 10


@in_loop
async def test_a_connection_lost_before_the_wait_is_answered_leaves_the_outcome_unknown(
    make_replicas: Callable[[int], list[RealValkey]],
) -> None:
    primary, replica = make_replicas(1)
    async with _line(primary, 1) as line:
        await line.call("SET", "x", 1)
        replica.pause()
        waiting = line.call("SET", "x", 2)
        await until(lambda: line._held)
        primary.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        with pytest.raises(StoreError) as caught:
            await waiting
        assert (caught.value.code, caught.value.is_outcome_unknown) == ("store_unavailable", True)
        replica.resume()
        assert await line.call("SET", "x", 3) == b"OK"


@in_loop
async def test_a_call_given_up_before_it_was_sent_is_not_sent(
    make_replicas: Callable[[int], list[RealValkey]],
) -> None:
    primary, _ = make_replicas(1)
    async with _line(primary, 1) as line:
        first, given_up = line.call("SET", "x", 1), line.call("SET", "y", 1)
        given_up.cancel()
        assert await first == b"OK"
        alone = line.call("SET", "y", 1)
        alone.cancel()
        assert await line.call("GET", "x") == b"1"
        assert primary.command("EXISTS", "y") == 0


# What the store makes of it


async def _append(opened: OpenStore, payload: bytes, key: str | None = None) -> tuple[str, ...]:
    outcome = (await opened.append("t", payload, key=key)).outcomes[0]
    assert outcome is not None
    return outcome[0]


@in_loop
async def test_an_append_that_replicas_confirm_late_is_stored_once_and_acknowledged(
    make_replicas: Callable[[int], list[RealValkey]],
) -> None:
    primary, replica = make_replicas(1)
    async with _store(primary, publish_deadline_seconds=20.0) as opened:
        await _append(opened, b"1")
        replica.pause()
        before = _waits(primary)
        waiting = asyncio.ensure_future(_append(opened, b"2"))
        await until(lambda: _waits(primary) > before + 2)
        assert not waiting.done()
        replica.resume()
        ids = await waiting
        assert [message.id_text for message in await opened.all_messages("t")][1:] == list(ids)
        assert replica.command("XLEN", "topic:t:stream") == 2


@in_loop
async def test_a_repetition_on_another_connection_is_not_taken_for_confirmed(
    make_replicas: Callable[[int], list[RealValkey]],
) -> None:
    primary, replica = make_replicas(1)
    async with _store(primary, publish_deadline_seconds=1.5) as opened:
        await _append(opened, b"1")
        replica.pause()
        waiting = asyncio.ensure_future(_append(opened, b"2"))
        while not waiting.done():
            # Each attempt finds the batch recorded by the first, on a connection that has written nothing.
            primary.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await asyncio.wait([waiting], timeout=0.15)
        with pytest.raises(StoreError) as caught:
            waiting.result()
        assert caught.value.is_outcome_unknown
        replica.resume()
        assert primary.command("XLEN", "topic:t:stream") == 2


@in_loop
async def test_a_key_that_is_known_is_acknowledged_only_once_the_first_attempt_is_on_the_replica(
    make_replicas: Callable[[int], list[RealValkey]],
) -> None:
    primary, replica = make_replicas(1)
    async with (
        _store(primary, publish_deadline_seconds=1.0) as first,
        _store(primary, publish_deadline_seconds=1.0) as second,
    ):
        replica.pause()
        assert await code_of(_append(first, b"1", key="k")) == "store_not_replicated"
        assert await code_of(_append(second, b"1", key="k")) == "store_not_replicated"
        replica.resume()
        deadline = time.monotonic() + 5 * TIMEOUT_SCALE
        while await code_of(_append(second, b"1", key="k")):
            assert time.monotonic() < deadline
        assert replica.command("XLEN", "topic:t:stream") == 1


@in_loop
async def test_a_primary_killed_after_the_acknowledgements_loses_none_of_them(
    make_replicas: Callable[[int], list[RealValkey]],
) -> None:
    primary, replica = make_replicas(1)
    acknowledged: list[str] = []

    async def publish(opened: OpenStore, topic: str) -> None:
        while True:
            outcome = (await opened.append(topic, b"1")).outcomes[0]
            assert outcome is not None
            acknowledged.extend(outcome[0])

    async with _store(primary, publish_deadline_seconds=0.2) as opened:
        publishers = [asyncio.create_task(publish(opened, f"t{number}")) for number in range(8)]
        await until(lambda: len(acknowledged) > 500)
        primary.kill()
        for ended in await asyncio.gather(*publishers, return_exceptions=True):
            assert isinstance(ended, StoreError)
    replica.command("REPLICAOF", "NO", "ONE")
    stored = set()
    for number in range(8):
        entries = replica.command("XRANGE", f"topic:t{number}:stream", "-", "+")
        assert isinstance(entries, list)
        stored |= {entry[0].decode() for entry in entries}
    assert len(acknowledged) > 500
    assert set(acknowledged) <= stored
