"""Vitals: what a Valkey server says of itself, asked once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from actors.ports import StoreError
from pulsar_relay.store.information import HIDDEN, configuration_of, information_of
from pulsar_relay.store.shard import Shard

CLOCK_SAMPLES = 5
CONFIGURED = (
    *("maxclients", "save", "stop-writes-on-bgsave-error", "dir", "dbfilename"),
    "client-output-buffer-limit",
)


@dataclass(frozen=True, slots=True)
class ClockReading:
    """`ahead_seconds`: the server's clock against ours, known to within `uncertain_seconds`. The best of some
    samples; `answer_seconds` is how long that one took.
    """

    ahead_seconds: float
    answer_seconds: float

    @property
    def uncertain_seconds(self) -> float:
        return self.answer_seconds / 2


@dataclass(frozen=True, slots=True)
class Vitals:
    """`information` are the fields of INFO. `configured` and `clients` (of CLIENT LIST, a mapping for each)
    are None where this user may not ask.
    """

    information: Mapping[str, str]
    configured: Mapping[str, str] | None
    clients: Sequence[Mapping[str, str]] | None
    clock: ClockReading
    now: float

    def text(self, name: str) -> str:
        return self.information.get(name, "")

    def number(self, name: str) -> int:
        """0 where this server does not tell it."""
        value = self.information.get(name, "")
        return int(value) if value.lstrip("-").isdigit() else 0

    def setting(self, name: str) -> str | None:
        """None where it cannot be known."""
        return None if self.configured is None else self.configured.get(name)


async def take_vitals(shard: Shard, *, clock: Callable[[], float] = time.time) -> Vitals:
    """Raises StoreError where the server cannot be asked at all."""
    return Vitals(
        await information_of(shard),
        await _configured(shard),
        await _clients(shard),
        await _clock_reading(shard, clock),
        clock(),
    )


async def _configured(shard: Shard) -> dict[str, str] | None:
    try:
        return await configuration_of(shard, *CONFIGURED)
    except StoreError as error:
        if error.code not in HIDDEN:
            raise
        return None


async def _clients(shard: Shard) -> list[dict[str, str]] | None:
    try:
        listed = await shard.command("CLIENT", "LIST")
    except StoreError as error:
        if error.code not in HIDDEN:
            raise
        return None
    lines = listed.decode("utf-8", "replace").splitlines()
    return [
        {name: value for name, _, value in (word.partition("=") for word in line.split())} for line in lines
    ]


async def _clock_reading(shard: Shard, clock: Callable[[], float]) -> ClockReading:
    readings = []
    for _ in range(CLOCK_SAMPLES):
        asked, started = clock(), time.monotonic()
        seconds, microseconds = await shard.command("TIME")
        took = time.monotonic() - started
        readings.append(ClockReading(int(seconds) + int(microseconds) / 1e6 - asked - took / 2, took))
    return min(readings, key=lambda reading: reading.answer_seconds)
