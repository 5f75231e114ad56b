"""Population: the living actors of one system; how they come to be, how they fail, how they end."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import logging
import traceback
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from thespian.actors import (
    ActorAddress,
    ActorExitRequest,
    ActorSystemFailure,
    ChildActorExited,
    DeadEnvelope,
    InvalidActorAddress,
    NoCompatibleSystemForActor,
    PoisonMessage,
    Thespian_StatusReq,
)
from thespian.system.utilis import actualActorClass

from actors.ask import Ask, DeadActorError, Refusal
from actors.cell import Cell, Stop
from actors.loop_actor import LoopActor
from actors.mailbox import HANDLER_ERRORS, Envelope, Mailbox
from actors.outside import Listener, SystemAddress
from actors.sources import Sources
from actors.status import actor_status, system_status
from actors.work import Performed, PerformFailed, Timer, drop

if TYPE_CHECKING:
    from actors.runtime import AsyncioSystemBase

logger = logging.getLogger(__name__)

SUSPENDABLE = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


class Population:
    """Living actors by name, and all that a delivery can be except a plain one."""

    def __init__(
        self,
        base: AsyncioSystemBase,
        capabilities: dict[str, Any],
        *,
        burst_messages: int,
        burst_seconds: float,
    ) -> None:
        self._base = base
        self.capabilities = capabilities
        self.mailbox = Mailbox(
            self._handle_extraordinary,
            self._handle_failure,
            burst_messages=burst_messages,
            burst_seconds=burst_seconds,
        )
        self.sources = Sources(self.send_as_system)
        self.system_address = SystemAddress("/ActorSys", self.mailbox, self.sources)
        # Both by the text of the address, for addresses that come from elsewhere.
        self.cells: dict[str, Cell] = {}
        self.others: dict[str, Any] = {self.system_address.actorAddressString: self.system_address}
        self.global_names: dict[str, Cell] = {}
        self.dead_letter_handler: Cell | None = None
        self.dead_letters = 0
        self.is_closed = False
        self._serial = itertools.count(1)
        self._plans: dict[type, _Plan] = {}
        self._kinds: dict[type, Callable[[Any, Any, Any], None] | None] = {}

    # Creating

    def create_primary(
        self, actor_class: Any, requirements: Any = None, global_name: Any = None, source_hash: Any = None
    ) -> Any:
        """Create an actor that the system itself is parent of; what its `__init__` raises is raised here."""
        if global_name and global_name in self.global_names:
            return self.global_names[global_name]
        return self._create(self.system_address, actor_class, requirements, global_name, source_hash)

    def create_child(
        self, parent: Cell, actor_class: Any, requirements: Any, global_name: Any, source_hash: Any
    ) -> Any:
        """As Thespian has it, a child that cannot be made is to its parent one that has exited."""
        if global_name and global_name in self.global_names:
            return self.global_names[global_name]
        try:
            return self._create(
                parent, actor_class, requirements, global_name, source_hash or parent.source_hash
            )
        except (ImportError, ActorSystemFailure):
            raise
        except Exception:  # an actor's __init__ may raise anything
            logger.warning("actor %s: its child %s could not be created", parent, actor_class, exc_info=True)
            stillborn = Cell(self._base, f"/{actor_class}~{next(self._serial)}", parent, None)
            self.send_as_system(parent, ChildActorExited(stillborn))
            return stillborn

    def _create(
        self,
        parent: Any,
        actor_class: Any,
        requirements: Any,
        global_name: str | None,
        source_hash: str | None,
    ) -> Cell:
        if self.is_closed:
            raise ActorSystemFailure("the actor system is shut down")
        if isinstance(actor_class, str):
            actor_class = actualActorClass(actor_class, self.sources.loader(source_hash))
        plan = self._plans.get(actor_class)
        if plan is None:
            plan = self._plans[actor_class] = _Plan(actor_class)
        if plan.check is not None and not plan.check(self.capabilities, requirements or {}):
            raise NoCompatibleSystemForActor(actor_class, "no compatible system")
        if plan.init_names:
            offered = {"capabilities": self.capabilities, "requirements": requirements}
            actor = actor_class(**{name: offered[name] for name in plan.init_names})
        else:
            actor = actor_class()
        name = f"/{plan.name}~{next(self._serial)}"
        cell = Cell(self._base, name, parent, source_hash)
        actor._myRef = cell
        cell.actor = actor
        cell.fails_fast = plan.fails_fast
        # A plain Thespian actor may replace its receiveMessage while it lives; ours may not, and are called
        # directly.
        cell.receive = actor.receiveMessage if plan.fails_fast else _late_bound(actor)
        self.cells[name] = cell
        if parent is not self.system_address:
            if parent.children is None:
                parent.children = {}
            parent.children[name] = cell
        if global_name:
            cell.globalName = global_name
            self.global_names[global_name] = cell
        return cell

    # Sending

    def resolve(self, address: Any) -> Any:
        """The address as this system delivers to it. One that no living actor has is a dead actor's."""
        if hasattr(address, "mailbox"):
            return address
        if not isinstance(address, ActorAddress):
            raise InvalidActorAddress(address, "not a valid ActorAddress for sending messages to")
        name = address.actorAddressString
        return (
            self.cells.get(name) or self.others.get(name) or Cell(self._base, name, self.system_address, None)
        )

    def send_as_system(self, receiver: Any, message: Any) -> None:
        self.post((receiver, message, self.system_address))

    def post(self, envelope: Envelope) -> None:
        self.mailbox.put(envelope)
        self.mailbox.wake()

    # Delivering: what the mailbox does not do itself

    def _handle_extraordinary(self, receiver: Any, message: Any, sender: Any) -> None:
        if receiver.receive is None:
            self._handle_dead_letter(receiver, message, sender)
            return
        message_class = type(message)
        try:
            handle = self._kinds[message_class]
        except KeyError:
            handle = self._kinds[message_class] = self._kind_of(message_class)
            if handle is None:
                self.mailbox.ordinary.add(message_class)
        if handle is None:
            receiver.receive(message, sender)
        else:
            handle(receiver, message, sender)

    def _kind_of(self, message_class: type) -> Callable[[Any, Any, Any], None] | None:
        if issubclass(message_class, ActorExitRequest):
            return self._handle_exit_request
        if issubclass(message_class, Thespian_StatusReq):
            return self._handle_status_request
        if message_class is Timer:
            return self._handle_timer
        if message_class is Stop:
            return self._handle_stop
        return None

    def _handle_exit_request(self, receiver: Any, message: Any, sender: Any) -> None:
        if not isinstance(receiver, Cell):
            return
        try:
            receiver.receive(message, sender)  # type: ignore[misc]  # not None: _handle_extraordinary looked
        except HANDLER_ERRORS as error:
            self._handle_failure(receiver, message, sender, error)
        self.end(receiver, recursive=message.isRecursive)

    def _handle_stop(self, receiver: Cell, _message: Any, _sender: Any) -> None:
        self.end(receiver, recursive=True)

    def _handle_timer(self, receiver: Cell, timer: Timer, sender: Any) -> None:
        if timer.cell is None:
            return  # cancelled while it waited in the mailbox
        message = timer.take()
        try:
            self._handle_extraordinary(receiver, message, sender)
        except HANDLER_ERRORS as error:  # the mailbox would report the timer, not the message
            self._handle_failure(receiver, message, sender, error)

    def _handle_dead_letter(self, receiver: Any, message: Any, sender: Any) -> None:
        if isinstance(message, (Performed, PerformFailed)):
            drop(receiver, message)
            return
        if isinstance(sender, Ask):
            self.post((sender, Refusal(DeadActorError(f"{receiver} is dead")), receiver))
        # What the system or the dead actor itself sent concerns nobody any more.
        if sender is self.system_address or sender is receiver:
            return
        self.dead_letters += 1
        handler = self.dead_letter_handler
        if handler is not None and not isinstance(message, DeadEnvelope):
            self.post((handler, DeadEnvelope(receiver, message), sender))

    def _handle_status_request(self, receiver: Any, _message: Any, sender: Any) -> None:
        status = actor_status(receiver, self) if isinstance(receiver, Cell) else system_status(self)
        self.post((sender, status, receiver))

    # Failing

    def _handle_failure(self, receiver: Any, message: Any, sender: Any, error: BaseException) -> None:
        if not isinstance(receiver, Cell) or receiver.receive is None:
            logger.error("%s failed on %s", receiver, type(message).__qualname__, exc_info=error)
        elif receiver.fails_fast:
            self._fail_fast(receiver, message, sender, error)
        else:
            self._try_again(receiver, message, sender, error)

    def _fail_fast(self, cell: Cell, message: Any, sender: Any, error: BaseException) -> None:
        _drop_own_frame(error)
        logger.error("actor %s failed on %s and is stopped", cell, type(message).__qualname__, exc_info=error)
        try:
            cell.actor.on_failure(error, message, sender)
        except HANDLER_ERRORS as another:
            _drop_own_frame(another)
            logger.exception("actor %s: its on_failure failed too", cell)
            _clear_frames(another)
        if isinstance(sender, Ask):
            # After on_failure: if that has answered, in better words than ours, the first answer counts.
            self.post((sender, Refusal(error), cell))
        elif isinstance(sender, Listener):
            # Whoever asks from a thread waits for a message, and knows this one from Thespian.
            self.post((sender, PoisonMessage(message, "".join(traceback.format_exception(error))), cell))
        _clear_frames(error)
        self.end(cell, recursive=True)

    def _try_again(self, cell: Cell, message: Any, sender: Any, error: BaseException) -> None:
        """Thespian's way: once more, then the message goes back to its sender as poison."""
        logger.warning("actor %s failed on %s", cell, type(message).__qualname__, exc_info=error)
        if isinstance(message, ActorExitRequest) or cell.receive is None:
            return
        try:
            cell.receive(message, sender)
        except HANDLER_ERRORS:
            logger.warning("actor %s failed on %s again", cell, type(message).__qualname__, exc_info=True)
            if not isinstance(message, PoisonMessage):
                self.post((sender, PoisonMessage(message, traceback.format_exc()), cell))

    # Ending

    def end(self, cell: Cell, *, recursive: bool) -> None:
        """Dead first, unlisted after: from here on everything sent to `cell` is a dead letter."""
        if cell.receive is None:
            return
        cell.receive = None
        cell.actor = None
        self.cells.pop(cell._aaddr, None)
        if cell.globalName is not None:
            self.global_names.pop(cell.globalName, None)
        if cell is self.dead_letter_handler:
            self.dead_letter_handler = None
        self.sources.forget(cell)
        timers, works, children, parent = cell.timers, cell.works, cell.children, cell.parent
        cell.timers = cell.works = cell.children = None
        cell.parent = self.system_address
        for timer in timers or ():
            timer.cancel()
        for work in works or ():
            work.future.cancel()
        for child in (children or {}).values():
            child.parent = self.system_address
            if recursive:
                self.send_as_system(child, ActorExitRequest())
        if parent is not self.system_address:
            if parent.children is not None:
                parent.children.pop(cell._aaddr, None)
            self.send_as_system(parent, ChildActorExited(cell))

    # Looking around

    def timers(self) -> Iterator[Timer]:
        # A copy: another thread may create an actor meanwhile.
        for cell in list(self.cells.values()):
            yield from list(cell.timers or ())

    def primary(self) -> list[Cell]:
        """The actors whose parent is the system, oldest first."""
        return [cell for cell in list(self.cells.values()) if cell.parent is self.system_address]

    def open_listener(self) -> Listener:
        """A listener of one's own; known by its name until `close_listener`."""
        listener = Listener(f"System:ExternalRequester:{next(self._serial)}", self.mailbox)
        self.others[listener.actorAddressString] = listener
        return listener

    def close_listener(self, listener: Listener) -> None:
        self.others.pop(listener.actorAddressString, None)

    def forget_classes(self) -> None:
        """Let go of what is known of classes, so that those of an unloaded source can leave memory."""
        self._plans.clear()
        self._kinds.clear()
        self.mailbox.ordinary.clear()


class _Plan:
    """What creating an actor needs to know of its class, found once."""

    __slots__ = ("check", "fails_fast", "init_names", "name")

    def __init__(self, actor_class: type) -> None:
        self.name = actor_class.__name__
        self.fails_fast = issubclass(actor_class, LoopActor)
        self.check = getattr(actor_class, "actorSystemCapabilityCheck", None)
        parameters = inspect.signature(actor_class.__init__).parameters  # type: ignore[misc]
        self.init_names = [name for name in ("capabilities", "requirements") if name in parameters]


# Whoever keeps an error (an asker, a log record) keeps the variables of each frame in its traceback: the dead
# actor and all it held, asks that wait for it included. The lines may stay, the variables must go.


def _drop_own_frame(error: BaseException) -> None:
    """The first frame is the runtime's, where the error was caught. It still runs and cannot be cleared."""
    if error.__traceback__ is not None:
        error.__traceback__ = error.__traceback__.tb_next


def _clear_frames(error: BaseException) -> None:
    """Of ordinary functions only: to clear the frame of a coroutine that still waits would end it."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            for frame, _line in traceback.walk_tb(each.__traceback__):
                if not frame.f_code.co_flags & SUSPENDABLE:
                    with contextlib.suppress(RuntimeError):  # it still runs
                        frame.clear()
            waiting += [each.__cause__, each.__context__]


def _late_bound(actor: Any) -> Callable[[Any, Any], Any]:
    def receive(message: Any, sender: Any) -> Any:
        return actor.receiveMessage(message, sender)

    return receive
