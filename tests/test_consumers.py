"""What is kept of clients with a name, in a real Valkey."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import valkey as valkey_client

from actors.stream import MessageId
from pulsar_relay.store import schema
from pulsar_relay.store.valkey import ValkeyStore
from tests.faults.proxy import FaultProxy
from tests.stores import Where, code_of, in_loop, open_store, until
from tests.valkeys import RealValkey


def at(milliseconds: int, number: int = 1) -> MessageId:
    return MessageId.of(milliseconds, number)


# Claims


@in_loop
async def test_a_later_claim_has_the_higher_generation_and_all_workers_hear_of_both(where: Where) -> None:
    async with open_store(where, starts_feed=True) as one, open_store(where, starts_feed=True) as two:
        first = await one.store.claim("c", 1, [], is_held=False)
        second = await two.store.claim("c", 1, [], is_held=False)
        assert first.generation < second.generation
        for opened in (one, two):
            await until(lambda opened=opened: len(opened.claims) == 2)  # type: ignore[misc]
            assert opened.claims == [("c", first.generation), ("c", second.generation)]
        assert await one.store.claims(["c", "never"]) == {"c": second.generation}


@in_loop
async def test_a_claim_after_a_release_deposes_nobody_and_is_not_announced(where: Where) -> None:
    async with open_store(where, starts_feed=True) as opened:
        first = await opened.store.claim("c", 1, [], is_held=False)
        await opened.store.release("c", 1, {})
        second = await opened.store.claim("c", 2, [], is_held=False)
        third = await opened.store.claim("c", 3, [], is_held=False)
        await until(lambda: len(opened.claims) == 2)
        assert first.generation < second.generation < third.generation
        assert opened.claims == [("c", first.generation), ("c", third.generation)]


@in_loop
async def test_a_claim_made_twice_by_one_connection_is_one(where: Where) -> None:
    async with open_store(where) as opened:
        first = await opened.store.claim("c", 1, [], is_held=False)
        assert (await opened.store.claim("c", 1, ["t"], is_held=False)).generation == first.generation
        assert (await opened.store.claim("c", 1, ["t"], is_held=True)).generation == first.generation


@in_loop
async def test_a_deposed_connection_does_not_get_the_name_back_by_asking_for_more(where: Where) -> None:
    async with open_store(where) as one, open_store(where) as two:
        await one.store.claim("c", 1, [], is_held=False)
        later = await two.store.claim("c", 1, [], is_held=False)
        assert await code_of(one.store.claim("c", 1, ["t"], is_held=True)) == "taken_over"
        # Nor when the later one has left.
        await two.store.release("c", 1, {})
        assert await code_of(one.store.claim("c", 1, ["t"], is_held=True)) == "taken_over"
        assert await one.store.claims(["c"]) == {"c": later.generation}


@in_loop
async def test_a_claim_that_was_long_on_its_way_deposes_nobody(
    valkey: str, make_proxy: Callable[..., FaultProxy]
) -> None:
    proxy = make_proxy(valkey)
    hasty = {"command_timeout_seconds": 0.2, "connect_timeout_seconds": 0.2}
    async with open_store(proxy, valkey=hasty) as far, open_store(valkey) as near:
        await far.store.position("t")
        proxy.black_hole()
        # Its connection gave up, and came to another relay.
        assert await code_of(far.store.claim("c", 1, [], is_held=False)) == "store_unavailable"
        claim = await near.store.claim("c", 1, [], is_held=False)
        proxy.heal()
        # What was on its way has arrived once its connections have ended.
        await until(lambda: proxy.open_connections == 0)
        assert await near.store.claims(["c"]) == {"c": claim.generation}
        assert await code_of(near.store.acknowledge("c", 1, {"t": at(1)}, proves=False)) is None


@in_loop
async def test_a_claim_that_knows_of_an_earlier_one_only_does_nothing(
    where: Where, admin: valkey_client.Valkey
) -> None:
    async with open_store(where) as opened:
        claim = await opened.store.claim("c", 1, [], is_held=False)
        source = (Path(schema.__file__).parent / "claim.lua").read_text()
        stale = [1000, "worker.2", "0", schema.CLAIMS, "c", "1 worker.0"]
        assert admin.eval(source, 1, schema.offsets("c"), *stale) == 0
        assert await opened.store.claims(["c"]) == {"c": claim.generation}


@in_loop
async def test_a_generation_is_never_lower_than_an_earlier_one(
    where: Where, admin: valkey_client.Valkey
) -> None:
    async with open_store(where) as opened:
        # As if Valkey's clock had been set back since.
        admin.hset(schema.offsets("c"), schema.CLAIM_FIELD, f"{1 << 52} gone.1")
        assert (await opened.store.claim("c", 1, [], is_held=False)).generation == (1 << 52) + 1


@in_loop
async def test_a_claim_tells_where_the_client_stands_in_any_number_of_topics(where: Where) -> None:
    async with open_store(where) as opened:
        topics = [f"t{n}" for n in range(1501)]
        await opened.store.acknowledge("c", None, {"t0": at(5), "t1499": at(7)}, proves=False)
        await opened.store.mark("c", {"t1": at(9), "t1500": at(8)})
        claim = await opened.store.claim("c", 1, topics, is_held=False)
        assert claim.cursors == {"t0": at(5), "t1499": at(7)}
        assert claim.delivered == {"t1": at(9), "t1500": at(8)}


@in_loop
async def test_a_release_by_a_deposed_connection_keeps_the_marks_and_not_the_name(
    where: Where, admin: valkey_client.Valkey
) -> None:
    async with open_store(where) as one, open_store(where) as two:
        await one.store.claim("c", 1, [], is_held=False)
        later = await two.store.claim("c", 7, [], is_held=False)
        await one.store.release("c", 1, {"t": at(5)})
        assert admin.hgetall(schema.offsets("c")) == {
            b":claim": f"{later.generation} {two.name}.7".encode(),
            b"delivered:t": b"5-1",
        }
        await two.store.release("c", 7, {"t": at(4)})
        assert admin.hgetall(schema.offsets("c")) == {
            b":claim": str(later.generation).encode(),
            b"delivered:t": b"5-1",
        }


# Acknowledgements


@in_loop
async def test_acknowledged_cursors_move_forward_only_each_on_its_own(where: Where) -> None:
    async with open_store(where) as one, open_store(where) as two:
        moved = await one.store.acknowledge("c", None, {"t": at(9, 9), "u": at(5, 1)}, proves=False)
        assert moved == {"t": at(9, 9), "u": at(5, 1)}
        moved = await two.store.acknowledge("c", None, {"t": at(10, 1), "u": at(4, 99)}, proves=False)
        assert moved == {"t": at(10, 1), "u": at(5, 1)}
        await one.store.acknowledge("c", None, {"t": at(9, 10)}, proves=False)
        claim = await two.store.claim("c", 1, ["u", "never", "t"], is_held=False)
        assert claim.cursors == {"t": at(10, 1), "u": at(5, 1)}
        assert (await one.store.claim("another", 1, ["t"], is_held=False)).cursors == {}


@in_loop
async def test_an_acknowledgement_of_a_deposed_connection_is_refused_whole(where: Where) -> None:
    async with open_store(where) as one, open_store(where) as two:
        await one.store.claim("c", 1, [], is_held=False)
        await one.store.acknowledge("c", 1, {"t": at(1)}, proves=False)
        await two.store.claim("c", 1, [], is_held=False)
        late = one.store.acknowledge("c", 1, {"t": at(2), "u": at(2)}, proves=False)
        assert await code_of(late) == "taken_over"
        assert (await two.store.claim("c", 1, ["t", "u"], is_held=True)).cursors == {"t": at(1)}


@in_loop
async def test_a_cursor_that_must_be_proved_is_refused_if_its_topic_never_gave_it(where: Where) -> None:
    async with open_store(where) as opened:
        newest = (await opened.append("t", b"1", b"2")).messages[-1].id
        ahead = MessageId(newest + 1)
        for cursors in ({"t": ahead}, {"t": newest, "never": at(1)}):
            assert await code_of(opened.store.acknowledge("c", None, cursors, proves=True)) == (
                "ahead_of_stream"
            )
        assert (await opened.store.claim("c", 1, ["t"], is_held=False)).cursors == {}
        assert await opened.store.acknowledge("c", None, {"t": newest}, proves=True) == {"t": newest}


@in_loop
async def test_what_somebody_else_keeps_in_a_clients_hash_is_no_cursor(
    where: Where, admin: valkey_client.Valkey
) -> None:
    admin.hset(schema.offsets("c"), mapping={"t": "42", "u": "x-y", ":claim": "x"})
    async with open_store(where) as opened:
        claim = await opened.store.claim("c", 1, ["t", "u"], is_held=True)
        assert claim.cursors == {}
        await opened.store.acknowledge("c", 1, {"t": at(1)}, proves=False)
        claim = await opened.store.claim("c", 1, ["t", "u"], is_held=True)
        assert claim.cursors == {"t": at(1)}
    assert admin.ttl(schema.offsets("c")) > 24 * 3600


@in_loop
async def test_a_clients_name_may_be_any_text(where: Where) -> None:
    async with open_store(where, starts_feed=True) as opened:
        for name in (" ", "a b", "{x}", "\u00e9\U0001f600", "a:offset", "\n"):
            claim = await opened.store.claim(name, 1, ["t"], is_held=False)
            await until(lambda: opened.claims)
            assert opened.claims.pop() == (name, claim.generation)


# What is kept


@in_loop
async def test_a_client_is_described_with_its_place_in_each_topic(where: Where) -> None:
    async with open_store(where, starts_feed=True) as opened:
        ids = [message.id for message in (await opened.append("t", b"1", b"2", b"3")).messages]
        await opened.store.claim("c", 1, [], is_held=False)
        await opened.store.acknowledge("c", 1, {"t": ids[0]}, proves=False)
        await opened.store.mark("c", {"t": ids[1], "u": at(1)})
        record = await opened.store.consumer("c")
        assert record.entry.client_id == "c" and record.entry.is_connected
        assert 0 <= record.entry.idle_ms < 60_000
        assert [(place.topic, place.cursor, place.delivered) for place in record.places] == [
            ("t", ids[0], ids[1]),
            ("u", None, at(1)),
        ]
        assert record.places[0].page.first_id == ids[1]
        assert record.places[1].page.first_id is None
        assert await code_of(opened.store.consumer("nobody")) == "consumer_not_found"


@in_loop
async def test_a_client_is_connected_as_long_as_its_connection_and_its_worker_live(where: Where) -> None:
    async with open_store(where) as asks:
        async with open_store(where, starts_feed=True) as worker:
            await worker.store.claim("c", 1, [], is_held=False)
            assert (await asks.store.consumer("c")).entry.is_connected
            await worker.store.release("c", 1, {})
            assert not (await asks.store.consumer("c")).entry.is_connected
            await worker.store.claim("c", 2, [], is_held=False)
            assert await code_of(asks.store.forget("c")) == "consumer_connected"
        # Its worker died without a word.
        await until_disconnected(asks.store)
        await asks.store.forget("c")
        assert await code_of(asks.store.consumer("c")) == "consumer_not_found"
        assert await code_of(asks.store.forget("c")) == "consumer_not_found"


async def until_disconnected(store: ValkeyStore) -> None:
    while (await store.consumer("c")).entry.is_connected:
        pass


@in_loop
async def test_clients_are_listed_in_order_page_by_page_without_those_forgotten(
    where: Where, admin: valkey_client.Valkey
) -> None:
    async with open_store(where) as opened:
        for name in ("b", "a", "d", "c"):
            await opened.store.claim(name, 1, [], is_held=False)
        await opened.store.acknowledge("e", None, {"t": at(1)}, proves=False)
        admin.delete(schema.offsets("b"))  # as when it expires
        first = await opened.store.consumers("", 2)
        assert ([entry.client_id for entry in first.consumers], first.last) == (["a"], "b")
        rest = await opened.store.consumers("b", 3)
        assert ([entry.client_id for entry in rest.consumers], rest.last) == (["c", "d", "e"], None)
        assert [name for name, _ in admin.zrange(schema.CONSUMERS, 0, -1, withscores=True)] == [
            *(b"a", b"c", b"d", b"e")
        ]
        await opened.store.forget("d")
        assert b"d" not in admin.zrange(schema.CONSUMERS, 0, -1)
        assert (await opened.store.consumers("", 100)).last is None


@in_loop
async def test_a_full_server_still_lists_and_forgets(make_valkey: Callable[..., RealValkey]) -> None:
    server = make_valkey().start()
    async with open_store(server.socket_path) as opened:
        await opened.store.claim("c", 1, [], is_held=False)
        with valkey_client.Valkey(unix_socket_path=server.socket_path) as owner:
            owner.config_set("maxmemory-policy", "noeviction")
            owner.config_set("maxmemory", "1")
        assert await code_of(opened.store.claim("d", 1, [], is_held=False)) == "store_full"
        assert [entry.client_id for entry in (await opened.store.consumers("", 10)).consumers] == ["c"]
        await opened.store.forget("c")
