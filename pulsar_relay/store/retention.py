"""Retention: trims all topics, also those that no worker has open, and keeps the index of topics true.

One worker at a time does it, whoever holds the lease. It walks the index in slices and rests after each in
proportion to what the slice took, so that a million topics delay nobody. What is removed is said in trim.lua;
what an open topic's actor has trimmed already costs a look.

The index can be wrong after somebody deleted keys by hand: a name without a stream is taken out as the walk
meets it, and a stream without a name is found by a slow scan of the keys.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from actors.counters import Counters
from actors.ports import StoreError
from pulsar_relay.settings import StorageSettings
from pulsar_relay.store import schema
from pulsar_relay.store.client import Client
from pulsar_relay.store.key_scan import KeyScan
from pulsar_relay.store.shard import Shard
from pulsar_relay.store.trims import Trims

logger = logging.getLogger(__name__)

SLICE_TOPICS = 100
SCAN_KEYS = 500
SCANS_A_WALK = 20
TRIMS_A_TOPIC = 20
"""Each removes some thousand entries at most; what is left then goes with the next walk."""
MIN_LEASE_MS = 10_000
RELEASE_SECONDS = 0.5
"""A lease that cannot be given back within this time expires instead."""
REST = 10
"""Rests last this many times as long as the work before them."""

T = TypeVar("T")


def _wall_clock() -> int:
    return time.time_ns() // 1_000_000


class Retention:
    """Walks all topics every `storage.trim_interval`, or without end if a walk takes longer than that.

    What it removes is added to the worker's counters. `clock` is Unix time in milliseconds.
    """

    def __init__(
        self,
        client: Client,
        settings: StorageSettings,
        counters: Counters,
        *,
        clock: Callable[[], int] = _wall_clock,
    ) -> None:
        self._client = client
        self._interval_seconds = settings.trim_interval_seconds
        self._clock = clock
        self._name = secrets.token_hex(8)
        self._trims = Trims(client, settings)
        self._scan = KeyScan(client, schema.stream("*"), "stream", SCAN_KEYS)
        self._is_full = False
        self.is_failing = False
        """Whether the last walk was stopped by the store."""
        self.is_leading = False
        """Whether this worker is the one that walks, as far as it knows."""
        self._task: asyncio.Task[None] | None = None
        self.counters = counters

    def reload(self, settings: StorageSettings) -> None:
        """Go on with these, from the next walk on."""
        self._interval_seconds = settings.trim_interval_seconds
        self._trims.reload(settings)

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="retention")

    async def stop(self) -> None:
        """May be called without `start`, and again. Gives the lease back: another worker goes on."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if self.is_leading:
            with contextlib.suppress(StoreError, TimeoutError):
                async with asyncio.timeout(RELEASE_SECONDS):
                    await self._release_lease()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval_seconds)
            try:
                await self.walk()
            except StoreError as error:
                if not self.is_failing:
                    logger.warning("retention: stopped by the store (%s), trying again", error.code)
                self.is_failing = True
            except Exception:  # a bug; without retention the store would fill up in silence
                logger.exception("retention: failed")
                self.is_failing = True
            else:
                self.is_failing = False

    async def walk(self) -> bool:
        """One pass over the whole index, and some steps of the scan; False if another worker holds the lease.

        Raises StoreError, where a shard cannot be worked on after all others; the next one begins anew.
        """
        if not await self._holds_lease():
            return False
        silent: dict[Shard | None, StoreError] = {}
        try:
            for _ in range(SCANS_A_WALK):
                if self._is_full or await self._rested(self._list_found()):
                    break
        except StoreError as error:
            silent[None] = error
        after = b""
        while True:
            names = await self._names(after)
            await self._rested(self._trim_topics(names, silent))
            if len(names) < SLICE_TOPICS:
                break
            after = names[-1]
            if not await self._holds_lease():
                return False
        for failure in silent.values():
            raise failure
        return True

    async def _rested(self, work: Awaitable[T]) -> T:
        begun = time.monotonic()
        result = await work
        await asyncio.sleep((time.monotonic() - begun) * REST)
        return result

    async def _holds_lease(self) -> bool:
        """Whether this worker may walk; prolongs the lease. Two that believe so at once do no harm."""
        try:
            self.is_leading = await self._prolong_lease()
        except StoreError as error:
            if error.code != "store_full":
                raise
            # No room for a lease: then it matters most that somebody walks, and room is made.
            self._is_full = True
            return True
        self._is_full = False
        return self.is_leading

    async def _prolong_lease(self) -> bool:
        lease_ms = max(MIN_LEASE_MS, int(self._interval_seconds * 3000))
        words = ("SET", schema.RETENTION_LEASE, self._name)
        if await self._client.command(*words, "NX", "PX", lease_ms):
            return True
        if await self._client.command("GET", schema.RETENTION_LEASE) != self._name.encode():
            return False
        await self._client.command(*words, "PX", lease_ms)
        return True

    async def _release_lease(self) -> None:
        self.is_leading = False
        if await self._client.command("GET", schema.RETENTION_LEASE) == self._name.encode():
            await self._client.command("DEL", schema.RETENTION_LEASE)

    async def _names(self, after: bytes) -> list[bytes]:
        first = b"(" + after if after else "-"
        names: list[bytes] = await self._client.command(
            "ZRANGE", schema.TOPICS, first, "+", "BYLEX", "LIMIT", 0, SLICE_TOPICS
        )
        return names

    async def _trim_topics(self, names: Sequence[bytes], silent: dict[Shard | None, StoreError]) -> None:
        """One after the other, not together: so the server has time for others in between. A shard that
        does not do what it should is left alone for this walk.
        """
        now_ms = self._clock()
        for name in names:
            topic = schema.topic_named(name)
            shard = None if topic is None else self._client.home(schema.stream(topic).encode())
            if shard in silent:
                continue
            try:
                trimmed = None if topic is None else await self._trims.trim(topic, now_ms, TRIMS_A_TOPIC)
                if trimmed is None:
                    await self._unlist(name)
                else:
                    self.counters.trimmed_messages += trimmed.count
            except StoreError as error:
                silent[shard] = error

    async def _unlist(self, name: bytes) -> None:
        await self._client.command("ZREM", schema.TOPICS, name)
        topic = schema.topic_named(name)
        # Made between the look and the removal? Then whoever made it has listed it in vain.
        if topic is not None and await self._exists(topic):
            await self._client.command("ZADD", schema.TOPICS, 0, name)

    async def _exists(self, topic: str) -> bool:
        stream, meta = schema.stream_keys(topic)
        if await self._client.command("EXISTS", stream):
            return True
        return bool(await self._client.command("HEXISTS", meta, "epoch"))

    async def _list_found(self) -> bool:
        """One step of the scan: list the topics found. True when it has been through all keys."""
        keys, is_done = await self._scan.step()
        topics = [topic for key in keys if (topic := schema.topic_of(key)) is not None]
        if topics:
            pairs = [word for topic in topics for word in (0, topic)]
            await self._client.command("ZADD", schema.TOPICS, *pairs)
        return is_done
