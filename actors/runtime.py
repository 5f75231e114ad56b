"""AsyncioSystemBase: a Thespian system base whose actors run on an asyncio event loop.

    system = ActorSystem(systemBase=AsyncioSystemBase(), transientUnique=True)

Where a loop runs, everything returns at once and actors run in bursts on that loop; awaiting an answer is
`base_of(system).ask_soon(...)`. Where none runs, `tell`, `ask` and `listen` block and turn a loop of the
base's own meanwhile, so that the same actors work in a script. The base knows nothing of what its actors do,
never configures logging, and needs nothing but Thespian.

This module is the front. Behind it: `mailbox` (delivery), `population` (creating, failing, ending), `carrier`
(loops, timers, work), `cell` (one actor), `loop_actor` (what our actors can do beyond Thespian), `ask`,
`work`, `outside`, `sources`, `status`.
"""
# ruff: noqa: N802, N803  # the camelCase names are Thespian's

from __future__ import annotations

import asyncio
import sys
import threading
import time
from datetime import timedelta
from typing import Any

from thespian.actors import ActorExitRequest, ActorSystem, ThespianGeneration
from thespian.system.timing import timePeriodSeconds

from actors.ask import Ask, AskFailed, AskTimeout, DeadActorError, PoisonError, UnansweredError, expire
from actors.carrier import Carrier
from actors.cell import Cell
from actors.loop_actor import LoopActor
from actors.mailbox import HANDLER_ERRORS, Envelope, running_loop
from actors.outside import NOTHING
from actors.population import Population
from actors.work import Performed, PerformFailed, Timer

__all__ = [
    "HANDLER_ERRORS",
    "AskFailed",
    "AskTimeout",
    "AsyncioSystemBase",
    "DeadActorError",
    "LoopActor",
    "PerformFailed",
    "Performed",
    "PoisonError",
    "Timer",
    "UnansweredError",
    "base_of",
]

BURST_MESSAGES = 4096
BURST_SECONDS = 0.002


class AsyncioSystemBase:
    """Runs the actors of one `ActorSystem`. The camelCase methods are what `ActorSystem` asks of its base.

    `system` and `logDefs` come first because Thespian constructs its bases so; `logDefs` is for bases that
    configure logging, which this one leaves to the program. `capabilities` are added to those of `system`; a
    base that is made before its `ActorSystem` needs them, since Thespian does not show it the system.
    """

    def __init__(
        self,
        system: ActorSystem | None = None,
        logDefs: Any = None,
        *,
        capabilities: dict[str, Any] | None = None,
        burst_messages: int = BURST_MESSAGES,
        burst_seconds: float = BURST_SECONDS,
    ) -> None:
        # The system's own dict, not a copy: what is updated there must be seen here.
        known: dict[str, Any] = system.capabilities if system is not None else {}
        known.update(capabilities or {})
        known.update(_own_capabilities())
        self.population = Population(self, known, burst_messages=burst_messages, burst_seconds=burst_seconds)
        self.mailbox = self.population.mailbox
        self.sources = self.population.sources
        self.carrier = Carrier(self.mailbox, self.population.timers)
        self._listener = self.population.open_listener()
        self.carrier.attach_if_running()

    def newPrimaryActor(
        self, actor_class: Any, requirements: Any = None, global_name: Any = None, source_hash: Any = None
    ) -> Any:
        """Create an actor that the system itself is parent of; what its `__init__` raises is raised here."""
        # Here, and not only when something is sent: the first to send may be a thread without a loop.
        self.carrier.attach_if_running()
        return self.population.create_primary(actor_class, requirements, global_name, source_hash)

    # From the outside

    def tell(self, address: Any, message: Any) -> None:
        """Send from the outside. Returns at once where a loop runs, else when all that follows is done."""
        envelope = (self.population.resolve(address), message, self._listener)
        if self.carrier.attach().is_running():
            self.population.post(envelope)
        else:
            self.carrier.turn(envelope, None, None)

    def ask(self, address: Any, message: Any, timeout: timedelta | float | None = None) -> Any:
        """Send, then `listen`. Blocks."""
        return self._listen((self.population.resolve(address), message, self._listener), timeout)

    def listen(self, timeout: timedelta | float | None = None) -> Any:
        """The next message any actor sends to the outside; None if none comes in time, or none can come.

        Blocks: raises RuntimeError in a thread whose loop runs. `timeout` in seconds; None waits as long as
        it takes.
        """
        return self._listen(None, timeout)

    def _listen(self, envelope: Envelope | None, timeout: timedelta | float | None) -> Any:
        refuse_to_block()
        seconds = None if timeout is None else timePeriodSeconds(timeout)
        if self.carrier.attach().is_running():
            if envelope is not None:
                self.population.post(envelope)
            message = self._listener.wait(seconds)
        else:
            self.carrier.turn(envelope, self._listener.has_heard, seconds)
            message = self._listener.take()
        return None if message is NOTHING else message

    def is_alive(self, address: Any) -> bool:
        """Whether there is an actor of this system at `address`."""
        return self.population.resolve(address).receive is not None

    def ask_soon(self, address: Any, message: Any, timeout: float | None = None) -> asyncio.Future[Any]:
        """Send at once, on the running loop, and return the future of the answer; any number can be pending.

        Raises (when awaited) AskTimeout after `timeout` seconds, and AskFailed when there can be no answer:
        the handler raised, the actor is dead or stops before the message's turn, or the last one who held the
        ask's address let it go. Cancelling the future drops a late answer; the message itself is not called
        back.
        """
        loop = running_loop()
        if loop is None or (loop is not self.carrier.loop and loop is not self.carrier.attach()):
            raise RuntimeError(
                "ask_soon is for the thread in which the actors' loop runs; elsewhere, use ask"
            )
        receiver = self.population.resolve(address)
        future: asyncio.Future[Any] = loop.create_future()
        timer = None if timeout is None else loop.call_later(timeout, expire, future, receiver, timeout)
        self.population.post((receiver, message, Ask(self.mailbox, future, timer)))
        return future

    def external_clone(self) -> PrivateContext:
        return PrivateContext(self)

    # The system's rarer services

    @property
    def actorRegistry(self) -> dict[str, Cell]:
        """Living actors by the text of their address, under the name Thespian's test support looks for."""
        return self.population.cells

    def _handleDeadLetters(self, address: Any, enable: bool) -> None:
        """The last to register gets the dead letters; when it leaves, nobody does."""
        cell = self.population.resolve(address)
        if enable:
            self.population.dead_letter_handler = cell
        elif cell is self.population.dead_letter_handler:
            self.population.dead_letter_handler = None

    def updateCapability(self, name: str, value: Any = None) -> None:
        if value is None:
            self.population.capabilities.pop(name, None)
        else:
            self.population.capabilities[name] = value

    def setProcessingLimit(self, limit: int = 0) -> None:
        """Have a blocking call raise RuntimeError once it delivered more than `limit` messages (0: any)."""
        self.carrier.messages_limit = limit

    def loadActorSource(self, source: Any) -> str:
        source_hash = self.sources.load(source)
        if not self.carrier.attach().is_running():
            self.carrier.turn(None, None, None)
        return source_hash

    def unloadActorSource(self, source_hash: str) -> None:
        self.sources.unload(source_hash)
        self.population.forget_classes()

    # The end

    def shutdown(self) -> None:
        """Stop all actors; on return nothing of them runs any more. Called by an actor: after the current
        burst.

        The order: no actor is created any more; what is in the mailbox is delivered; primary actors get their
        ActorExitRequest, the newest first, each before its children; what they still send is delivered, or,
        if to the dead, answered by AskFailed. Their timers end with them; work not marked cancel_on_exit is
        left to its loop.
        """
        if not self.population.is_closed:
            loop = self.carrier.attach()
            if not loop.is_running():
                self.carrier.run(self._stop_all)
            elif running_loop() is not loop:
                done = threading.Event()
                loop.call_soon_threadsafe(self._stop_all, done)
                done.wait()
            elif self.mailbox.bursting:
                loop.call_soon(self._stop_all)
            else:
                self._stop_all()
        self.carrier.close()

    def _stop_all(self, done: threading.Event | None = None) -> None:
        population = self.population
        population.is_closed = True
        while population.cells or len(self.mailbox):
            for cell in reversed(population.primary()):
                population.send_as_system(cell, ActorExitRequest())
            while len(self.mailbox):
                self.mailbox.burst()
        self.sources.unload_all()
        if done is not None:
            done.set()

    # What an operator may ask; none of it costs a delivery anything

    @property
    def actors_alive(self) -> int:
        return len(self.population.cells)

    @property
    def messages_waiting(self) -> int:
        return len(self.mailbox)

    @property
    def messages_delivered(self) -> int:
        """Since the start, dead letters included; a burst under way is not counted yet."""
        return self.mailbox.delivered

    @property
    def dead_letters(self) -> int:
        return self.population.dead_letters

    @property
    def longest_burst_milliseconds(self) -> float:
        return self.mailbox.longest_burst_seconds * 1000


class PrivateContext:
    """What `ActorSystem.private()` gives a thread: a listener of its own on the same actors."""

    def __init__(self, base: AsyncioSystemBase) -> None:
        self._base = base
        self._listener = base.population.open_listener()
        base.carrier.listeners_elsewhere.append(self._listener)

    def newPrimaryActor(self, *arguments: Any) -> Any:
        return self._base.newPrimaryActor(*arguments)

    def tell(self, address: Any, message: Any) -> None:
        """Returns at once. Where no loop runs, the message waits for a blocking call of another thread."""
        population = self._base.population
        population.post((population.resolve(address), message, self._listener))

    def ask(self, address: Any, message: Any, timeout: timedelta | float | None = None) -> Any:
        self.tell(address, message)
        return self.listen(timeout)

    def listen(self, timeout: timedelta | float | None = None) -> Any:
        """Blocks this thread, which must not be the one that runs the actors."""
        refuse_to_block()
        message = self._listener.wait(None if timeout is None else timePeriodSeconds(timeout))
        return None if message is NOTHING else message

    def exit_context(self) -> None:
        self._base.carrier.listeners_elsewhere.remove(self._listener)
        self._base.population.close_listener(self._listener)


def base_of(system: ActorSystem) -> AsyncioSystemBase:
    """The base of an actor system, where only the system is at hand."""
    base = system._systemBase
    if not isinstance(base, AsyncioSystemBase):
        raise TypeError(f"{system} does not run on an AsyncioSystemBase")
    return base


def refuse_to_block() -> None:
    if running_loop() is not None:
        raise RuntimeError("ask and listen would block the running event loop; await ask_soon instead")


def _own_capabilities() -> dict[str, Any]:
    return {
        "Python Version": tuple(sys.version_info),
        "Thespian Generation": ThespianGeneration,
        "Thespian Version": str(int(time.time() * 1000)),
        "Thespian ActorSystem Name": "asyncioSystem",
        "Thespian ActorSystem Version": 1,
        "Thespian Watch Supported": False,
        "AllowRemoteActorSources": "No",
    }
