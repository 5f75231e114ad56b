"""The lines of a cluster: each command goes to the primary of its key, and goes on from there if that has
moved.

    MOVED      the slot has another owner: the map is corrected, the command repeated there
    ASK        the slot is on its way and this key is there already: the same, for once
    TRYAGAIN   some of the command's keys are on their way: repeated after a pause
    others     come back as they are; those that tell of a change make the map be asked for anew

What is repeated here was refused without being carried out. What has an unknown outcome is not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from actors.ports import StoreError
from pulsar_relay.store.line import Answer, Line
from pulsar_relay.store.link import Place, Word
from pulsar_relay.store.refusals import ElsewhereError
from pulsar_relay.store.shard import Shard
from pulsar_relay.store.slots import slot_of_command

MOVES = 8
"""So often a command is sent on: maps that disagree for longer are none to go by."""
PAUSE_SECONDS = 0.05
CHANGES = frozenset({"store_unavailable", "store_cluster_down", "store_read_only", "store_primary_down"})
"""What may mean that a slot has another owner now."""


class Topology(Protocol):
    """Who knows which primary has which slots."""

    timeout_seconds: float

    async def located(self, slot: int) -> Place:
        """StoreError while nobody can tell."""

    def owner(self, slot: int) -> Place | None:
        """The same at once; None if that is not known yet."""

    def shard(self, place: Place) -> Shard: ...

    def correct(self, told: ElsewhereError, told_by: Place) -> Place:
        """Note what a node has told, and return the place."""

    def doubt(self) -> None:
        """Ask for the map anew, soon."""


def slot_to_go_to(*commands: tuple[Word, ...]) -> int:
    for words in commands:
        slot = slot_of_command(words)
        if slot is not None:
            return slot
    raise ValueError(f"{commands[0][0]!r} has no key to find its shard by")


class ClusterLine:
    """As a `Line`; commands on one key are carried out in their order as long as it does not move."""

    def __init__(self, topology: Topology, line_at: Callable[[Place], Line]) -> None:
        self._topology = topology
        self._line_at = line_at

    def call(self, *words: Word) -> Answer:
        """As `Line.call`; ValueError for a command without a key."""
        answer: Answer = asyncio.get_running_loop().create_future()
        self.send(words, answer)
        return answer

    def send(self, words: tuple[Word, ...], answer: Answer) -> None:
        """As `call`, for a future that the caller has made."""
        _Errand(self._topology, self._line_at, slot_to_go_to(words), words, answer).begin()


class _Errand:
    """One command on its way to who carries it out."""

    __slots__ = (
        *("_answer", "_asked", "_begun_at", "_line_at", "_loop", "_moves", "_place", "_slot", "_topology"),
        "_words",
    )

    def __init__(
        self,
        topology: Topology,
        line_at: Callable[[Place], Line],
        slot: int,
        words: tuple[Word, ...],
        answer: Answer,
    ) -> None:
        self._topology = topology
        self._line_at = line_at
        self._slot = slot
        self._words = words
        self._answer = answer
        self._loop = answer.get_loop()
        self._begun_at = self._loop.time()
        self._moves = 0
        self._asked: asyncio.Future[Any] | None = None
        self._place: Place = ("", 0)
        answer.add_done_callback(self._on_settled)

    def begin(self) -> None:
        if self._answer.done():
            return
        place = self._topology.owner(self._slot)
        if place is not None:
            self._go(place)
            return
        locating = self._asked = asyncio.ensure_future(self._topology.located(self._slot))
        locating.add_done_callback(self._on_located)

    def _go(self, place: Place, *, asking: bool = False) -> None:
        self._place = place
        line = self._line_at(place)
        if asking:
            # In the same write, with nothing in between. Should it fail so does what it is for.
            line.call("ASKING").add_done_callback(_hear_out)
        asked = self._asked = line.call(*self._words)
        asked.add_done_callback(self._on_answer)

    def _on_settled(self, answer: Answer) -> None:
        """Given up by who asked, or done: what was not sent yet need not be."""
        if self._asked is not None and not self._asked.done():
            self._asked.cancel()

    def _on_located(self, locating: asyncio.Future[Place]) -> None:
        if self._answer.done() or locating.cancelled():
            _hear_out(locating)
        elif (error := locating.exception()) is not None:
            self._answer.set_exception(error)
        else:
            self._go(locating.result())

    def _on_answer(self, asked: Answer) -> None:
        if self._answer.done() or asked.cancelled():
            _hear_out(asked)
            return
        error = asked.exception()
        if error is None:
            self._answer.set_result(asked.result())
        elif isinstance(error, ElsewhereError) and self._moves < MOVES:
            self._moves += 1
            self._go(self._topology.correct(error, self._place), asking=error.asking)
        elif self._may_pause(error):
            self._loop.call_later(PAUSE_SECONDS, self.begin)
        else:
            if isinstance(error, StoreError) and error.code in CHANGES:
                self._topology.doubt()
            self._answer.set_exception(error)

    def _may_pause(self, error: BaseException) -> bool:
        is_moving = isinstance(error, StoreError) and error.code == "store_moving"
        return is_moving and self._loop.time() - self._begun_at < self._topology.timeout_seconds


class ClusterPages:
    """As `Lines`; the commands of one call have their keys in one slot."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology

    async def call(self, *words: Word) -> Any:
        """As `Lines.call`."""
        return (await self.call_all(words))[0]

    async def call_all(self, *commands: tuple[Word, ...]) -> list[Any]:
        """As `Lines.call_all`."""
        topology, loop = self._topology, asyncio.get_running_loop()
        slot, until = slot_to_go_to(*commands), loop.time() + topology.timeout_seconds
        place, moves, asking = await topology.located(slot), 0, False
        while True:
            pages = topology.shard(place).pages
            try:
                if asking:
                    return (await pages.call_all(("ASKING",), *commands))[1:]
                return await pages.call_all(*commands)
            except ElsewhereError as error:
                moves += 1
                if moves > MOVES:
                    raise
                place, asking = topology.correct(error, place), error.asking
            except StoreError as error:
                if error.code != "store_moving" or loop.time() > until:
                    if error.code in CHANGES:
                        topology.doubt()
                    raise
                await asyncio.sleep(PAUSE_SECONDS)
                place, asking = await topology.located(slot), False


def _hear_out(answer: asyncio.Future[Any]) -> None:
    """Take the outcome of a future that nobody waits for any more."""
    if not answer.cancelled():
        answer.exception()
