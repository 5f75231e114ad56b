"""Stand-ins for what surrounds an actor: a runtime that waits for the test, a connection that remembers, a
clock that stands still. With the store of `scripted_store`: no loop, no time, no Valkey.

    system = StandInSystem()
    topic = start_topic(system, ScriptedStore())
    publisher = Outsider()
    topic.tell(Publish("t", (Draft(b"1"),)), publisher)
    system.settle()
    publisher.received == [Published(...)]
"""

# ruff: noqa: N802  # the camelCase names are Thespian's

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from thespian.actors import ActorExitRequest, ChildActorExited, DeadEnvelope

from actors.counters import Counters
from actors.ports import Notice, StoreError
from actors.protocol import StartSubscriber, StartTopic, TopicLimits
from actors.runtime import LoopActor, Performed, PerformFailed
from actors.stream import Batch, HotLimits, Message, MessageId
from actors.subscriber import SubscriberActor
from actors.topic import TopicActor
from tests.scripted_store import START_MS, Call, ScriptedStore

T = TypeVar("T")


RESTLESS_WORKS = 10_000
"""An actor that asks the store more often than this before it rests will never rest."""


class ManualClock:
    """Unix milliseconds, moved by hand."""

    def __init__(self) -> None:
        self.now_ms = START_MS

    def __call__(self) -> int:
        return self.now_ms


class Outsider:
    """An address outside the system: a publisher, an edge, a directory that only listens."""

    def __init__(self, name: str = "outsider") -> None:
        self.actorAddressString = name
        self.received: list[Any] = []

    def __repr__(self) -> str:
        return f"<{self.actorAddressString}>"

    def take(self, kind: type[T]) -> list[T]:
        """The messages of this type received so far; they are not seen again."""
        taken = [message for message in self.received if type(message) is kind]
        self.received = [message for message in self.received if type(message) is not kind]
        return taken


class Unanswerable:
    """What the runtime tells who asks a dead actor."""

    def __init__(self, message: Any) -> None:
        self.message = message


class StandInWork:
    """What an actor performs. `run` has the store do it, `finish` also tells the actor."""

    def __init__(self, ref: StandInRef, call: Call, tag: Any, *, cancel_on_exit: bool) -> None:
        self.ref = ref
        self.call = call
        self.tag = tag
        self.cancel_on_exit = cancel_on_exit
        self._outcome: Performed | PerformFailed | None = None

    @property
    def name(self) -> str:
        return self.call.name

    def run(self) -> None:
        if self._outcome is None:
            try:
                self._outcome = Performed(self.tag, self.call.run())
            except StoreError as error:
                self._outcome = PerformFailed(self.tag, error)

    def finish(self) -> None:
        self.run()
        self._tell()

    def answer(self, result: Any) -> None:
        """Finish with this instead of the store's answer."""
        self._outcome = Performed(self.tag, result)
        self._tell()

    def fail(self, code: str = "store_unavailable", *, is_outcome_unknown: bool = False) -> None:
        """Finish without the store; what was run before stays done."""
        self.fail_with(StoreError(code, is_outcome_unknown=is_outcome_unknown))

    def fail_with(self, error: Exception) -> None:
        self._outcome = PerformFailed(self.tag, error)
        self._tell()

    def _tell(self) -> None:
        system = self.ref.system
        system.works.remove(self)
        if self.ref.is_alive:
            system.post(self.ref, self._outcome, self.ref)


class StandInTimer:
    """`fire` is for the test, `cancel` for the actor."""

    def __init__(self, ref: StandInRef, seconds: float, message: Any) -> None:
        self.ref = ref
        self.seconds = seconds
        self.message = message

    def fire(self) -> None:
        self.ref.system.timers.remove(self)
        self.ref.system.post(self.ref, self.message, self.ref)

    def cancel(self) -> None:
        if self in self.ref.system.timers:
            self.ref.system.timers.remove(self)


class StandInRef:
    """Address of an actor, and what it takes for the runtime: it records what is done with it."""

    def __init__(self, system: StandInSystem, actor: LoopActor, name: str, parent: Any = None) -> None:
        self.system = system
        self.actor = actor
        self.actorAddressString = name
        self.parent = parent
        self.is_alive = True
        self.children: list[StandInRef] = []
        self.sent: list[tuple[Any, Any]] = []

    def __repr__(self) -> str:
        return f"<{self.actorAddressString}>"

    @property
    def address(self) -> StandInRef:
        return self

    @property
    def works(self) -> list[StandInWork]:
        return [work for work in self.system.works if work.ref is self]

    def work(self, name: str) -> StandInWork:
        """The only call of this method of the store that is under way."""
        found = [work for work in self.works if work.name == name]
        assert len(found) == 1, f"{len(found)} calls of {name} are under way"
        return found[0]

    def tell(self, message: Any, sender: Any = None) -> None:
        """Deliver now, and what follows from it."""
        self.system.post(self, message, sender)
        self.system.run()

    # What an actor asks of its runtime

    def actor_send(self, receiver: Any, message: Any) -> None:
        self.sent.append((receiver, message))
        self.system.post(receiver, message, self)

    def forward(self, receiver: Any, message: Any, sender: Any) -> None:
        self.system.post(receiver, message, sender)

    def perform(self, awaitable: Any, tag: Any, *, cancel_on_exit: bool) -> None:
        self.system.works.append(StandInWork(self, awaitable, tag, cancel_on_exit=cancel_on_exit))

    def call_after(self, seconds: float, message: Any) -> StandInTimer:
        timer = StandInTimer(self, seconds, message)
        self.system.timers.append(timer)
        return timer

    def createActor(
        self, actor_class: Any, _requirements: Any, _name: Any, _source: Any = None
    ) -> StandInRef:
        child = self.system.create(actor_class, parent=self)
        self.children.append(child)
        return child

    def handleDeadLetters(self, _address: Any, enable: bool) -> None:
        self.system.dead_letter_handler = self if enable else None

    def stop(self) -> None:
        self.system.end(self)


class StandInSystem:
    """One mailbox in the order of sending, as the runtime has it. Works and timers wait for the test."""

    def __init__(self) -> None:
        self.mailbox: deque[tuple[Any, Any, Any]] = deque()
        self.works: list[StandInWork] = []
        self.timers: list[StandInTimer] = []
        self.dead_letter_handler: StandInRef | None = None
        self.create_error: Exception | None = None
        self.failures: tuple[type[Exception], ...] = (PoisonedError,)
        """What a handler may raise and end its actor, as in the runtime. Anything else fails the test."""
        self._count = 0

    def create(self, actor_class: type[LoopActor], parent: Any = None) -> StandInRef:
        if self.create_error is not None:
            raise self.create_error
        actor = actor_class()
        self._count += 1
        ref = StandInRef(self, actor, f"{actor_class.__name__}~{self._count}", parent)
        actor._myRef = ref
        return ref

    def post(self, receiver: Any, message: Any, sender: Any) -> None:
        self.mailbox.append((receiver, message, sender))

    def run(self) -> None:
        """Deliver until the mailbox is empty."""
        while self.mailbox:
            self.deliver()

    def deliver(self) -> None:
        """The oldest message."""
        receiver, message, sender = self.mailbox.popleft()
        if isinstance(receiver, Outsider):
            receiver.received.append(message)
        elif not receiver.is_alive:
            if isinstance(sender, Outsider):
                sender.received.append(Unanswerable(message))
            handler = self.dead_letter_handler
            if handler is not None and sender is not receiver and not isinstance(message, DeadEnvelope):
                self.post(handler, DeadEnvelope(receiver, message), sender)
        else:
            self._deliver_to(receiver, message, sender)

    def _deliver_to(self, ref: StandInRef, message: Any, sender: Any) -> None:
        try:
            ref.actor.receiveMessage(message, sender)
        except self.failures as error:
            ref.actor.on_failure(error, message, sender)
            self.end(ref)
        if isinstance(message, ActorExitRequest):
            self.end(ref)

    def end(self, ref: StandInRef) -> None:
        if not ref.is_alive:
            return
        ref.is_alive = False
        self.timers = [timer for timer in self.timers if timer.ref is not ref]
        self.works = [work for work in self.works if work.ref is not ref or not work.cancel_on_exit]
        for child in ref.children:
            self.post(child, ActorExitRequest(), ref)
        if ref.parent is not None:
            self.post(ref.parent, ChildActorExited(ref), ref)

    def settle(self) -> None:
        """Deliver, and finish what the store was asked, oldest first, until nothing is left but timers."""
        self.run()
        for _ in range(RESTLESS_WORKS):
            if not self.works:
                return
            self.works[0].finish()
            self.run()
        raise AssertionError(f"no rest: {[work.name for work in self.works]}")

    def fire_timers(self) -> None:
        """All that are set now, the soonest first."""
        for timer in sorted(self.timers, key=lambda timer: timer.seconds):
            timer.fire()
        self.run()


class PoisonedError(Exception):
    """What a test makes a handler raise."""


class RecordingSink:
    """Remembers what a connection was given. `is_full`: what `deliver` answers. `is_broken`: it raises."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.log: list[tuple[Any, ...]] = []
        """Everything in order: ("messages", ids), ("notice", notice), ("subscribed", cursors, ref), ..."""
        self.is_full = False
        self.is_broken = False

    @property
    def messages(self) -> list[Message]:
        return [message for batch in self.batches for message in batch.messages]

    @property
    def ids(self) -> list[str]:
        return [message.id_text for message in self.messages]

    @property
    def notices(self) -> list[Notice]:
        return [entry[1] for entry in self.log if entry[0] == "notice"]

    def entries(self, kind: str) -> list[tuple[Any, ...]]:
        return [entry[1:] for entry in self.log if entry[0] == kind]

    def deliver(self, batch: Batch) -> bool:
        if self.is_broken:
            raise PoisonedError
        self.batches.append(batch)
        self.log.append(("messages", [message.id_text for message in batch.messages]))
        return self.is_full

    def notify(self, notice: Notice) -> None:
        self.log.append(("notice", notice))

    def subscribed(self, cursors: Mapping[str, MessageId], epochs: Mapping[str, str], ref: object) -> None:
        self.log.append(("subscribed", dict(cursors), dict(epochs), ref))

    def unsubscribed(self, topics: Sequence[str], ref: object) -> None:
        self.log.append(("unsubscribed", tuple(topics), ref))

    def acknowledged(self, topic: str, message_id: MessageId, ref: object) -> None:
        self.log.append(("acknowledged", topic, message_id, ref))

    def refuse(self, code: str, detail: str, ref: object) -> None:
        self.log.append(("refused", code, ref))

    def complete(self, cursors: Mapping[str, MessageId], has_more: bool, failure: str | None) -> None:
        self.log.append(("completed", dict(cursors), has_more, failure))

    def taken_over(self) -> None:
        self.log.append(("taken_over",))

    def fail(self) -> None:
        self.log.append(("failed",))


# Making and starting


def make_limits(**changed: Any) -> TopicLimits:
    limits: dict[str, Any] = {
        "batch_max_messages": 100,
        "batch_max_bytes": 1 << 20,
        "pending_max_messages": 1000,
        "pending_max_bytes": 10 << 20,
        "page_max_bytes": 1 << 20,
        "hot": HotLimits(100, 10 << 20, 3_600_000),
        "hot_total_bytes": 100 << 20,
        "idle_ticks": 3,
    }
    return TopicLimits(**(limits | changed))


def start_topic(
    system: StandInSystem,
    store: ScriptedStore,
    *,
    actor_class: type[TopicActor] = TopicActor,
    directory: Any = None,
    clock: ManualClock | None = None,
    counters: Counters | None = None,
    **limits: Any,
) -> StandInRef:
    """A topic named "t"; `directory` is told what concerns the worker."""
    topic = system.create(actor_class)
    start = StartTopic(
        "t",
        directory or Outsider("directory"),
        store,
        make_limits(**limits),
        clock or ManualClock(),
        counters or Counters(),
    )
    topic.tell(start)
    return topic


def start_subscriber(
    system: StandInSystem,
    directory: Any,
    store: ScriptedStore,
    sink: RecordingSink,
    *,
    subscriber_id: int = 1,
    page_max_messages: int = 10,
    completes: bool = False,
    counters: Counters | None = None,
    claims: Any = None,
    is_counted: bool = True,
) -> StandInRef:
    subscriber = system.create(SubscriberActor)
    subscriber.tell(
        StartSubscriber(
            subscriber_id,
            sink,
            directory,
            claims or Outsider("claims"),
            store,
            page_max_messages,
            completes,
            counters or Counters(),
            is_counted,
        )
    )
    return subscriber
