"""ReceivingConnection: its end where none of its kinds has begun. All else, the tests of those tell."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from pulsar_relay.web.detaching import hand_over
from tests.conditions import WAIT_SECONDS
from tests.test_upgrade import head_of
from tests.workers import RunningWorker


def test_a_connection_that_comes_when_all_others_were_told_of_the_stop_is_closed(
    make_relay: Callable[..., RunningWorker],
) -> None:
    relay = make_relay()
    upgrade = relay.worker._front.endpoints.upgrade
    accepted: Any = relay.call(lambda: upgrade(head_of(), b"\x81\x80\0\0\0\0", ""))
    relay.worker.relay.is_accepting = False
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.settimeout(WAIT_SECONDS)
        ours.setblocking(False)
        handing = asyncio.run_coroutine_threadsafe(hand_over(ours, accepted), relay._loop)
        handing.result(WAIT_SECONDS)
        assert theirs.recv(100) == b""
    assert accepted.has_left
    assert (len(relay.worker.connections), relay.worker.connections.socket_count) == (0, 0)
    assert relay.worker.relay.connections["websocket"] == 0
