from __future__ import annotations

import asyncio
from typing import Any

import pytest

from actors.mailbox import MESSAGES_BETWEEN_CLOCK_READINGS, Mailbox
from tests.actor_systems import RunOn, on_each_loop, until


class Receiver:
    """What a mailbox knows of an actor: `receive`, or None once it is dead."""

    def __init__(self, receive: Any) -> None:
        self.receive = receive


class Events:
    """Everything a mailbox did, in order."""

    def __init__(self, **bounds: Any) -> None:
        self.seen: list[Any] = []
        options = {"burst_messages": 1000, "burst_seconds": 60.0} | bounds
        self.mailbox = Mailbox(self.extraordinary, self.failed, **options)
        self.mailbox.ordinary.add(int)
        self.receiver = Receiver(self.receive)

    def receive(self, message: Any, sender: Any) -> None:
        self.seen.append(message)

    def extraordinary(self, receiver: Any, message: Any, sender: Any) -> None:
        self.seen.append(("extraordinary", message))

    def failed(self, receiver: Any, message: Any, sender: Any, error: BaseException) -> None:
        self.seen.append(("failed", message, type(error)))

    def put(self, *messages: Any, receiver: Receiver | None = None) -> None:
        for message in messages:
            self.mailbox.put((receiver or self.receiver, message, None))


def test_messages_are_delivered_in_the_order_they_were_put_and_the_first_can_be_overtaken() -> None:
    events = Events()
    events.put(1, 2, 3)
    events.mailbox.put_first((events.receiver, 0, None))
    events.mailbox.burst()
    assert events.seen == [0, 1, 2, 3]


def test_a_dead_receiver_and_a_message_of_unknown_class_are_extraordinary() -> None:
    events = Events()
    events.put(1, receiver=Receiver(None))
    events.put("unknown")
    events.mailbox.burst()
    assert events.seen == [("extraordinary", 1), ("extraordinary", "unknown")]


@pytest.mark.parametrize("error", [ValueError, IndexError, asyncio.CancelledError])
def test_what_a_handler_raises_is_reported_and_the_next_message_delivered(error: type[BaseException]) -> None:
    events = Events()

    def fail(message: Any, sender: Any) -> None:
        raise error

    events.put(1, receiver=Receiver(fail))
    events.put(2)
    events.mailbox.burst()
    assert events.seen == [("failed", 1, error), 2]


def test_an_interrupt_leaves_the_mailbox_in_order() -> None:
    events = Events()

    def interrupt(message: Any, sender: Any) -> None:
        raise KeyboardInterrupt

    events.put(1, receiver=Receiver(interrupt))
    events.put(2)
    with pytest.raises(KeyboardInterrupt):
        events.mailbox.burst()
    assert (events.mailbox.idle, events.mailbox.bursting, events.mailbox.delivered) == (True, False, 1)
    events.mailbox.burst()
    assert events.seen == [2]


def test_a_burst_ends_after_its_messages() -> None:
    events = Events(burst_messages=MESSAGES_BETWEEN_CLOCK_READINGS + 3)
    events.put(*range(100))
    events.mailbox.burst()
    assert events.seen == list(range(MESSAGES_BETWEEN_CLOCK_READINGS + 3))


def test_a_burst_ends_after_its_time() -> None:
    events = Events(burst_seconds=1e-9)
    events.put(*range(100))
    events.mailbox.burst()
    assert events.seen == list(range(MESSAGES_BETWEEN_CLOCK_READINGS))


def test_a_burst_within_a_burst_does_nothing() -> None:
    events = Events()
    events.put(1, receiver=Receiver(lambda message, sender: events.mailbox.burst()))
    events.put(2)
    events.mailbox.burst()
    assert events.seen == [2]
    assert events.mailbox.bursts == 1


def test_deliveries_bursts_and_the_longest_burst_are_counted() -> None:
    events = Events(burst_messages=2)
    events.put(1, 2, 3)
    assert len(events.mailbox) == 3
    events.mailbox.burst()
    events.mailbox.burst()
    assert (events.mailbox.delivered, events.mailbox.bursts, len(events.mailbox)) == (3, 2, 0)
    assert 0 < events.mailbox.longest_burst_seconds < 60


def test_bounds_that_would_deliver_nothing_are_refused() -> None:
    for bounds in ({"burst_messages": 0}, {"burst_seconds": 0}):
        with pytest.raises(ValueError, match="burst"):
            Events(**bounds)


@on_each_loop
def test_wake_never_delivers_at_once_and_plans_one_burst_for_many_wakes(run: RunOn) -> None:
    async def main() -> None:
        events = Events()
        events.mailbox.bind(asyncio.get_running_loop())
        for message in range(5):
            events.put(message)
            events.mailbox.wake()
        assert events.seen == []
        await until(lambda: events.seen)
        assert events.seen == [0, 1, 2, 3, 4]
        assert events.mailbox.bursts == 1

    run(main)


@on_each_loop
def test_what_one_burst_leaves_the_next_one_delivers(run: RunOn) -> None:
    async def main() -> None:
        events = Events(burst_messages=10)
        events.mailbox.bind(asyncio.get_running_loop())
        events.put(*range(35))
        events.mailbox.wake()
        await until(lambda: not len(events.mailbox))
        assert events.seen == list(range(35))
        assert events.mailbox.bursts == 4

    run(main)


@on_each_loop
def test_any_thread_may_put_and_wake(run: RunOn) -> None:
    async def main() -> None:
        events = Events()
        events.mailbox.bind(asyncio.get_running_loop())

        def put() -> None:
            for message in range(1000):
                events.put(message)
                events.mailbox.wake()

        threads = [asyncio.to_thread(put) for _ in range(4)]
        await asyncio.gather(*threads)
        await until(lambda: len(events.seen) == 4000)
        assert sorted(events.seen) == sorted(list(range(1000)) * 4)
        assert events.mailbox.idle

    run(main)


def test_a_burst_planned_on_a_loop_that_ended_is_planned_anew_on_the_next() -> None:
    events = Events()
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()

    def plan() -> None:
        events.mailbox.bind(first)
        events.put(1)
        events.mailbox.wake()
        first.stop()

    first.call_soon(plan)
    first.run_forever()
    first.close()
    assert events.seen == []
    assert not events.mailbox.idle

    async def carry_on() -> None:
        events.mailbox.bind(second)
        await until(lambda: events.seen)

    second.run_until_complete(carry_on())
    second.close()
    assert events.seen == [1]
