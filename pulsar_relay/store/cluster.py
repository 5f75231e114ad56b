"""Cluster: several primaries that share the topics among them, and the map of who has which.

Any node tells the map. Some are asked at once, as one alone may be cut off from the others, and the one that
has come furthest is believed: each change of an owner begins a new epoch. The map is asked for when something
hints at a change, and now and then; each MOVED corrects it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from actors.ports import StoreError
from pulsar_relay.store.cluster_identity import ClusterIdentity, ShardIdentity
from pulsar_relay.store.cluster_lines import ClusterLine, ClusterPages
from pulsar_relay.store.identity import StoreIdentity
from pulsar_relay.store.line import Line
from pulsar_relay.store.link import Endpoint, Place, Word
from pulsar_relay.store.refusals import ElsewhereError
from pulsar_relay.store.shard import REPLACED, Shard
from pulsar_relay.store.slots import SlotMap, slot_of, tag_of

logger = logging.getLogger(__name__)

T = TypeVar("T")

ASKED_NODES = 5
LATECOMERS_SECONDS = 0.1
"""How long the first map waits for others, which may be later."""
REFRESH_SECONDS, RETRY_SECONDS = 5.0, 0.5
LEAST_REFRESH_SECONDS = 0.1
RETIRED_SECONDS = 0.5
"""What a primary that has lost its slots still has to answer, it answers within this time, or not at all."""


class Cluster:
    """A `Client`. `endpoint` is how to get into a node, wherever it is; it begins with those at `seeds`.

    All methods belong to one loop and raise StoreError only.
    """

    publish_word = "SPUBLISH"
    passing_codes = REPLACED | {"store_cluster_down", "store_moving"}

    def __init__(
        self,
        endpoint: Endpoint,
        seeds: Sequence[Place],
        max_pages: int,
        replicas: int = 0,
        identity: StoreIdentity | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._seeds = seeds
        self._max_pages = max_pages
        self._replicas = replicas
        self.timeout_seconds = endpoint.command_timeout_seconds
        self._shards: dict[Place, Shard] = {}
        self._bare: dict[Place, Line] = {}
        self._map: SlotMap | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._again: asyncio.TimerHandle | None = None
        self._again_at = 0.0
        self._refreshed_at = float("-inf")
        self._is_closed = False
        self._listeners: list[Callable[[], None]] = []
        self._closing: set[asyncio.Task[None]] = set()
        self.identity = ClusterIdentity(identity or StoreIdentity(), ClusterLine(self, self._bare_line).call)
        self._has_identity = identity is not None
        self.line = ClusterLine(self, lambda place: self.shard(place).line)
        self.appends = ClusterLine(self, lambda place: self.shard(place).appends)
        self.pages = ClusterPages(self)

    async def command(self, *words: Word) -> Any:
        """Run one command with a short answer, once: the error says whether its outcome is known."""
        return await self.line.call(*words)

    async def shards(self) -> Sequence[Shard]:
        return [self.shard(place) for place in (await self._known_map()).primaries]

    def apart(self, items: Sequence[T], key: Callable[[T], str]) -> Sequence[Sequence[int]]:
        """The items, by their index, slot by slot: no script may have the keys of two."""
        slots: dict[int, list[int]] = {}
        for index, item in enumerate(items):
            slots.setdefault(slot_of(key(item)), []).append(index)
        return list(slots.values())

    async def load_script(self, text: bytes) -> None:
        """On all shards that can be reached."""
        loads = [shard.load_script(text) for shard in await self.shards()]
        failures = [
            failure for failure in await asyncio.gather(*loads, return_exceptions=True) if failure is not None
        ]
        if len(failures) == len(loads):
            raise failures[0]

    async def check_identity(self) -> None:
        """See `ClusterIdentity.check`."""
        await self._known_map()
        await self.identity.check()

    async def accept(self, known: str) -> str:
        """See `ClusterIdentity.accept`."""
        return await self.identity.accept(known)

    async def aclose(self) -> None:
        self._is_closed = True
        if self._again is not None:
            self._again.cancel()
        if self._refreshing is not None:
            self._refreshing.cancel()
            with contextlib.suppress(asyncio.CancelledError, StoreError):
                await self._refreshing
        await self.identity.aclose()
        for shard in self._shards.values():
            await shard.aclose()
        for line in self._bare.values():
            await line.aclose()
        if self._closing:
            await asyncio.wait(self._closing)

    @property
    def refused_shards(self) -> Mapping[str, str]:
        """Those that are no part of the store this relay knows, and why: a row of the error table."""
        return {_name(place): code for place, code in self.identity.failures.items()}

    # What is known at once

    def known_shards(self) -> Sequence[Shard]:
        return [] if self._map is None else [self.shard(place) for place in self._map.primaries]

    def home(self, key: bytes) -> Shard | None:
        place = self.owner(slot_of(key))
        return None if place is None else self.shard(place)

    def tag_at(self, shard: Shard) -> str | None:
        """Before the first map any will do: whoever has it says where it is."""
        slots = {} if self._map is None else self._map.first_slots()
        return tag_of(next((slot for place, slot in slots.items() if _name(place) == shard.name), 0))

    def listen(self, on_change: Callable[[], None]) -> None:
        self._listeners.append(on_change)
        if self._map is None:
            self.doubt()

    def note_move(self, told: ElsewhereError, told_by: str) -> None:
        host = told.place[0] or next(place[0] for place in self._shards if _name(place) == told_by)
        self.correct(told, (host, 0))

    # Topology

    async def located(self, slot: int) -> Place:
        place = (await self._known_map()).owner(slot)
        if place is None:
            self.doubt()
            raise StoreError("store_cluster_down", "nobody has the slot of this topic")
        return place

    def owner(self, slot: int) -> Place | None:
        return None if self._map is None else self._map.owner(slot)

    def shard(self, place: Place) -> Shard:
        shard = self._shards.get(place)
        if shard is None:
            endpoint = self._endpoint.at(place)
            if self._has_identity:
                endpoint = replace(endpoint, identity=ShardIdentity(self.identity, place))
            shard = self._shards[place] = Shard(_name(place), endpoint, self._max_pages, self._replicas)
            if self._is_closed:
                # What still asks is told so.
                self._close(shard)
        return shard

    def correct(self, told: ElsewhereError, told_by: Place) -> Place:
        place = (told.place[0] or told_by[0], told.place[1])
        if not told.asking:
            if self._map is not None and self._map.owner(told.slot) != place:
                self._map.move(told.slot, place)
                self._tell()
            self.doubt()
        return place

    def doubt(self) -> None:
        if self._refreshing is None and not self._is_closed:
            self._refresh_in(max(0.0, self._refreshed_at + LEAST_REFRESH_SECONDS - _now()))

    async def _known_map(self) -> SlotMap:
        if self._map is None:
            await asyncio.shield(self._refresh())
        assert self._map is not None
        return self._map

    def _refresh_in(self, seconds: float) -> None:
        due = _now() + seconds
        if self._again is not None:
            if self._again_at <= due:
                return
            self._again.cancel()
        self._again_at = due
        self._again = asyncio.get_running_loop().call_later(seconds, self._refresh)

    def _refresh(self) -> asyncio.Task[None]:
        if self._refreshing is None:
            self._refreshing = asyncio.get_running_loop().create_task(self._ask_all(), name="cluster map")
            self._refreshing.add_done_callback(self._on_refreshed)
        return self._refreshing

    def _on_refreshed(self, refreshing: asyncio.Task[None]) -> None:
        self._refreshing = None
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if refreshing.cancelled() or self._is_closed:
            return
        if (error := refreshing.exception()) is not None:
            logger.debug("cluster: no node tells the map (%s)", error)
        seconds = RETRY_SECONDS if self._map is None else REFRESH_SECONDS
        self._refresh_in(seconds * random.uniform(0.8, 1.2))

    async def _ask_all(self) -> None:
        """Raises StoreError "store_unavailable" if no node tells, or what is wrong with the identity."""
        self._refreshed_at = _now()
        known = [] if self._map is None else self._map.primaries
        places = list(dict.fromkeys([*known, *self._seeds]))
        random.shuffle(places)
        asked = [asyncio.ensure_future(self._ask(place)) for place in places[:ASKED_NODES]]
        found: list[SlotMap] = []
        try:
            async with asyncio.timeout(self.timeout_seconds) as deadline:
                for answer in asyncio.as_completed(asked):
                    if (one := await answer) is not None:
                        if not found:
                            deadline.reschedule(_now() + LATECOMERS_SECONDS)
                        found.append(one)
        except TimeoutError:
            pass  # what was not told by now does not count
        finally:
            for one_asked in asked:
                one_asked.cancel()
        if not found:
            raise StoreError("store_unavailable", "no node of the cluster answers")
        self._learn(max(found, key=lambda one: (one.is_whole, one.epoch)))

    async def _ask(self, place: Place) -> SlotMap | None:
        line = self._bare_line(place)
        try:
            information, ranges = await asyncio.gather(
                line.call("CLUSTER", "INFO"), line.call("CLUSTER", "SLOTS")
            )
        except StoreError as error:
            logger.debug("cluster: %s:%d does not tell the map (%s)", *place, error.code)
            return None
        fields = dict(row.split(":", 1) for row in information.decode().splitlines() if ":" in row)
        return SlotMap.of(ranges, int(fields.get("cluster_current_epoch", 0)), place)

    def _learn(self, found: SlotMap) -> None:
        self._map = found
        primaries = set(found.primaries)
        gone = [place for place in self._shards if place not in primaries]
        if gone:
            asyncio.get_running_loop().call_later(RETIRED_SECONDS, self._retire, gone)
        self._tell()

    def _tell(self) -> None:
        assert self._map is not None
        self.identity.learn(self._map)
        for on_change in self._listeners:
            on_change()

    def _retire(self, places: Sequence[Place]) -> None:
        primaries = set() if self._map is None else set(self._map.primaries)
        for place in places:
            if place in primaries:
                continue
            if (shard := self._shards.pop(place, None)) is not None:
                logger.info("cluster: %s has no topics any more", shard.name)
                self._close(shard)
            if place not in self._seeds and (line := self._bare.pop(place, None)) is not None:
                self._close(line)

    def _close(self, what: Shard | Line) -> None:
        closing = asyncio.get_running_loop().create_task(what.aclose())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def _bare_line(self, place: Place) -> Line:
        """One to a node of which nothing need be known."""
        line = self._bare.get(place)
        if line is None:
            line = self._bare[place] = Line(self._endpoint.at(place))
        return line


def _name(place: Place) -> str:
    host, port = place
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _now() -> float:
    return asyncio.get_running_loop().time()
