"""Directory, topic and subscribers against a naive model: whatever order things happen in, every subscriber
is given the stream after its cursor, each message once, in order, and is told of every break.

What happens at random: publishes here and on another worker, feed messages that are lost, doubled or late,
store calls that end in any order or fail before or after they took effect, connections that are slow, break,
come back or leave, fan-outs that have no time for everybody, topics that fail, memory that is taken away, a
stream that is trimmed, a store that loses its newest.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from thespian.actors import ActorExitRequest

from actors import fan_out
from actors.counters import Counters
from actors.directory import DirectoryActor
from actors.ports import Draft, Publish
from actors.protocol import (
    CompareNow,
    Disconnect,
    Drained,
    Expire,
    Published,
    Refused,
    ShrinkHot,
    Start,
    StartDirectory,
    Subscribe,
    Tick,
    Unsubscribe,
    Wanted,
)
from actors.stream import BEGINNING, HotLimits, MessageId
from tests.scripted_store import ModelStream, ScriptedStore
from tests.stand_ins import (
    ManualClock,
    Outsider,
    RecordingSink,
    StandInRef,
    StandInSystem,
    Unanswerable,
    make_limits,
    start_subscriber,
)

MORE = int(os.environ.get("TEST_EXAMPLES_SCALE", "1"))
"""Multiplies the examples that are tried."""

indexes = st.integers(0, 1000)


@pytest.fixture(autouse=True, scope="module")
def _one_delivery_a_time() -> Iterator[None]:
    """Four connections are enough for a fan-out that takes several turns."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fan_out, "DELIVERIES_PER_TURN", 1)
        yield


@pytest.fixture(autouse=True)
def _quiet_actors(caplog: pytest.LogCaptureFixture) -> None:
    """Actors that fail on purpose, thousands of times, need not be read about."""
    caplog.set_level(logging.CRITICAL, "actors")


class Connection:
    """One subscriber, and what its client would know: how far it has come."""

    def __init__(self, subscriber: StandInRef, sink: RecordingSink) -> None:
        self.subscriber = subscriber
        self.sink = sink

    @property
    def position(self) -> MessageId | None:
        """Where the client is since it last subscribed; None if it was not told yet."""
        for entry in reversed(self.sink.log):
            if entry[0] == "messages":
                return MessageId.parse(entry[1][-1])
            if entry[0] == "subscribed" and "t" in entry[1]:
                return MessageId(entry[1]["t"])
        return None

    @property
    def epoch(self) -> str | None:
        """Of the stream, as the client was told when it subscribed."""
        told = [entry[2]["t"] for entry in self.sink.log if entry[0] == "subscribed" and entry[1]]
        return told[-1] or None if told else None


class Poller:
    """A client that polls again and again, from where the last answer ended."""

    def __init__(self) -> None:
        self.cursor: MessageId | None = None
        self.sink: RecordingSink | None = None
        self.subscriber: StandInRef | None = None
        self.log: list[tuple[Any, ...]] = []
        self.failure: str | None = None

    def take_answer(self) -> None:
        """What the poll was answered, if it was."""
        if self.sink is None or not self.sink.entries("completed"):
            return
        ((cursors, _has_more, failure),) = self.sink.entries("completed")
        for entry in self.sink.log:
            if entry[0] == "messages":
                self.log.append(("messages", [m for b in self.sink.batches for m in b.messages]))
            elif entry[0] == "notice":
                self.log.append(entry)
        assert failure is None or not self.sink.messages
        self.cursor = cursors.get("t", self.cursor)
        self.failure = failure
        self.sink = None


class DeliveryModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.system = StandInSystem()
        self.clock = ManualClock()
        self.counters = Counters()
        self.stream = ModelStream()
        self.store = ScriptedStore(self.stream)
        self.connections: list[Connection] = []
        self.pollers: list[Poller] = []
        self.publishers: list[Outsider] = []
        self.heard = 0
        self.is_whole = True
        self.published = 0
        self.opened = 0

    @initialize(
        hot=st.integers(0, 12), batch=st.integers(1, 5), page_bytes=st.sampled_from([1, 2000, 1 << 20])
    )
    def start(self, hot: int, batch: int, page_bytes: int) -> None:
        limits = make_limits(
            hot=HotLimits(hot, 1 << 20, 3_600_000), batch_max_messages=batch, page_max_bytes=page_bytes
        )
        self.directory = self.system.create(DirectoryActor)
        self.directory.tell(StartDirectory(self.store, limits, self.clock, self.counters, 15.0, 5.0))

    # What clients do

    @rule(count=st.integers(1, 4))
    def publish_here(self, count: int) -> None:
        drafts = tuple(Draft(b"%d" % (self.published + i)) for i in range(count))
        self.published += count
        self.publishers.append(Outsider("publisher"))
        self.system.post(self.directory, Publish("t", drafts), self.publishers[-1])

    @rule(count=st.integers(1, 4), is_inline=st.booleans())
    def publish_elsewhere(self, count: int, is_inline: bool) -> None:
        self.stream.is_inline = is_inline
        self.stream.add(*(b"%d" % (self.published + i) for i in range(count)))
        self.published += count

    @precondition(lambda self: len(self.connections) < 4)
    @rule(start=st.sampled_from([Start.EARLIEST, Start.LATEST]), page=st.integers(1, 6))
    def connect(self, start: Start, page: int) -> None:
        sink = RecordingSink()
        self.opened += 1
        subscriber = start_subscriber(
            self.system,
            self.directory,
            self.store,
            sink,
            subscriber_id=self.opened,
            page_max_messages=page,
            counters=self.counters,
        )
        self.connections.append(Connection(subscriber, sink))
        self.system.post(subscriber, Subscribe((Wanted("t", start),)), None)

    @rule(which=st.integers(0, 2), limit=st.integers(1, 5))
    def poll(self, which: int, limit: int) -> None:
        while len(self.pollers) <= which:
            self.pollers.append(Poller())
        poller = self.pollers[which]
        poller.take_answer()
        if poller.sink is None:
            self._begin_poll(poller, limit)

    def _begin_poll(self, poller: Poller, limit: int) -> None:
        self.opened += 1
        poller.sink = RecordingSink()
        poller.subscriber = start_subscriber(
            self.system,
            self.directory,
            self.store,
            poller.sink,
            subscriber_id=self.opened,
            page_max_messages=limit,
            completes=True,
            counters=self.counters,
        )
        start = Start.EARLIEST if poller.cursor is None else poller.cursor
        self.system.post(poller.subscriber, Subscribe((Wanted("t", start),)), None)

    @precondition(lambda self: self.pollers)
    @rule(which=indexes)
    def end_poll(self, which: int) -> None:
        poller = self.pollers[which % len(self.pollers)]
        if poller.sink is not None:
            self.system.post(poller.subscriber, Expire(), None)

    @precondition(lambda self: self.connections)
    @rule(which=indexes, first_unsubscribes=st.booleans(), says_epoch=st.booleans())
    def subscribe_again(self, which: int, first_unsubscribes: bool, says_epoch: bool) -> None:
        """The client goes on where it is, as after a reconnect. It must have heard everything sent so far."""
        self.system.run()
        connection = self._connection(which)
        if first_unsubscribes:
            self.system.post(connection.subscriber, Unsubscribe(("t",)), None)
        position = connection.position
        if position is not None:
            epoch = connection.epoch if says_epoch else None
            self.system.post(connection.subscriber, Subscribe((Wanted("t", position, epoch),)), None)
        else:
            self.system.post(connection.subscriber, Subscribe((Wanted("t", Start.LATEST),)), None)

    @precondition(lambda self: self.connections)
    @rule(which=indexes)
    def disconnect(self, which: int) -> None:
        connection = self._connection(which)
        self.system.post(connection.subscriber, Disconnect(), None)
        self.system.run()
        self._check(connection)
        self.connections.remove(connection)

    @precondition(lambda self: self.connections)
    @rule(which=indexes)
    def break_sink(self, which: int) -> None:
        """The next message it is given ends it, and hurts nobody else."""
        self._connection(which).sink.is_broken = True

    @precondition(lambda self: self.connections)
    @rule(which=indexes)
    def fill_outbox(self, which: int) -> None:
        self._connection(which).sink.is_full = True

    @precondition(lambda self: self.connections)
    @rule(which=indexes)
    def drain_outbox(self, which: int) -> None:
        connection = self._connection(which)
        connection.sink.is_full = False
        self.system.post(connection.subscriber, Drained(), None)

    # What the world does

    @rule(count=st.integers(1, 30))
    def deliver(self, count: int) -> None:
        for _ in range(min(count, len(self.system.mailbox))):
            self.system.deliver()

    @precondition(lambda self: self.system.works)
    @rule(which=indexes)
    def finish_work(self, which: int) -> None:
        self.system.works[which % len(self.system.works)].finish()

    @precondition(lambda self: self.system.works)
    @rule(which=indexes)
    def run_work(self, which: int) -> None:
        """It takes effect; the answer comes later, perhaps after those to later calls."""
        self.system.works[which % len(self.system.works)].run()

    @precondition(lambda self: self.system.works)
    @rule(which=indexes, is_done=st.booleans())
    def fail_work(self, which: int, is_done: bool) -> None:
        work = self.system.works[which % len(self.system.works)]
        if is_done:
            work.run()
        work.fail(is_outcome_unknown=True)

    @precondition(lambda self: self.heard < len(self.stream.announced))
    @rule(how=st.sampled_from(["told", "lost", "doubled", "late"]))
    def hear(self, how: str) -> None:
        announced = self.stream.announced
        worker, fed = announced[self.heard]
        if how == "late" and self.heard + 1 < len(announced):
            announced[self.heard], announced[self.heard + 1] = (
                announced[self.heard + 1],
                announced[self.heard],
            )
            worker, fed = announced[self.heard]
        self.heard += 1
        if worker == self.store.worker or how == "lost" or "t" not in self.store.followed:
            return
        for _ in range(2 if how == "doubled" else 1):
            self.system.post(self.directory, fed, None)

    @rule()
    def compare(self) -> None:
        self.system.post(self.directory, CompareNow(), None)

    @precondition(lambda self: self.system.timers)
    @rule(which=indexes)
    def fire_timer(self, which: int) -> None:
        self.system.timers[which % len(self.system.timers)].fire()

    @precondition(lambda self: self._topic() is not None)
    @rule(max_bytes=st.sampled_from([0, 2000]))
    def take_memory(self, max_bytes: int) -> None:
        entry = self.directory.actor._topics["t"]
        entry.forwarded += 1
        self.system.post(entry.address, ShrinkHot(max_bytes), None)

    @precondition(lambda self: self._topic() is not None)
    @rule(count=st.integers(1, 4))
    def tick(self, count: int) -> None:
        entry = self.directory.actor._topics["t"]
        for _ in range(count):
            entry.forwarded += 1
            self.system.post(entry.address, Tick(), None)

    @precondition(lambda self: self._topic() is not None)
    @rule()
    def end_topic(self) -> None:
        self.system.post(self._topic(), ActorExitRequest(), None)

    @rule(count=st.integers(1, 5))
    def trim(self, count: int) -> None:
        if len(self.stream.messages) > count:
            self.stream.trim(count)
            self.is_whole = False

    @rule(count=st.integers(1, 5))
    def lose_newest(self, count: int) -> None:
        if len(self.stream.messages) > count:
            self.stream.lose(count)
            del self.stream.history[len(self.stream.history) - count :]
            self.stream.clock_ms += 1
            self.is_whole = False

    # What must be true

    def teardown(self) -> None:
        if not hasattr(self, "directory"):
            return
        self._settle()
        for connection in self.connections:
            self._check(connection)
        self._forget_broken()
        for connection in self.connections:
            position = connection.position
            if self.is_whole:
                assert position == max(self.stream.newest, BEGINNING), (position, self.stream.newest)
        for poller in self.pollers:
            self._check_poller(poller)
        self._check_publishers()
        self._check_nobody_is_left_behind()

    def _settle(self) -> None:
        """The world comes to rest, and the store answers everything."""
        for connection in self.connections:
            connection.sink.is_full = False
            self.system.post(connection.subscriber, Drained(), None)
        for _ in range(6):
            self.system.settle()
            self.system.post(self.directory, CompareNow(), None)
            self.system.settle()
            self.system.fire_timers()
        self.system.settle()

    def _forget_broken(self) -> None:
        """Those that were given something, and told that they failed."""
        for connection in self.connections:
            assert connection.subscriber.is_alive != bool(connection.sink.entries("failed"))
            assert connection.sink.is_broken or connection.subscriber.is_alive
        self.connections = [one for one in self.connections if one.subscriber.is_alive]

    def _check(self, connection: Connection) -> None:
        """Each message follows the one before, or a notice says that it does not."""
        last: MessageId | None = None
        is_told = False
        for entry in connection.sink.log:
            if entry[0] == "subscribed" and entry[1]:
                place = MessageId(entry[1]["t"])
                # From the oldest: nothing to continue.
                last, is_told = (None, True) if place == BEGINNING else (place, False)
            elif entry[0] == "notice":
                assert not self.is_whole, entry[1]
                is_told = True
            elif entry[0] == "messages":
                for message_id in map(MessageId.parse, entry[1]):
                    message = next(
                        m for b in connection.sink.batches for m in b.messages if m.id == message_id
                    )
                    assert is_told or message.prev == last, (message.prev, last, connection.sink.log)
                    last, is_told = message_id, False
        if self.is_whole:
            counted = self.counters
            assert counted.order_inversions == counted.duplicates == counted.unannounced_gaps == 0

    def _check_poller(self, poller: Poller) -> None:
        """It polls to the end; then the same must be true of all it was answered."""
        is_new = False
        while True:
            if poller.sink is None:
                self._begin_poll(poller, 3)
                is_new = True
            self.system.post(poller.subscriber, Expire(), None)
            self.system.settle()
            before = len(poller.log)
            poller.take_answer()
            assert poller.sink is None, "a poll whose time is over is answered"
            if is_new and poller.failure is None and len(poller.log) == before:
                break
        last, is_told = BEGINNING, True
        for kind, content in poller.log:
            if kind == "notice":
                assert not self.is_whole, content
                is_told = True
            else:
                for message in content:
                    assert is_told or message.prev == last, (message.prev, last)
                    last, is_told = message.id, False
        if self.is_whole:
            assert poller.cursor == self.stream.newest

    def _check_publishers(self) -> None:
        for publisher in self.publishers:
            (answer,) = publisher.received
            assert isinstance(answer, Published | Refused | Unanswerable)
            if isinstance(answer, Published) and self.is_whole:
                stored = {message.id_text for message in self.stream.history}
                assert stored.issuperset(answer.ids)

    def _check_nobody_is_left_behind(self) -> None:
        topic = self._topic()
        live_here = None if topic is None else topic.actor._audience._fan_out
        live = [] if live_here is None else live_here.subscribers()
        assert set(live) == {connection.subscriber for connection in self.connections}
        for connection in self.connections:
            connection.subscriber.tell(Disconnect())
        self.system.settle()
        assert not live_here
        assert self.counters.lagging_subscribers == 0

    def _connection(self, which: int) -> Connection:
        return self.connections[which % len(self.connections)]

    def _topic(self) -> Any:
        entry = self.directory.actor._topics.get("t") if hasattr(self, "directory") else None
        return None if entry is None else entry.address


TestDelivery = DeliveryModel.TestCase
TestDelivery.settings = settings(
    max_examples=25 * MORE,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
