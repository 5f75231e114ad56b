from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator

import pytest

from pulsar_relay.supervision.listening import SharedPort, close, hang_up, listen


@pytest.fixture
def taken() -> Iterator[socket.socket]:
    """A port that somebody else listens on, and shares."""
    with socket.socket() as theirs:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        theirs.bind(("127.0.0.1", 0))
        theirs.listen()
        yield theirs


def connects(port: SharedPort) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port.number)).close()
    except ConnectionRefusedError:
        return False
    return True


def worker(sockets: list[socket.socket]) -> list[socket.socket]:
    """As a worker would listen that has inherited them."""
    return listen([os.dup(one.fileno()) for one in sockets])


def test_any_number_of_workers_get_the_one_port_that_was_free() -> None:
    port = SharedPort.find("127.0.0.1", 0)
    each = [port.bind() for _ in range(5)]
    try:
        assert port.number
        assert {one.getsockname() for sockets in each for one in sockets} == {("127.0.0.1", port.number)}
    finally:
        for sockets in each:
            close(sockets)


def test_a_port_is_refused_that_somebody_has_even_one_who_shares(taken: socket.socket) -> None:
    with pytest.raises(OSError, match="in use") as caught:
        SharedPort.find("127.0.0.1", taken.getsockname()[1])
    assert caught.value.errno == errno.EADDRINUSE


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(OSError, match="assign"):
        SharedPort.find("192.0.2.1", 0)


def test_all_addresses_of_a_name_have_the_same_port() -> None:
    port = SharedPort.find("localhost", 0)
    sockets = port.bind()
    try:
        assert {one.getsockname()[1] for one in sockets} == {port.number}
        assert len(sockets) == len(port.addresses)
    finally:
        close(sockets)


def test_nobody_gets_in_before_a_worker_listens() -> None:
    port = SharedPort.find("127.0.0.1", 0)
    sockets = port.bind()
    assert not connects(port)
    listening = worker(sockets)
    assert connects(port)
    close([*sockets, *listening])


def test_what_waits_for_a_worker_that_died_is_for_its_successor() -> None:
    port = SharedPort.find("127.0.0.1", 0)
    sockets = port.bind()
    first = worker(sockets)
    with socket.create_connection(("127.0.0.1", port.number)) as client:
        close(first)
        second = worker(sockets)
        accepted, address = second[0].accept()
        accepted.close()
        assert address == client.getsockname()
    close([*sockets, *second])


def test_a_worker_that_hangs_up_leaves_no_open_port_although_the_sockets_are_kept() -> None:
    port = SharedPort.find("127.0.0.1", 0)
    sockets = port.bind()
    first = worker(sockets)
    hang_up(first)
    close(first)
    assert not connects(port)
    second = worker(sockets)
    assert connects(port)
    close([*sockets, *second])


def test_without_the_sockets_of_one_worker_all_connections_go_to_the_other() -> None:
    port = SharedPort.find("127.0.0.1", 0)
    resting, sockets = port.bind(), port.bind()
    close(worker(resting))
    listening = worker(sockets)
    close(resting)
    clients = [socket.create_connection(("127.0.0.1", port.number)) for _ in range(40)]
    accepted = [listening[0].accept()[0] for _ in clients]
    close([*sockets, *listening, *clients, *accepted])
