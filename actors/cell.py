"""Cell: one actor as the runtime keeps it. The cell is also the actor's address.

Whoever holds the address holds the cell, so a delivery looks nothing up. When the actor ends, its cell lets
go of all that was the actor's and stays behind as a name: an address of a dead actor is a few words of
memory.
"""
# ruff: noqa: N802  # the camelCase names are Thespian's

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from thespian.actors import ActorAddress, WakeupMessage
from thespian.system.timing import timePeriodSeconds

from actors.work import Timer, Work

if TYPE_CHECKING:
    from actors.mailbox import Mailbox
    from actors.runtime import AsyncioSystemBase


class Stop:
    """Sent by an actor to itself, ahead of all other messages: end after the current handler."""

    __slots__ = ()


STOP = Stop()


class Cell(ActorAddress):  # type: ignore[misc]  # thespian has no type hints
    """Address and books of one actor. The camelCase methods are what Thespian's `Actor` asks of `_myRef`."""

    __slots__ = (
        "_aaddr",
        "actor",
        "base",
        "children",
        "fails_fast",
        "globalName",
        "mailbox",
        "parent",
        "receive",
        "source_hash",
        "timers",
        "works",
    )

    def __init__(self, base: AsyncioSystemBase, name: str, parent: Any, source_hash: str | None) -> None:
        self._aaddr = name
        self.base = base
        self.mailbox: Mailbox = base.mailbox
        self.parent = parent
        self.source_hash = source_hash
        self.globalName: str | None = None
        self.actor: Any = None
        # The actor's bound receiveMessage; None when there is no (living) actor.
        self.receive: Callable[[Any, Any], Any] | None = None
        self.fails_fast = False
        # Made on first use: most actors have none of these.
        self.children: dict[str, Cell] | None = None
        self.timers: set[Timer] | None = None
        self.works: set[Work] | None = None

    def __eq__(self, other: object) -> bool:
        return self is other or (type(other) is not Cell and bool(super().__eq__(other)))

    __hash__ = None  # type: ignore[assignment]  # as in Thespian: an address is not a key

    def __copy__(self) -> Cell:
        return self

    def __deepcopy__(self, _memo: Any) -> Cell:
        return self

    def __reduce__(self) -> Any:
        """Pickled, it is a name; the system finds the actor by it if it still lives."""
        return ActorAddress, (self._aaddr,)

    @property
    def address(self) -> Cell:
        return self

    @property
    def instance(self) -> Any:
        """The actor itself, for `actualActorObject` of `thespian.test`; None once it is dead."""
        return self.actor

    # Sending

    def actor_send(self, receiver: Any, message: Any) -> None:
        try:
            mailbox = receiver.mailbox
        except AttributeError:
            receiver = self.base.population.resolve(receiver)
            mailbox = receiver.mailbox
        mailbox.put((receiver, message, self))
        if mailbox.idle:
            mailbox.wake()

    def forward(self, receiver: Any, message: Any, sender: Any) -> None:
        try:
            mailbox = receiver.mailbox
        except AttributeError:
            receiver = self.base.population.resolve(receiver)
            mailbox = receiver.mailbox
        mailbox.put((receiver, message, sender))
        if mailbox.idle:
            mailbox.wake()

    # What takes time

    def call_after(self, seconds: float, message: Any) -> Timer:
        return self.base.carrier.start_timer(self, seconds, message)

    def wakeupAfter(self, period: timedelta | float, payload: Any) -> None:
        self.base.carrier.start_timer(self, timePeriodSeconds(period), WakeupMessage(period, payload))

    def perform(self, awaitable: Awaitable[Any], tag: Any, *, cancel_on_exit: bool) -> None:
        self.base.carrier.start_work(self, awaitable, tag, cancel_on_exit=cancel_on_exit)

    # Life and death

    def stop(self) -> None:
        self.mailbox.put_first((self, STOP, self))
        self.mailbox.wake()

    def createActor(
        self, actor_class: Any, requirements: Any, global_name: Any, source_hash: Any = None
    ) -> Any:
        return self.base.population.create_child(self, actor_class, requirements, global_name, source_hash)

    def actorSystemShutdown(self) -> None:
        self.base.shutdown()

    # The system's rarer services

    def handleDeadLetters(self, _address: Any, enable: bool) -> None:
        self.base._handleDeadLetters(self, enable)

    def registerSourceAuthority(self, _address: Any) -> None:
        self.base.sources.authority = self

    def notifyOnSourceAvailability(self, _address: Any, enable: bool) -> None:
        self.base.sources.notify(self, enable)

    def loadActorSource(self, source: Any) -> str:
        return self.base.loadActorSource(source)

    def unloadActorSource(self, source_hash: str) -> None:
        self.base.unloadActorSource(source_hash)

    def updateCapability(self, name: str, value: Any) -> None:
        self.base.updateCapability(name, value)

    def notifyOnSystemRegistrationChanges(self, _address: Any, _enable: bool) -> None:
        """A system of one process has no convention: there is never a change to notify of."""
