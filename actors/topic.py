"""TopicActor: the only sequencer of one topic in its worker.

It connects three parts, each with a file of its own: the publishes on their way into the stream (`appender`),
the worker's copy of the topic (`memory`), and the topic's subscribers here (`audience`).

    publishers ──Publish──▶ appender ──append──▶ Store ──Appended──▶ memory ──new──▶ audience ──▶ subscribers
    other workers' appends ─────────────────────────────────Fed─────────▲
    what memory lacks, read from the stream ────────────────fill────────┘

It never awaits and never touches a socket or Valkey: the store's answers come back as messages. Nobody waits
here without end: each question is answered by what the store says, and the store answers within a deadline.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from thespian.actors import ActorExitRequest

from actors.appender import Appender, Appending
from actors.audience import Audience, PageRead
from actors.fan_out import FanOutDue
from actors.memory import FILL_MESSAGES, Run, Standing, TopicMemory
from actors.ports import Appended, Position, Publish, StoreError, StreamPage, Trimmed
from actors.protocol import (
    ChangeLimits,
    Compared,
    DeleteTopic,
    Fed,
    Fetch,
    FetchFailed,
    Flush,
    FollowingChanged,
    HotSize,
    Idle,
    Leave,
    Locate,
    Refused,
    Retire,
    ShrinkHot,
    StartTopic,
    Tick,
    TopicDeleted,
)
from actors.runtime import LoopActor, Performed, PerformFailed
from actors.stream import Message, MessageId
from actors.value import value

logger = logging.getLogger(__name__)

FILL_RETRY_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.0)
REPORTED_BYTES = 4096
"""A topic's size in memory is reported when it has changed by this much and by an eighth."""


# What an awaited outcome belongs to: the tag under which the store's answer comes back.


@value
class _Joining:
    pass


@value
class _Filling:
    after: MessageId


@value
class _Trimming:
    pass


@value
class _Deleting:
    asker: Any


# Notes to itself.


@value
class _FillAgain:
    pass


@value
class _Release:
    pass


class TopicActor(LoopActor):
    """See the module's text. Created and addressed by the `DirectoryActor` only; starts with `StartTopic`."""

    def __init__(self) -> None:
        self._deleting: list[Any] = []
        self._is_filling = False
        self._fill_failures = 0
        self._received = 0
        self._idle_ticks = 0
        self._unread_ticks = 0
        self._is_trim_due = True
        self._reported_bytes = 0

    def receiveMessage(self, message: Any, sender: Any) -> None:
        handler = self._from_directory.get(type(message))
        if handler is not None:
            self._received += 1
            handler(self, message, sender)
        else:
            self._from_self[type(message)](self, message, sender)

    def on_start(self, start: StartTopic, _sender: Any) -> None:
        self._topic = start.topic
        self._directory = start.directory
        self._store = start.store
        self._limits = limits = start.limits
        self._clock = start.clock
        self._counters = start.counters
        self._appender = Appender(self, start)
        self._memory = TopicMemory(start.topic, limits.hot, limits.page_max_bytes)
        self._audience = Audience(self, start, self._memory)

    def on_change_limits(self, change: ChangeLimits, _sender: Any) -> None:
        self._limits = limits = change.limits
        self._appender.bound(limits)
        self._memory.bound(limits.hot, limits.page_max_bytes)
        self._audience.bound(limits)
        self._report_size()

    # Publishing

    def on_publish(self, publish: Publish, publisher: Any) -> None:
        self._idle_ticks = 0
        self._appender.publish(publish, publisher)

    def on_flush(self, _flush: Flush, _sender: Any) -> None:
        self._appender.flush(self._memory.floor)

    def on_appended(self, tag: Appending, appended: Appended) -> None:
        self._is_trim_due = True
        self._appender.answer(appended)
        messages = appended.messages
        if messages:
            self._counters.order_inversions += messages[0].id <= tag.floor
            run = Run(appended.prev, messages, messages[-1].id, appended.epoch)
            self._fan_out(self._memory.absorb(run))
        self._appender.append(self._memory.floor)
        self._fill()

    def on_append_failed(self, _tag: Appending, error: StoreError) -> None:
        self._appender.fail(error)
        if error.is_outcome_unknown:
            self._memory.doubt()
        self._appender.append(self._memory.floor)
        self._fill()

    # Keeping memory in step with the stream

    def on_fed(self, fed: Fed, _sender: Any) -> None:
        self._fan_out(self._memory.absorb(Run(fed.prev, fed.messages or (), fed.newest, fed.epoch)))
        self._fill()

    def _fan_out(self, messages: Sequence[Message]) -> None:
        if messages:
            self._audience.fan_out(messages)
            self._report_size()

    def on_fan_out_due(self, _due: FanOutDue, _sender: Any) -> None:
        self._audience.go_on()

    def on_compared(self, compared: Compared, _sender: Any) -> None:
        self._memory.compare(compared.position)
        self._fill()

    def _join(self) -> None:
        if self._memory.standing is Standing.COLD:
            self._memory.join()
            self.perform(self._store.follow(self._topic), _Joining(), cancel_on_exit=True)

    def on_joined(self, _tag: _Joining, position: Position) -> None:
        self._memory.joined(position)
        self.send(self._directory, FollowingChanged(self._topic, is_following=True))
        self._fill()
        self._release()

    def on_join_failed(self, _tag: _Joining, error: StoreError) -> None:
        self._memory.leave()
        self._store.unfollow(self._topic)
        self._audience.fail_waiting(error.code)

    def _fill(self) -> None:
        """Read what memory lacks, one read at a time."""
        memory = self._memory
        if memory.is_behind and not self._is_filling:
            self._is_filling = True
            read = self._store.read(self._topic, memory.newest, FILL_MESSAGES, self._limits.page_max_bytes)
            self.perform(read, _Filling(memory.newest))

    def on_filled(self, tag: _Filling, page: StreamPage) -> None:
        self._is_filling = False
        self._fill_failures = 0
        memory = self._memory
        new = memory.fill(tag.after, page)
        if new is None:
            logger.warning(
                "topic %s: the stream does not continue %s, memory starts anew at %s (epoch %s)",
                self._topic,
                tag.after,
                memory.newest,
                memory.epoch,
            )
            self._audience.evict()
            self._report_size()
        else:
            self._fan_out(new)
        self._fill()
        # Also if memory is behind again: others append without end, and what was in the stream when the
        # waiting came is here.
        if not page.has_more or not memory.is_behind:
            self._release()

    def on_fill_failed(self, _tag: _Filling, error: StoreError) -> None:
        self._audience.fail_waiting(error.code)
        seconds = FILL_RETRY_SECONDS[min(self._fill_failures, len(FILL_RETRY_SECONDS) - 1)]
        self._fill_failures += 1
        self.call_after(seconds, _FillAgain())

    def on_fill_again(self, _again: _FillAgain, _sender: Any) -> None:
        self._is_filling = False
        self._fill()

    def on_release(self, _release: _Release, _sender: Any) -> None:
        self._release()

    def _release(self) -> None:
        if self._memory.standing is Standing.FOLLOWING and self._audience.release():
            self.send(self.myAddress, _Release())

    # Subscribers

    def on_locate(self, locate: Locate, subscriber: Any) -> None:
        self._unread_ticks = 0
        self._audience.locate(locate, subscriber)
        self._join()

    def on_fetch(self, fetch: Fetch, subscriber: Any) -> None:
        self._unread_ticks = 0
        self._audience.fetch(fetch, subscriber)
        self._join()

    def on_read(self, tag: PageRead, page: StreamPage) -> None:
        self._audience.take_read(tag.key, page)
        self._fill()

    def on_read_failed(self, tag: PageRead, error: StoreError) -> None:
        self._audience.fail_read(tag.key, error.code)

    def on_leave(self, leave: Leave, _sender: Any) -> None:
        self._audience.leave(leave.subscriber_id)

    # Time and memory

    def on_tick(self, _tick: Tick, _sender: Any) -> None:
        now_ms = self._clock()
        self._memory.age(now_ms)
        self._report_size(is_exact=True)
        if self._is_trim_due or self._memory.size_bytes:
            # Also while others append: what they trim must leave memory too.
            self._is_trim_due = False
            self.perform(self._store.trim(self._topic, now_ms), _Trimming())
        is_read = len(self._audience) > 0
        is_written = len(self._appender) or self._deleting
        self._unread_ticks = 0 if is_read else self._unread_ticks + 1
        self._idle_ticks = 0 if is_read or is_written else self._idle_ticks + 1
        idle_ticks = self._limits.idle_ticks
        # Not while memory is read for: the answer would meet a memory that has joined anew.
        if self._unread_ticks >= idle_ticks and self._memory.is_in_step and not self._is_filling:
            self._stop_following()
        if self._idle_ticks >= idle_ticks and self._unread_ticks >= idle_ticks:
            self.send(self._directory, Idle(self._topic, self._received))

    def _stop_following(self) -> None:
        if self._memory.standing is not Standing.COLD:
            self._store.unfollow(self._topic)
            self.send(self._directory, FollowingChanged(self._topic, is_following=False))
            self._memory.leave()

    def on_trimmed(self, _tag: _Trimming, trimmed: Trimmed) -> None:
        self._counters.trimmed_messages += trimmed.count
        if trimmed.oldest is not None:
            self._memory.drop_before(trimmed.oldest)
            self._report_size(is_exact=True)

    def on_trim_failed(self, _tag: _Trimming, _error: StoreError) -> None:
        self._is_trim_due = True

    def on_shrink_hot(self, shrink: ShrinkHot, _sender: Any) -> None:
        self._memory.shrink(shrink.max_bytes)
        self._report_size(is_exact=True)

    def _report_size(self, *, is_exact: bool = False) -> None:
        size = self._memory.size_bytes
        change = abs(size - self._reported_bytes)
        if change and (is_exact or change >= max(REPORTED_BYTES, self._reported_bytes >> 3)):
            self._reported_bytes = size
            self.send(self._directory, HotSize(self._topic, size))

    # The end of the topic, and of this actor

    def on_delete(self, _delete: DeleteTopic, asker: Any) -> None:
        self._deleting.append(asker)
        self.perform(self._store.delete(self._topic), _Deleting(asker))

    def on_deleted(self, tag: _Deleting, position: Position | None) -> None:
        memory = self._memory
        memory.drop_messages()
        memory.doubt()
        if position is not None:
            memory.floor = max(memory.floor, position.newest)
        self._deleting.remove(tag.asker)
        self.send(tag.asker, TopicDeleted(self._topic, position is not None))
        self._report_size()
        self._fill()

    def on_delete_failed(self, tag: _Deleting, error: StoreError) -> None:
        self._deleting.remove(tag.asker)
        self.send(tag.asker, Refused(error.code, error.detail))

    def on_retire(self, _retire: Retire, _sender: Any) -> None:
        self._stop_following()
        self.stop()

    def on_exit(self, _exit: ActorExitRequest, _sender: Any) -> None:
        self._abandon(Refused("shutting_down"))

    def on_failure(self, error: BaseException, message: Any, sender: Any) -> None:
        """A handler raised: who waits here gets an answer, and comes back to the actor that replaces this."""
        self._counters.topics_failed += 1
        if isinstance(message, Fetch | Locate):
            self.send(sender, FetchFailed(self._topic, message.ticket, "internal_error"))
        self._abandon(
            Refused("internal_error", "the topic failed; a request with an Idempotency-Key is safe to repeat")
        )

    def _abandon(self, refused: Refused) -> None:
        self._appender.dismiss(refused)
        for asker in self._deleting:
            self.send(asker, refused)
        self._audience.dismiss(refused.code)
        self._stop_following()

    # Dispatch

    def _on_performed(self, performed: Performed, _sender: Any) -> None:
        self._on_outcome[type(performed.tag)][0](self, performed.tag, performed.result)

    def _on_perform_failed(self, failed: PerformFailed, _sender: Any) -> None:
        error = failed.error
        if not isinstance(error, StoreError):
            # A store that raises anything else has a bug; it must cost this topic no more than an unavailable
            # store would.
            logger.error("topic %s: %s failed", self._topic, type(failed.tag).__name__, exc_info=error)
            error = StoreError("internal_error", is_outcome_unknown=True)
        self._on_outcome[type(failed.tag)][1](self, failed.tag, error)

    _from_directory: ClassVar[dict[type, Callable[[TopicActor, Any, Any], None]]] = {
        Publish: on_publish,
        Fetch: on_fetch,
        Leave: on_leave,
        Locate: on_locate,
        Fed: on_fed,
        Compared: on_compared,
        Tick: on_tick,
        ShrinkHot: on_shrink_hot,
        ChangeLimits: on_change_limits,
        DeleteTopic: on_delete,
    }
    _from_self: ClassVar[dict[type, Callable[[TopicActor, Any, Any], None]]] = {
        StartTopic: on_start,
        Flush: on_flush,
        FanOutDue: on_fan_out_due,
        _FillAgain: on_fill_again,
        _Release: on_release,
        Retire: on_retire,
        ActorExitRequest: on_exit,
        Performed: _on_performed,
        PerformFailed: _on_perform_failed,
    }
    _on_outcome: ClassVar[dict[type, tuple[Callable[..., None], Callable[..., None]]]] = {
        Appending: (on_appended, on_append_failed),
        _Joining: (on_joined, on_join_failed),
        _Filling: (on_filled, on_fill_failed),
        PageRead: (on_read, on_read_failed),
        _Trimming: (on_trimmed, on_trim_failed),
        _Deleting: (on_deleted, on_delete_failed),
    }
