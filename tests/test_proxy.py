from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from tests.conditions import until
from tests.faults.proxy import FaultProxy
from tests.valkeys import TIMEOUT_SCALE, RealValkey

MakeProxy = Callable[..., FaultProxy]
SECONDS = 10 * TIMEOUT_SCALE
MUTE_SECONDS = 0.1


class Echo:
    """A server that sends back what it gets."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        self.received = bytearray()
        self.open_connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        # It wakes the thread that waits in accept; closing alone does not.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._echo, args=(connection,), daemon=True).start()

    def _echo(self, connection: socket.socket) -> None:
        self.open_connections += 1
        with connection, suppress(OSError):
            while data := connection.recv(65536):
                self.received += data
                connection.sendall(data)
        self.open_connections -= 1


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def proxy(echo: Echo, make_proxy: MakeProxy) -> FaultProxy:
    return make_proxy(echo.address)


def dial(proxy: FaultProxy) -> socket.socket:
    return socket.create_connection((proxy.host, proxy.port), SECONDS)


def receive(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := connection.recv(size - len(data))):
        data += more
    return data


def asked(connection: socket.socket, data: bytes) -> bytes:
    connection.sendall(data)
    return receive(connection, len(data))


def is_mute(connection: socket.socket) -> bool:
    connection.settimeout(MUTE_SECONDS)
    try:
        connection.recv(1)
    except TimeoutError:
        return True
    finally:
        connection.settimeout(SECONDS)
    return False


def test_without_a_fault_all_bytes_pass_both_ways_and_so_does_the_end(proxy: FaultProxy) -> None:
    sent = bytes(range(256)) * 20_000
    with dial(proxy) as connection:
        sender = threading.Thread(target=connection.sendall, args=(sent,))
        sender.start()
        assert receive(connection, len(sent)) == sent
        sender.join()
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""
    assert proxy.accepted == 1
    assert proxy.requests.carried_bytes == proxy.replies.carried_bytes == len(sent)
    until(lambda: not proxy.open_connections, "the connection is forgotten")


@pytest.mark.parametrize("tcp", [False, True], ids=["unix", "tcp"])
def test_it_stands_in_front_of_a_valkey(
    make_valkey: Callable[..., RealValkey], make_proxy: MakeProxy, tcp: bool
) -> None:
    server = make_valkey(tcp=tcp).start()
    proxy = make_proxy((server.host, server.port) if tcp else server.socket_path)
    with dial(proxy) as connection:
        connection.sendall(b"PING\r\n")
        assert receive(connection, 7) == b"+PONG\r\n"
    server.kill()
    # The reset may come before the client has noticed that it is connected.
    with pytest.raises(ConnectionResetError), dial(proxy) as connection:
        connection.recv(1)


def test_latency_delays_each_way_and_keeps_the_order(proxy: FaultProxy) -> None:
    proxy.delay(0.03, jitter_seconds=0.03)
    with dial(proxy) as connection:
        for number in range(100):
            connection.sendall(b"%04d" % number)
        assert receive(connection, 400) == b"".join(b"%04d" % number for number in range(100))
        proxy.delay(0.1)
        began = time.monotonic()
        assert asked(connection, b"late") == b"late"
        assert time.monotonic() - began >= 0.2
        proxy.heal()
        began = time.monotonic()
        assert asked(connection, b"soon") == b"soon"
        assert time.monotonic() - began < 0.2


def test_one_seed_makes_one_jitter(echo: Echo, make_proxy: MakeProxy) -> None:
    def dues(seed: int) -> list[float]:
        way = make_proxy(echo.address, seed=seed).requests
        way.latency_seconds = way.jitter_seconds = 1.0
        return [way.due(0.0) for _ in range(5)]

    assert dues(1) == dues(1) != dues(2)


def test_in_a_black_hole_nothing_is_heard_and_nothing_is_lost(proxy: FaultProxy, echo: Echo) -> None:
    with dial(proxy) as old:
        assert asked(old, b"before") == b"before"
        proxy.black_hole()
        old.sendall(b"one")
        with dial(proxy) as new:
            new.sendall(b"two")
            assert is_mute(old)
            assert is_mute(new)
            assert echo.received == b"before"
            proxy.black_hole(False)
            assert receive(old, 3) == b"one"
            assert receive(new, 3) == b"two"


def test_a_black_hole_can_be_for_one_connection(proxy: FaultProxy, echo: Echo) -> None:
    with dial(proxy) as first:
        assert asked(first, b"first") == b"first"
        (port,) = proxy.ports
        with dial(proxy) as second:
            assert asked(second, b"second") == b"second"
            proxy.black_hole_at(port)
            first.sendall(b"one")
            assert is_mute(first)
            assert asked(second, b"two") == b"two"
            with dial(proxy) as third:
                assert asked(third, b"three") == b"three"
            proxy.black_hole_at(port, False)
            assert receive(first, 3) == b"one"
    until(lambda: not proxy.ports, "the connections are forgotten")


def test_a_black_hole_can_be_one_way(proxy: FaultProxy, echo: Echo) -> None:
    with dial(proxy) as connection:
        proxy.black_hole(ways=[proxy.replies])
        connection.sendall(b"one")
        until(lambda: echo.received == b"one", "the request arrives")
        assert is_mute(connection)
        proxy.black_hole(False)
        assert receive(connection, 3) == b"one"


def test_a_half_open_connection_is_reset_when_it_ends(proxy: FaultProxy, echo: Echo) -> None:
    with dial(proxy) as half, dial(proxy) as quiet:
        assert asked(half, b"1") == asked(quiet, b"1")
        proxy.swallow(proxy.replies)
        half.sendall(b"2")
        until(lambda: echo.received == b"112", "the request arrives")
        assert is_mute(half)
        proxy.swallow(proxy.replies, False)
        with pytest.raises(ConnectionResetError):
            half.recv(1)
        assert asked(quiet, b"3") == b"3"


def test_requests_can_be_swallowed_too(proxy: FaultProxy, echo: Echo) -> None:
    with dial(proxy) as connection:
        assert asked(connection, b"1") == b"1"
        proxy.swallow(proxy.requests)
        connection.sendall(b"2")
        assert is_mute(connection)
        assert echo.received == b"1"
        proxy.heal()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)


def test_reset_cuts_all_open_connections_on_both_sides_and_takes_new_ones(
    proxy: FaultProxy, echo: Echo
) -> None:
    connections = [dial(proxy) for _ in range(5)]
    for connection in connections:
        assert asked(connection, b"x") == b"x"
    proxy.reset()
    for connection in connections:
        with connection, pytest.raises(ConnectionResetError):
            connection.recv(1)
    until(lambda: not echo.open_connections, "the server is told")
    with dial(proxy) as connection:
        assert asked(connection, b"y") == b"y"


def test_new_connections_are_refused_while_open_ones_work(proxy: FaultProxy) -> None:
    with dial(proxy) as connection:
        assert asked(connection, b"1") == b"1"
        proxy.refuse()
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            dial(proxy)
        assert asked(connection, b"2") == b"2"
        proxy.accept()
        with dial(proxy) as new:
            assert asked(new, b"3") == b"3"


def test_a_trickle_is_shared_by_all_connections(proxy: FaultProxy) -> None:
    proxy.replies.bytes_a_second = 20_000
    began = time.monotonic()
    with dial(proxy) as one, dial(proxy) as other:
        one.sendall(bytes(4000))
        other.sendall(bytes(4000))
        assert len(receive(one, 4000)) == len(receive(other, 4000)) == 4000
        assert time.monotonic() - began >= 0.39
        proxy.heal()
        assert len(asked(one, bytes(20_000))) == 20_000
        assert time.monotonic() - began < 1.39


def test_a_connection_is_cut_after_so_many_bytes_and_the_next_is_not(proxy: FaultProxy) -> None:
    proxy.replies.bytes_to_cut = 5
    with dial(proxy) as connection:
        connection.sendall(b"12345678")
        # A reset throws away what was received and not yet read.
        with pytest.raises(ConnectionResetError):
            receive(connection, 8)
    assert proxy.replies.carried_bytes == 5
    with dial(proxy) as connection:
        assert asked(connection, b"12345678") == b"12345678"


def test_replies_are_lost_after_the_request_was_carried_out(proxy: FaultProxy, echo: Echo) -> None:
    proxy.replies.chunks_to_lose = 2
    for number in range(2):
        with dial(proxy) as connection:
            connection.sendall(b"%d" % number)
            with pytest.raises(ConnectionResetError):
                connection.recv(1)
    assert echo.received == b"01"
    with dial(proxy) as connection:
        assert asked(connection, b"2") == b"2"


def test_a_reset_by_the_server_is_passed_on(make_proxy: MakeProxy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = make_proxy(listener.getsockname())
        with dial(proxy) as connection:
            server, _ = listener.accept()
            server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            server.close()
            with pytest.raises(ConnectionResetError):
                connection.recv(1)


def test_it_ends_while_connections_wait_in_any_fault(echo: Echo) -> None:
    with FaultProxy(echo.address) as proxy:
        proxy.requests.bytes_a_second = 1
        with dial(proxy) as slow:
            slow.sendall(bytes(100))
            proxy.black_hole()
            with dial(proxy) as mute:
                mute.sendall(bytes(100))
                proxy.close()
                for connection in (slow, mute):
                    with pytest.raises(ConnectionResetError):
                        connection.recv(1)
    with pytest.raises(ConnectionRefusedError):
        dial(proxy)
