"""Deliveries straight to sinks among those by message, in any order: every connection is given the stream
after its cursor without a gap, a repetition or disorder, and nothing while it is full.

Nothing is lost here, and nothing is told of: what happens at random is when things happen. What else can go
wrong is for `test_delivery_model.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from actors import fan_out
from actors.counters import Counters
from actors.directory import DirectoryActor
from actors.ports import Draft, Publish
from actors.protocol import Disconnect, Drained, Start, StartDirectory, Subscribe, Unsubscribe, Wanted
from actors.stream import Batch, MessageId
from tests.scripted_store import ModelStream, ScriptedStore
from tests.stand_ins import (
    ManualClock,
    Outsider,
    RecordingSink,
    StandInRef,
    StandInSystem,
    StandInTimer,
    make_limits,
    start_subscriber,
)
from tests.test_delivery_model import MORE

indexes = st.integers(0, 1000)


@pytest.fixture(autouse=True, scope="module")
def _two_deliveries_at_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fan_out, "DELIVERIES_PER_TURN", 2)
        yield


class StrictSink(RecordingSink):
    """Holds each batch against the one before. Full after `room` messages, until it is drained."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.cursor: MessageId | None = None
        self.room = room

    def subscribed(self, cursors: Any, epochs: Any, ref: object) -> None:
        super().subscribed(cursors, epochs, ref)
        self.cursor = cursors.get("t", self.cursor)

    def deliver(self, batch: Batch) -> bool:
        assert not self.is_full, "it has said that it is full"
        for message in batch.messages:
            assert message.prev == self.cursor
            self.cursor = message.id
        self.room -= len(batch)
        self.is_full = self.room <= 0
        return super().deliver(batch)


class FanOutModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.system = StandInSystem()
        self.counters = Counters()
        self.stream = ModelStream()
        self.store = ScriptedStore(self.stream)
        self.connections: list[tuple[StandInRef, StrictSink]] = []
        self.opened = 0
        self.directory = self.system.create(DirectoryActor)
        start = StartDirectory(self.store, make_limits(), ManualClock(), self.counters, 15.0, 5.0)
        self.directory.tell(start)

    @initialize(rooms=st.lists(st.integers(1, 20), min_size=3, max_size=8))
    def begin(self, rooms: list[int]) -> None:
        for room in rooms:
            self.connect(room)
        self.system.settle()

    @rule(room=st.integers(1, 20))
    def connect(self, room: int) -> None:
        if len(self.connections) < 8:
            self.opened += 1
            sink = StrictSink(room)
            subscriber = start_subscriber(
                self.system,
                self.directory,
                self.store,
                sink,
                subscriber_id=self.opened,
                counters=self.counters,
            )
            self.connections.append((subscriber, sink))
            self.system.post(subscriber, Subscribe((Wanted("t", Start.LATEST),)), None)

    @rule(count=st.integers(1, 3), is_appended_at_once=st.booleans())
    def publish(self, count: int, is_appended_at_once: bool) -> None:
        self.system.post(self.directory, Publish("t", (Draft(b"x"),) * count), Outsider("publisher"))
        if is_appended_at_once:
            self.deliver(2)
            self.finish_work()

    @rule(count=st.integers(1, 3))
    def publish_elsewhere(self, count: int) -> None:
        self.stream.add(*(b"x" for _ in range(count)))
        self.system.post(self.directory, self.stream.announced[-1][1], None)

    @rule(which=indexes)
    def subscribe_again(self, which: int) -> None:
        subscriber, _ = self.connections[which % len(self.connections)]
        self.system.post(subscriber, Unsubscribe(("t",)), None)
        self.system.post(subscriber, Subscribe((Wanted("t", Start.LATEST),)), None)

    @rule(which=indexes)
    def disconnect(self, which: int) -> None:
        if len(self.connections) > 1:
            subscriber, _ = self.connections.pop(which % len(self.connections))
            self.system.post(subscriber, Disconnect(), None)

    @rule(which=indexes, room=st.integers(1, 20))
    def drain(self, which: int, room: int) -> None:
        subscriber, sink = self.connections[which % len(self.connections)]
        if sink.is_full:
            sink.is_full, sink.room = False, room
            self.system.post(subscriber, Drained(), None)

    @rule(count=st.integers(1, 12))
    def deliver(self, count: int) -> None:
        for _ in range(min(count, len(self.system.mailbox))):
            self.system.deliver()

    @rule()
    def run_all(self) -> None:
        self.system.run()

    @precondition(lambda self: self.system.works)
    @rule()
    def finish_work(self) -> None:
        if self.system.works:
            self.system.works[0].finish()

    @rule()
    def go_on(self) -> None:
        for timer in self._due():
            timer.fire()

    def _due(self) -> list[StandInTimer]:
        return [timer for timer in self.system.timers if type(timer.message) is fan_out.FanOutDue]

    def teardown(self) -> None:
        for _ in range(3):
            for subscriber, sink in self.connections:
                sink.is_full, sink.room = False, 1 << 20
                self.system.post(subscriber, Drained(), None)
            self.system.settle()
            while self._due():
                self.go_on()
                self.system.settle()
        for _, sink in self.connections:
            assert sink.cursor == self.stream.newest and not sink.notices and not sink.entries("failed")
        counted = self.counters
        assert counted.order_inversions == counted.duplicates == counted.unannounced_gaps == 0
        assert counted.lagging_subscribers == 0


TestFanOut = FanOutModel.TestCase
TestFanOut.settings = settings(
    max_examples=40 * MORE,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
