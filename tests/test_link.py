from __future__ import annotations

import asyncio
import gc
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors.ports import StoreError
from pulsar_relay.settings import ValkeySettings
from pulsar_relay.store.link import Endpoint, Link, pack
from tests.certificates import AUTHORITY, SERVER_CERTIFICATE, SERVER_KEY
from tests.proxies import Proxy
from tests.stores import in_loop, until
from tests.valkeys import TIMEOUT_SCALE, RealValkey

MakeValkey = Callable[..., RealValkey]


class _Heard:
    """What a link said."""

    def __init__(self) -> None:
        self.replies: list[Any] = []
        self.losses = 0

    def on_lost(self) -> None:
        self.losses += 1


@asynccontextmanager
async def _open(endpoint: Endpoint) -> AsyncIterator[tuple[Link, _Heard]]:
    heard = _Heard()
    link = await Link.open(endpoint, heard.replies.append, heard.on_lost)
    try:
        yield link, heard
    finally:
        link.close()
        await link.wait_closed()


async def _fails(endpoint: Endpoint) -> StoreError:
    with pytest.raises(StoreError) as caught:
        async with _open(endpoint):
            pass
    assert not caught.value.is_outcome_unknown
    return caught.value


@in_loop
async def test_replies_and_errors_come_in_order(valkey: str) -> None:
    async with _open(Endpoint.of(ValkeySettings(), valkey)) as (link, heard):
        link.write([pack(("SET", "n", 1)), pack(("RPUSH", "n", "x")), pack(("GET", "n"))])
        await until(lambda: len(heard.replies) == 3)
        assert heard.replies[0] == b"OK"
        assert heard.replies[1].code == "store_damaged"
        assert heard.replies[2] == b"1"


@in_loop
async def test_what_is_written_to_a_link_that_is_lost_goes_nowhere_until_the_loss_is_told(
    valkey: str,
) -> None:
    async with _open(Endpoint.of(ValkeySettings(), valkey)) as (link, heard):
        link.sever()
        while not heard.losses:
            link.write([pack(("PING",))])
            assert link.untaken_bytes >= 0
            await asyncio.sleep(0)
        link.write([pack(("PING",))])
        assert heard.replies == []


@in_loop
async def test_the_configured_database_and_user_are_used(make_valkey: MakeValkey) -> None:
    server = make_valkey().start()
    server.command("ACL", "SETUSER", "relay", "on", ">secret", "~*", "&*", "+@all")
    server.command("ACL", "SETUSER", "default", "resetpass", "-@all", "+auth", "+acl", "+shutdown")
    settings = ValkeySettings(username="relay", password="secret", db=3)
    async with _open(Endpoint.of(settings, server.socket_path)) as (link, heard):
        link.write([pack(("CLIENT", "INFO"))])
        await until(lambda: heard.replies)
        assert b" db=3 " in heard.replies[0]
        assert b" user=relay " in heard.replies[0]
        assert b" lib-name=pulsar-relay " in heard.replies[0]
    assert "secret" not in repr(Endpoint.of(settings))


@pytest.mark.parametrize("tcp", [False, True], ids=["unix", "tcp"])
@in_loop
async def test_a_wrong_password_is_told_as_such(make_valkey: MakeValkey, tcp: bool) -> None:
    server = make_valkey(tcp=tcp).start()
    settings = ValkeySettings(host=server.host, port=server.port or 1, username="nobody", password="wrong")
    error = await _fails(Endpoint.of(settings, None if tcp else server.socket_path))
    assert error.code == "store_denied"


@in_loop
async def test_a_database_that_does_not_exist_is_refused(valkey: str) -> None:
    error = await _fails(Endpoint.of(ValkeySettings(db=99), valkey))
    assert error.code == "store_error"


@in_loop
async def test_a_server_that_accepts_and_stays_silent_is_given_up_in_time(valkey: str) -> None:
    async with Proxy(valkey) as proxy:
        proxy.is_black_hole = True
        settings = ValkeySettings(host=proxy.host, port=proxy.port, connect_timeout_seconds=0.1)
        begun = time.monotonic()
        error = await _fails(Endpoint.of(settings))
        assert error.code == "store_unavailable"
        assert time.monotonic() - begun < 0.5 * TIMEOUT_SCALE


@in_loop
async def test_a_loss_is_told_once_and_closing_is_none(valkey: str) -> None:
    async with Proxy(valkey) as proxy:
        endpoint = Endpoint.of(ValkeySettings(host=proxy.host, port=proxy.port))
        async with _open(endpoint) as (_, heard):
            proxy.reset()
            await until(lambda: heard.losses)
        assert heard.losses == 1
        async with _open(endpoint) as (link, heard):
            link.close()
            link.close()
            await link.wait_closed()
        assert heard.losses == 0


@in_loop
async def test_what_has_not_arrived_is_counted(valkey: str) -> None:
    async with Proxy(valkey) as proxy:
        endpoint = Endpoint.of(ValkeySettings(host=proxy.host, port=proxy.port))
        async with _open(endpoint) as (link, heard):
            assert link.untaken_bytes == 0
            proxy.bytes_a_second = 1_000_000
            link.write([pack(("SET", "x", b"x" * 5_000_000))])
            await until(lambda: 0 < link.untaken_bytes < 5_000_000)
            proxy.bytes_a_second = None
            await until(lambda: heard.replies == [b"OK"])
            assert link.untaken_bytes == 0


# TLS: Valkey's end is a terminating listener, since not every Valkey is built with TLS.


@asynccontextmanager
async def _tls(valkey: str, directory: Path) -> AsyncIterator[int]:
    for name, text in (("server.pem", SERVER_CERTIFICATE), ("server.key", SERVER_KEY), ("ca.pem", AUTHORITY)):
        (directory / name).write_text(text)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(directory / "server.pem", directory / "server.key")
    async with Proxy(valkey, tls=context) as proxy:
        yield proxy.port


@in_loop
async def test_tls_reaches_a_server_whose_certificate_is_signed_and_for_its_name(
    valkey: str, tmp_path: Path
) -> None:
    async with _tls(valkey, tmp_path) as port:
        settings = ValkeySettings(host="localhost", port=port, tls=True, tls_ca=tmp_path / "ca.pem")
        async with _open(Endpoint.of(settings)) as (link, heard):
            link.write([pack(("ECHO", b"x" * 300_000))])
            await until(lambda: heard.replies)
            assert heard.replies == [b"x" * 300_000]


@in_loop
async def test_tls_refuses_a_certificate_for_another_name_or_from_another_authority(
    valkey: str, tmp_path: Path
) -> None:
    async with _tls(valkey, tmp_path) as port:
        good = ValkeySettings(host="localhost", port=port, tls=True, tls_ca=tmp_path / "ca.pem")
        for bad in (replace(good, host="127.0.0.1"), replace(good, tls_ca=None)):
            assert (await _fails(Endpoint.of(bad))).code == "store_unavailable"


@in_loop
async def test_opening_given_up_leaves_nothing_behind(valkey: str) -> None:
    async with Proxy(valkey) as proxy:
        proxy.swallows_replies = True
        endpoint = Endpoint.of(ValkeySettings(host=proxy.host, port=proxy.port))
        heard = _Heard()
        opening = asyncio.create_task(Link.open(endpoint, heard.replies.append, heard.on_lost))
        await until(lambda: proxy.connections)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await until(lambda: not proxy.open_connections)


@in_loop
async def test_one_that_is_closed_and_forgotten_ends_in_order_whenever_garbage_is_collected(
    valkey: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Proxy(valkey) as proxy:
        endpoint = Endpoint.of(ValkeySettings(host=proxy.host, port=proxy.port))
        link = await Link.open(endpoint, lambda reply: None, lambda: None)
        link.close()
        del link
        gc.collect()
        await until(lambda: not proxy.open_connections)
    assert not caplog.records


@in_loop
async def test_a_connection_is_introduced_in_one_round_trip(make_valkey: MakeValkey) -> None:
    server = make_valkey(settings={"requirepass": "secret"}).start(wait=False)
    await until(lambda: Path(server.socket_path).exists())
    async with Proxy(server.socket_path) as proxy:
        settings = ValkeySettings(host=proxy.host, port=proxy.port, password="secret", db=2)
        async with _open(Endpoint.of(settings)):
            assert proxy.request_chunks == 1


@in_loop
async def test_a_server_that_wants_a_password_and_is_given_none_says_so(make_valkey: MakeValkey) -> None:
    server = make_valkey(settings={"requirepass": "secret"}).start(wait=False)
    await until(lambda: Path(server.socket_path).exists())
    assert (await _fails(Endpoint.of(ValkeySettings(), server.socket_path))).code == "store_denied"


@in_loop
async def test_where_nobody_listens_or_the_server_hangs_up_it_is_unavailable(valkey: str) -> None:
    async with Proxy(valkey) as proxy:
        endpoint = Endpoint.of(ValkeySettings(host=proxy.host, port=proxy.port))
        proxy.replies_to_lose = 1
        assert (await _fails(endpoint)).code == "store_unavailable"
    assert (await _fails(endpoint)).code == "store_unavailable"
    assert (await _fails(Endpoint.of(ValkeySettings(host="a" * 70)))).code == "store_unavailable"


@in_loop
async def test_a_peer_that_speaks_something_else_is_let_go() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    assert (
        await _fails(Endpoint.of(ValkeySettings(host="127.0.0.1", port=port)))
    ).code == "store_unavailable"
    server.close()
    await server.wait_closed()


@in_loop
async def test_a_link_that_is_paused_hears_the_rest_when_it_goes_on(valkey: str) -> None:
    async with _open(Endpoint.of(ValkeySettings(), valkey)) as (link, heard):
        link.pause()
        link.pause()
        link.write([pack(("ECHO", b"x" * 300_000)), pack(("ECHO", b"y"))])
        async with _open(Endpoint.of(ValkeySettings(), valkey)) as (second, other):
            second.write([pack(("PING",))])
            await until(lambda: other.replies)
        assert heard.replies == []
        link.resume()
        link.resume()
        await until(lambda: len(heard.replies) == 2)
        link.sever()
        link.pause()
        await until(lambda: heard.losses)
        link.resume()
