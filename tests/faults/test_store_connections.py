"""A Valkey that takes no more connections."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from tests.faults.load import Load
from tests.relays import RelayProcess
from tests.valkeys import TIMEOUT_SCALE, RealValkey

pytestmark = [pytest.mark.faults, pytest.mark.timeout(90 * TIMEOUT_SCALE)]

BACK_SECONDS = 2.0 * TIMEOUT_SCALE
HOGS = 60


@contextmanager
def hogs(server: RealValkey) -> Iterator[None]:
    """Somebody takes every connection that is left."""
    with ExitStack() as stack:
        for _ in range(HOGS):
            one = stack.enter_context(socket.socket(socket.AF_UNIX))
            one.settimeout(10 * TIMEOUT_SCALE)
            one.connect(server.socket_path)
            # Refused ones are told, and closed.
            with suppress(BrokenPipeError):
                one.sendall(b"PING\r\n")
            one.recv(100)
        yield


def test_the_relay_keeps_its_connections_and_is_back_when_there_are_any(
    make_valkey: Callable[..., RealValkey],
    make_relay_on: Callable[..., RelayProcess],
    make_load: Callable[..., Load],
) -> None:
    server = make_valkey(settings={"maxclients": "40"}).start()
    urls = [make_relay_on(server).url for _ in range(2)]
    with server.client() as operator, make_load(urls, server) as load:
        operator.ping()
        with hogs(server):
            assert operator.info("stats")["rejected_connections"] > 0
            load.wait_for_acks(100)
            assert all(answer.outcome == "ok" for answer in load.answers)
        with hogs(server):
            # Now they lose what they have, and the hogs get that as well.
            operator.client_kill_filter(_type="normal", skipme=True)
            with hogs(server):
                operator.client_kill_filter(_type="pubsub")
                load.last(2)
        healed = load.healed(lambda: None)
        load.wait_for_acks(50)
        verdict = load.finish()
    assert verdict.until_ok(healed) < BACK_SECONDS
