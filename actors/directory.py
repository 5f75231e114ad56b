"""DirectoryActor: topic name -> `TopicActor`. Creates on use, retires the idle, replaces the failed.

Every message for a topic passes here, so the directory alone decides whether a topic is in memory: it counts
what it forwarded, a topic that asks to retire says how much it received, and only if the two agree is nothing
on its way and the topic may go.

A topic that fails answers all it knows of. What was on its way to it comes back here as a dead letter, and is
answered in its place.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from thespian.actors import ActorExitRequest, ActorSystemFailure, ChildActorExited, DeadEnvelope

from actors.ports import Position, Publish
from actors.protocol import (
    Census,
    ChangeLimits,
    Compared,
    CompareNow,
    DeleteTopic,
    Fed,
    Fetch,
    FetchFailed,
    FollowingChanged,
    HotSize,
    Idle,
    Leave,
    Locate,
    Refused,
    Retire,
    ShrinkHot,
    StartDirectory,
    StartTopic,
    SubscribersChanged,
    TakeCensus,
    Tick,
)
from actors.runtime import LoopActor, Performed, PerformFailed
from actors.topic import TopicActor
from actors.value import value

logger = logging.getLogger(__name__)

COMPARED_AT_ONCE = 1000
TICKED_AT_ONCE = 100
"""A tick may start a trim: so many start together, and those of other topics later in the same interval."""
HEADROOM = 8
"""When hot buffers pass their budget, an eighth more than needed is taken: looking for it walks all
topics."""


class OpenTopic:
    """What the directory knows of a topic in memory."""

    __slots__ = ("address", "forwarded", "hot_bytes", "is_following", "name", "round", "subscribers")

    def __init__(self, name: str, address: Any) -> None:
        self.name = name
        self.address = address
        self.forwarded = 0
        self.hot_bytes = 0
        self.is_following = False
        self.round = 0
        """Of ticks: the one it had its tick of."""
        self.subscribers = 0


@value
class _Comparing:
    topics: Sequence[str]


class _TickDue:
    __slots__ = ()


class _CompareDue:
    __slots__ = ()


class DirectoryActor(LoopActor):
    """One per worker. The first message is `StartDirectory`."""

    def __init__(self) -> None:
        self._topics: dict[str, OpenTopic] = {}
        self._names: dict[str, str] = {}
        self._hot_bytes = 0
        self._comparisons = 0
        self._round = 0
        self._slices = 0
        self._slices_left = 0

    def receiveMessage(self, message: Any, sender: Any) -> None:
        self._handlers[type(message)](self, message, sender)

    def on_start(self, start: StartDirectory, _sender: Any) -> None:
        self._start = start
        self.handleDeadLetters()
        self.call_after(start.tick_seconds, _TickDue())
        self.call_after(start.compare_seconds, _CompareDue())

    # Messages for topics

    def on_for_topic(self, message: Publish | Fetch | Locate | DeleteTopic, sender: Any) -> None:
        """For a topic, whether it is in memory or not."""
        topic = self._topics.get(message.topic) or self._open(message.topic)
        if topic is None:
            self._answer_instead(message, sender, "shutting_down")
            return
        topic.forwarded += 1
        self.forward(topic.address, message, sender)

    def _open(self, name: str) -> OpenTopic | None:
        """None if the worker stops."""
        start = self._start
        try:
            address = self.createActor(TopicActor)
        except ActorSystemFailure:
            return None
        topic = self._topics[name] = OpenTopic(name, address)
        self._names[address.actorAddressString] = name
        self.send(
            address, StartTopic(name, self.myAddress, start.store, start.limits, start.clock, start.counters)
        )
        return topic

    def _answer_instead(self, message: Any, sender: Any, code: str) -> None:
        """There is no topic to answer."""
        if isinstance(message, Fetch | Locate):
            self.send(sender, FetchFailed(message.topic, message.ticket, code))
        else:
            self.send(sender, Refused(code))

    def on_if_open(self, message: Any, sender: Any) -> None:
        """Fed, Leave: of no interest to a topic that is not in memory."""
        topic = self._topics.get(message.topic)
        if topic is not None:
            topic.forwarded += 1
            self.forward(topic.address, message, sender)

    def on_dead_envelope(self, envelope: DeadEnvelope, sender: Any) -> None:
        """An ask is refused by the runtime. A subscriber is not, and would wait for ever."""
        if isinstance(envelope.deadMessage, Fetch | Locate):
            self._answer_instead(envelope.deadMessage, sender, "internal_error")

    # What topics report

    def on_idle(self, idle: Idle, sender: Any) -> None:
        topic = self._topics.get(idle.topic)
        if topic is not None and topic.address == sender and topic.forwarded == idle.received:
            # Out of the map first: from here on whoever uses the topic gets a new actor, and this one gets
            # nothing more.
            self._close(topic)
            self.send(sender, Retire())

    def on_child_exited(self, exited: ChildActorExited, _sender: Any) -> None:
        name = self._names.get(exited.childAddress.actorAddressString)
        if name is not None:
            # It was in the map, so it did not retire. The next message for the topic opens it anew.
            logger.error("topic %s: ended unasked, to be rebuilt from its stream", name)
            self._close(self._topics[name])

    def _close(self, topic: OpenTopic) -> None:
        del self._topics[topic.name]
        del self._names[topic.address.actorAddressString]
        self._hot_bytes -= topic.hot_bytes

    def on_following_changed(self, changed: FollowingChanged, sender: Any) -> None:
        topic = self._topics.get(changed.topic)
        if topic is not None and topic.address == sender:
            topic.is_following = changed.is_following

    def on_subscribers_changed(self, changed: SubscribersChanged, sender: Any) -> None:
        topic = self._topics.get(changed.topic)
        if topic is not None and topic.address == sender:
            topic.subscribers = changed.count

    def on_hot_size(self, report: HotSize, sender: Any) -> None:
        topic = self._topics.get(report.topic)
        if topic is None or topic.address != sender:
            return
        growth = report.size_bytes - topic.hot_bytes
        topic.hot_bytes = report.size_bytes
        self._hot_bytes += growth
        if growth > 0:
            self._keep_within_budget()

    def _keep_within_budget(self) -> None:
        budget = self._start.limits.hot_total_bytes
        excess = self._hot_bytes - budget
        if excess > 0:
            self._shrink(excess + budget // HEADROOM)

    def _shrink(self, excess: int) -> None:
        """Take hot-buffer memory from topics nobody listens to first, and from the largest first."""
        for topic in sorted(self._topics.values(), key=lambda t: (t.subscribers > 0, -t.hot_bytes)):
            if excess <= 0:
                return
            kept = max(0, topic.hot_bytes // 2 if topic.subscribers else topic.hot_bytes - excess)
            excess -= topic.hot_bytes - kept
            self._hot_bytes -= topic.hot_bytes - kept
            topic.hot_bytes = kept
            topic.forwarded += 1
            self.send(topic.address, ShrinkHot(kept))

    def on_change_limits(self, change: ChangeLimits, _sender: Any) -> None:
        self._start = replace(
            self._start,
            limits=change.limits,
            tick_seconds=change.tick_seconds,
            compare_seconds=change.compare_seconds,
        )
        for topic in self._topics.values():
            topic.forwarded += 1
            self.send(topic.address, change)
        self._keep_within_budget()

    # Time

    def on_tick_due(self, due: _TickDue, _sender: Any) -> None:
        """Each topic has one tick a round. Where there are many, a round has slices: the trims of thousands
        at once would hold up what else the actors have to do.
        """
        if not self._slices_left:
            self._round += 1
            self._slices = self._slices_left = max(1, math.ceil(len(self._topics) / TICKED_AT_ONCE))
        # Also those that were opened since the round began.
        waiting = [topic for topic in self._topics.values() if topic.round != self._round]
        tick = Tick()
        for topic in waiting[: math.ceil(len(waiting) / self._slices_left)]:
            topic.round = self._round
            topic.forwarded += 1
            self.send(topic.address, tick)
        self._slices_left -= 1
        self.call_after(self._start.tick_seconds / self._slices, due)

    def on_compare_due(self, due: _CompareDue, _sender: Any) -> None:
        if not self._comparisons:
            self._compare()
        self.call_after(self._start.compare_seconds, due)

    def on_compare_now(self, now: CompareNow, _sender: Any) -> None:
        # Also while a comparison is under way: it may have read before the feed was restored.
        self._compare(now.topics)

    def _compare(self, names: Sequence[str] | None = None) -> None:
        known = self._topics
        open_topics = known.values() if names is None else [known[name] for name in names if name in known]
        following = [topic.name for topic in open_topics if topic.is_following]
        for start in range(0, len(following), COMPARED_AT_ONCE):
            topics = following[start : start + COMPARED_AT_ONCE]
            self._comparisons += 1
            self.perform(self._start.store.positions(topics), _Comparing(topics))

    def on_performed(self, performed: Performed, _sender: Any) -> None:
        self._comparisons -= 1
        positions: Sequence[Position | None] = performed.result
        for name, position in zip(performed.tag.topics, positions, strict=True):
            topic = self._topics.get(name)
            if topic is not None and position is not None:
                topic.forwarded += 1
                self.send(topic.address, Compared(name, position))

    def on_perform_failed(self, failed: PerformFailed, _sender: Any) -> None:
        # The next comparison comes with the timer; a store that is away is reported where it matters, by
        # readiness.
        self._comparisons -= 1
        logger.debug("comparison of %d topics failed: %s", len(failed.tag.topics), failed.error)

    # Census

    def on_take_census(self, _take: TakeCensus, asker: Any) -> None:
        topics = self._topics.values()
        subscribers = {topic.name: topic.subscribers for topic in topics if topic.subscribers}
        following = sum(topic.is_following for topic in topics)
        self.send(asker, Census(subscribers, len(topics), following, self._hot_bytes))

    def on_exit(self, _exit: ActorExitRequest, _sender: Any) -> None:
        """The worker stops; the topics, which are children, get their own request."""

    _handlers: ClassVar[dict[type, Callable[[DirectoryActor, Any, Any], None]]] = {
        Publish: on_for_topic,
        Fetch: on_for_topic,
        Locate: on_for_topic,
        DeleteTopic: on_for_topic,
        Fed: on_if_open,
        Leave: on_if_open,
        DeadEnvelope: on_dead_envelope,
        StartDirectory: on_start,
        Idle: on_idle,
        ChildActorExited: on_child_exited,
        FollowingChanged: on_following_changed,
        SubscribersChanged: on_subscribers_changed,
        HotSize: on_hot_size,
        ChangeLimits: on_change_limits,
        _TickDue: on_tick_due,
        _CompareDue: on_compare_due,
        CompareNow: on_compare_now,
        Performed: on_performed,
        PerformFailed: on_perform_failed,
        TakeCensus: on_take_census,
        ActorExitRequest: on_exit,
    }
