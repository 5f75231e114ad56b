"""OpenConnections: who is told that the relay stops, and how it waits for them."""

from __future__ import annotations

import asyncio

from pulsar_relay.web.connections import OpenConnections


class Connection:
    """Leaves when it is told to."""

    def __init__(self, connections: OpenConnections) -> None:
        self.connections = connections
        self.told = 0
        connections.add(self)

    def go_away(self) -> None:
        self.told += 1
        self.connections.discard(self)


def test_connections_may_leave_while_all_are_told() -> None:
    connections = OpenConnections()
    all_ = [Connection(connections) for _ in range(10)]
    assert len(connections) == 10
    for connection in connections:
        connection.go_away()
    assert [connection.told for connection in all_] == [1] * 10
    assert len(connections) == 0
    connections.discard(all_[0])


def test_drained_waits_until_the_last_has_left() -> None:
    async def scenario() -> None:
        connections = OpenConnections()
        await connections.drained()
        first, second = Connection(connections), Connection(connections)
        waiting = asyncio.ensure_future(connections.drained())
        for _ in range(3):
            await asyncio.sleep(0)
        first.go_away()
        third = Connection(connections)
        second.go_away()
        for _ in range(3):
            await asyncio.sleep(0)
        assert not waiting.done()
        third.go_away()
        await waiting

    asyncio.run(scenario())


def test_connections_are_asked_to_come_back_at_different_times_and_more_of_them_later() -> None:
    connections = OpenConnections()
    few = {connections.reconnect_milliseconds() for _ in range(200)}
    assert len(few) > 50 and min(few) >= 500 and max(few) <= 1000
    held = [Connection(connections) for _ in range(500)]
    many = [connections.reconnect_milliseconds() for _ in range(500)]
    assert max(many) - min(many) >= 2000 and max(many) <= 1000 + 4 * len(held)
    held += [Connection(connections) for _ in range(30_000)]
    assert max(connections.reconnect_milliseconds() for _ in range(200)) <= 60_000
