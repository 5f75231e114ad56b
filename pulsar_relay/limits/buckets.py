"""Token buckets in Valkey: one for each class of requests and each user or address."""

from __future__ import annotations

from dataclasses import dataclass

from pulsar_relay.kinds import Rate
from pulsar_relay.store.client import Client, Script

_MICROSECONDS = 1_000_000


@dataclass(frozen=True, slots=True)
class Taken:
    """`count` tokens were taken and `left` are left. `wait_seconds` is the time until enough are there, 0 if
    there were; `full_seconds` the time until all are.
    """

    count: int
    left: int
    wait_seconds: float
    full_seconds: float


class Buckets:
    """Time is Valkey's own: workers' clocks need not agree. Raises StoreError."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._script = Script("bucket", "pulsar_relay.limits")

    async def take(self, name: str, rate: Rate, most: int, least: int) -> Taken:
        """Up to `most` tokens, or none if fewer than `least` are there."""
        args = (rate.count, round(rate.seconds * _MICROSECONDS), most, least)
        reply = await self._script.run(self._client, [f"relay:limit:{name}"], args)
        count, left, wait, full = map(int, reply)
        return Taken(count, left, wait / _MICROSECONDS, full / _MICROSECONDS)
