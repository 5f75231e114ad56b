from __future__ import annotations

import asyncio
from collections.abc import Callable

import valkey as valkey_client

from pulsar_relay.settings import ValkeySettings
from pulsar_relay.store.client import Script, make_client
from tests.proxies import Proxy
from tests.stores import code_of, in_loop, open_store
from tests.valkeys import RealValkey

MakeValkey = Callable[..., RealValkey]


@in_loop
async def test_a_name_of_a_script_is_the_one_valkey_gives_it(valkey: str) -> None:
    with valkey_client.Valkey(unix_socket_path=valkey) as admin:
        for name in ("append", "read"):
            script = Script(name)
            assert admin.script_load(script.text) == script.sha


@in_loop
async def test_a_script_is_loaded_once_for_all_who_find_it_missing(valkey: str) -> None:
    with valkey_client.Valkey(unix_socket_path=valkey) as admin:
        async with open_store(valkey) as opened:
            await opened.store.position("t")
            admin.script_flush()
            admin.config_resetstat()
            await asyncio.gather(*[opened.store.position("t") for _ in range(50)])
            stats = admin.info("commandstats")
            assert stats["cmdstat_script|load"]["calls"] == 1
            assert stats["cmdstat_evalsha"]["calls"] == 100


@in_loop
async def test_who_gives_up_loading_a_script_takes_it_from_nobody(valkey: str) -> None:
    with valkey_client.Valkey(unix_socket_path=valkey) as admin:
        async with open_store(valkey) as opened:
            for turn in range(20):
                admin.script_flush()
                tasks = [asyncio.create_task(opened.store.position("t")) for _ in range(10)]
                for _ in range(turn % 9):
                    await asyncio.sleep(0)
                tasks[0].cancel()
                await asyncio.gather(*tasks[1:])


@in_loop
async def test_a_script_that_cannot_be_loaded_is_an_error_like_any_other(make_valkey: MakeValkey) -> None:
    server = make_valkey().start()
    server.command("ACL", "SETUSER", "default", "-script")
    async with open_store(server.socket_path) as opened:
        answers = await asyncio.gather(*[code_of(opened.store.position("t")) for _ in range(5)])
        assert answers == ["store_denied"] * 5
        server.command("ACL", "SETUSER", "default", "+script")
        await opened.store.position("t")


@in_loop
async def test_settings_say_where_valkey_is_and_a_given_socket_wins(make_valkey: MakeValkey) -> None:
    by_tcp, by_socket = make_valkey(tcp=True).start(), make_valkey().start()
    by_tcp.command("SET", "name", "tcp")
    by_socket.command("SET", "name", "socket")
    settings = ValkeySettings(host=by_tcp.host, port=by_tcp.port)
    for client, name in (
        (make_client(settings), b"tcp"),
        (make_client(settings, by_socket.socket_path), b"socket"),
    ):
        assert await client.command("GET", "name") == name
        await client.aclose()


@in_loop
async def test_a_worker_opens_no_more_connections_than_it_may(valkey: str) -> None:
    async with (
        Proxy(valkey) as proxy,
        open_store(proxy, valkey={"pool_size": 5}, starts_feed=True) as opened,
    ):
        await opened.append("t", b"1")
        await asyncio.gather(*[opened.all_messages("t") for _ in range(50)])
        assert proxy.connections == 5


@in_loop
async def test_pages_are_read_beside_the_line_of_the_appends(valkey: str) -> None:
    async with Proxy(valkey) as proxy, open_store(proxy) as opened:
        await opened.append("t", b"1")
        assert proxy.connections == 1
        await asyncio.gather(*[opened.all_messages("t") for _ in range(3)])
        assert proxy.connections == 4
