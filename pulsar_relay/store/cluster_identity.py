"""ClusterIdentity: whether each shard of a cluster still holds its part of the store this relay knows.

The store's id stands in one place, as in any store (`identity.py`). Marks with the same id stand in keys that
are spread over the slots, so that each shard has some, also those that have come to it with their slots. Who
lacks a mark has lost its data: nothing is read from that shard or written, and the others go on.

A store that is new gets its id first, and its marks then, by whoever comes by; that all are there is noted
beside the id. From then on none is made anew but by an operator.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from weakref import WeakKeyDictionary

from actors.ports import StoreError
from pulsar_relay.store import schema
from pulsar_relay.store.identity import Ask, Identity, Severable, StoreIdentity, identity_of, new_id
from pulsar_relay.store.identity import accept as accept_store
from pulsar_relay.store.line import Answer
from pulsar_relay.store.link import Place
from pulsar_relay.store.refusals import STORE_EMPTY, STORE_FOREIGN
from pulsar_relay.store.slots import SLOTS, SlotMap, tag_of

logger = logging.getLogger(__name__)

MARKS = 64
MARKED_SLOTS = range(0, SLOTS, SLOTS // MARKS)
VERDICT_SECONDS = 0.5
"""So long a shard that was refused is not asked again for each connection to it."""

Marks = Mapping[int, str | None]
"""By slot, those that could be read."""


class ClusterIdentity:
    """`store` remembers; `call` finds the shard of a key, also one that is refused."""

    def __init__(self, store: StoreIdentity, call: Callable[..., Answer]) -> None:
        self._store = store
        self._call = call
        self._map: SlotMap | None = None
        self._links: WeakKeyDictionary[Severable, Place] = WeakKeyDictionary()
        self._checking: asyncio.Task[None] | None = None
        self._checked_at = float("-inf")
        self.failures: Mapping[Place, str] = {}
        """The shards that are refused, and why: a row of the error table."""

    def learn(self, slots: SlotMap) -> None:
        self._map = slots

    async def check(self) -> None:
        """Judge the shards anew, and sever connections to those that are refused. Raises StoreError if no
        shard can be judged, or all are refused.
        """
        if self._checking is None or self._checking.done():
            self._checking = asyncio.get_running_loop().create_task(self._check(), name="cluster identity")
            self._checking.add_done_callback(_hear_out)
        await asyncio.shield(self._checking)

    async def admit(self, place: Place, ask: Ask) -> None:
        """Ask a shard for its marks. Raises StoreError if it lacks some, or has others."""
        if place in self.failures and _now() - self._checked_at < VERDICT_SECONDS:
            raise StoreError(self.failures[place])
        if self._store.remembered is None:
            await self.check()
        assert self._map is not None
        for slot in self._map.owned(place, MARKED_SLOTS):
            try:
                mark = await ask("GET", schema.mark(tag_of(slot)))
            except StoreError as error:
                if error.code == "store_moving":
                    continue  # it is another's, or on its way
                raise
            if mark != (self._store.remembered or "").encode():
                await self.check()
                if place in self.failures:
                    raise StoreError(self.failures[place])

    def watch(self, link: Severable, place: Place) -> None:
        self._links[link] = place

    async def aclose(self) -> None:
        """Give up the question under way."""
        if self._checking is not None:
            self._checking.cancel()
            await asyncio.wait([self._checking])

    async def accept(self, known: str) -> str:
        """Have the shards that have lost their data go on with what they hold now, or, if the whole store is
        another one, that take the place of `known`; returns the store's id.

        ValueError if there is nothing to accept.
        """
        main, marks, failures = await self._look()
        if failures or main is None:
            raise failures[0]
        found = main.id or _most_common(marks)
        missing = [slot for slot, mark in marks.items() if mark is None]
        if found == known:
            if main.id and not missing:
                raise ValueError(f"this is the store {known}, and it is whole: there is nothing to accept")
            await self._call("HSETNX", schema.IDENTITY, schema.IDENTITY_ID, known)
        else:
            found = await accept_store(self._call, known)
        await self._mark(missing, found)
        return found

    async def _check(self) -> None:
        main, marks, failures = await self._look()
        self._judge_all(main, marks, failures)
        if self._store.remembered is None:
            await self._call("HSETNX", schema.IDENTITY, schema.IDENTITY_ID, new_id())
            main = await identity_of(self._call)
            self._store.judge(main)
        known = self._store.remembered
        assert known is not None
        if main is not None and main.id == known and not main.is_marked:
            await self._mark([slot for slot in MARKED_SLOTS if marks.get(slot) is None], known)
            _, marks, failures = await self._look()
        self._judge_shards(known, marks, failures)

    def _judge_all(self, main: Identity | None, marks: Marks, failures: Sequence[StoreError]) -> None:
        """What is known of the store as a whole. Raises StoreError."""
        common = _most_common(marks)
        if main is not None and main.id:
            self._store.judge(main)
        elif self._store.remembered is None and common:
            self._store.judge(Identity({schema.IDENTITY_ID: common}))
        elif not common and failures:
            raise failures[0]
        elif not common and self._store.remembered is not None:
            self._store.judge(Identity({}))

    def _judge_shards(self, known: str, marks: Marks, failures: Sequence[StoreError]) -> None:
        assert self._map is not None
        refused: dict[Place, str] = {}
        owners = set()
        for slot, mark in marks.items():
            place = self._map.owner(slot)
            if place is not None:
                owners.add(place)
                if mark != known:
                    refused[place] = STORE_FOREIGN if mark else STORE_EMPTY
        before, self.failures, self._checked_at = self.failures, refused, _now()
        for place, code in refused.items():
            if place not in before:
                self._tell(place, code, known)
        for link, place in list(self._links.items()):
            if place in refused:
                link.sever()
        if healed := [place for place in before if place not in refused and place in owners]:
            logger.info("store: %s again a part of %s", _listed(healed), known)
            self._store.on_succeeded()
        if refused and len(refused) == len(owners):
            raise StoreError(next(iter(refused.values())))
        if failures and not marks:
            raise failures[0]

    def _tell(self, place: Place, code: str, known: str) -> None:
        logger.critical(
            "store: %s: the shard %s %s the store %s that this relay knows. None of its topics is read or "
            "written; the other shards go on. Bring its data back, or go on with what it holds: "
            "pulsar-relay store accept %s",
            code,
            _listed([place]),
            "has lost its data, as part of" if code == STORE_EMPTY else "is no part of",
            known,
            known,
        )

    async def _look(self) -> tuple[Identity | None, dict[int, str | None], list[StoreError]]:
        """Id and marks, as far as they can be read, and why some cannot."""
        replies = await asyncio.gather(
            identity_of(self._call),
            *[self._call("GET", schema.mark(tag_of(slot))) for slot in MARKED_SLOTS],
            return_exceptions=True,
        )
        failures: list[StoreError] = []
        for reply in replies:
            if isinstance(reply, StoreError):
                failures.append(reply)
            elif isinstance(reply, BaseException):
                raise reply
        main = replies[0] if isinstance(replies[0], Identity) else None
        marks = {
            slot: None if reply is None else reply.decode("utf-8", "replace")
            for slot, reply in zip(MARKED_SLOTS, replies[1:], strict=True)
            if reply is None or isinstance(reply, bytes)
        }
        return main, marks, failures

    async def _mark(self, slots: Sequence[int], known: str) -> None:
        """Raises StoreError; then it goes on with the next check."""
        await asyncio.gather(*[self._call("SET", schema.mark(tag_of(slot)), known, "NX") for slot in slots])
        await self._call("HSET", schema.IDENTITY, schema.IDENTITY_MARKED, MARKS)


class ShardIdentity:
    """The identity as a connection to one shard asks for it."""

    def __init__(self, identity: ClusterIdentity, place: Place) -> None:
        self._identity = identity
        self._place = place

    async def admit(self, ask: Ask) -> None:
        await self._identity.admit(self._place, ask)

    async def check(self, ask: Ask) -> None:
        await self._identity.check()

    def watch(self, link: Severable) -> None:
        self._identity.watch(link, self._place)


def _most_common(marks: Marks) -> str:
    found = Counter(mark for mark in marks.values() if mark)
    return found.most_common(1)[0][0] if found else ""


def _hear_out(checking: asyncio.Task[None]) -> None:
    """Who asked may not wait for the answer any more."""
    if not checking.cancelled():
        checking.exception()


def _listed(places: Sequence[Place]) -> str:
    return ", ".join(f"{host}:{port}" for host, port in places)


def _now() -> float:
    return asyncio.get_running_loop().time()
