"""TopicActor: the only sequencer of one topic in its worker.

It owns the topic's hot buffer, the appends to and trims of its stream, and the set of subscribers that are live. Messages enter its
memory through `_absorb` alone, whoever appended them:

    prev == newest    append to the hot buffer, fan out
    last <= newest    seen already, drop
    prev >  newest    something is missing: hold, read the stream from newest, go on

so a lost, late or doubled feed message can delay a message but never lose, reorder or double it.

    COLD ──first fetch──▶ JOINING ──position known──▶ FOLLOWING ──idle──▶ retired
      │                      │ (held meanwhile: what is appended; waiting: who fetches)
      └ own appends still fill the hot buffer, as long as no other worker's come between

It never awaits and never touches a socket or Valkey: the store's answers come back as messages.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any, ClassVar

from thespian.actors import ActorExitRequest

from actors.pending import PendingPublishes
from actors.proof import judge
from actors.protocol import (
    Appended,
    Compared,
    DeleteTopic,
    Delivered,
    Evicted,
    Fed,
    Fetch,
    FetchFailed,
    Flush,
    FollowingChanged,
    HotSize,
    Idle,
    Leave,
    Locate,
    Located,
    Notice,
    Page,
    Position,
    Publish,
    Published,
    Refused,
    Retire,
    ShrinkHot,
    StartTopic,
    StoreError,
    StreamPage,
    SubscribersChanged,
    Tick,
    TopicDeleted,
    WentLive,
)
from actors.runtime import LoopActor, Performed, PerformFailed
from actors.stream import Batch, HotBuffer, Message, MessageId, PageCache

logger = logging.getLogger(__name__)

CATCH_UP_MESSAGES = 1000
CATCH_UP_RETRY_SECONDS = 0.25
SHARED_PAGES = 16
HOT_REPORT_BYTES = 64 * 1024
TRIM_EVERY_TICKS = 2


class Feed(Enum):
    """How this worker's copy of the topic relates to the stream."""

    COLD = auto()
    JOINING = auto()
    FOLLOWING = auto()


# What an awaited outcome belongs to: the tag under which the store's answer comes back.


@dataclass(frozen=True, slots=True)
class _Appending:
    batch: list[tuple[Publish, Any]]


@dataclass(frozen=True, slots=True)
class _Reading:
    cursor: MessageId
    max_messages: int


@dataclass(frozen=True, slots=True)
class _Joining:
    pass


@dataclass(frozen=True, slots=True)
class _CatchingUp:
    newest: MessageId


@dataclass(frozen=True, slots=True)
class _Confirming:
    newest: MessageId


@dataclass(frozen=True, slots=True)
class _Deleting:
    asker: Any


@dataclass(frozen=True, slots=True)
class _Trimming:
    pass


@dataclass(frozen=True, slots=True)
class _CatchUpAgain:
    pass


@dataclass(frozen=True, slots=True)
class _Waiter:
    """A fetch that cannot be answered yet, and what its subscriber must be told when it is."""

    fetch: Fetch
    subscriber: Any
    notice: Notice | None = None


class TopicActor(LoopActor):
    """See the module's text. Created and addressed by the `DirectoryActor` only; the first message is `StartTopic`."""

    def __init__(self) -> None:
        self._feed = Feed.COLD
        self._live: dict[int, Any] = {}
        self._in_flight: list[tuple[Publish, Any]] | None = None
        self._is_flush_due = False
        self._newest: MessageId | None = None
        self._floor = MessageId(0)
        self._epoch = ""
        self._is_catching_up = False
        self._held: list[tuple[MessageId, Sequence[Message], str]] = []
        self._waiting: list[_Waiter] = []
        self._locating: list[tuple[Locate, Any]] = []
        self._reads: dict[tuple[MessageId, int], list[_Waiter]] = {}
        self._received = 0
        self._idle_ticks = 0
        self._ticks = 0
        self._is_trim_due = True
        self._reported_hot_bytes = 0

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
        self._limits = start.limits
        self._clock = start.clock
        self._counters = start.counters
        self._pending = PendingPublishes(start.limits.pending_max_messages, start.limits.pending_max_bytes)
        self._hot = HotBuffer(start.limits.hot)
        self._pages = PageCache(SHARED_PAGES)

    # ------------------------------------------------------------------------------------------------------------- publishing

    def on_publish(self, publish: Publish, publisher: Any) -> None:
        self._idle_ticks = 0
        if not self._pending.add(publish, publisher):
            self._counters.refused_publishes += 1
            self.send(publisher, Refused("overloaded", f"too many publishes wait for topic {self._topic}"))
            return
        if self._in_flight is None and not self._is_flush_due:
            # Not appended at once: the other publishes of this burst are still in the mailbox, and share the append.
            self._is_flush_due = True
            self.send(self.myAddress, Flush())

    def on_flush(self, _flush: Flush, _sender: Any) -> None:
        self._is_flush_due = False
        self._append_pending()

    def _append_pending(self) -> None:
        if self._in_flight is not None or not len(self._pending):
            return
        batch = self._pending.take(self._limits.batch_max_messages, self._limits.batch_max_bytes)
        self._in_flight = batch
        self._counters.append_batches += 1
        self.perform(
            self._store.append(self._topic, [publish for publish, _ in batch], self._floor), _Appending(batch)
        )

    def on_appended(self, tag: _Appending, appended: Appended) -> None:
        self._in_flight = None
        self._is_trim_due = True
        self._append_pending()
        if appended.messages:
            self._absorb(appended.prev, appended.messages, appended.epoch)
        counters = self._counters
        counters.messages_published += len(appended.messages)
        for (publish, publisher), outcome in zip(tag.batch, appended.outcomes, strict=True):
            if outcome is None:
                counters.refused_publishes += 1
                self.send(publisher, Refused("idempotency_conflict"))
                continue
            ids, is_replay = outcome
            counters.replayed_publishes += is_replay
            self.send(publisher, Published(publish.topic, ids, is_replay))

    def on_append_failed(self, tag: _Appending, error: StoreError) -> None:
        self._in_flight = None
        self._refuse(tag.batch, Refused(error.code, error.detail))
        if error.is_outcome_unknown and self._feed is Feed.FOLLOWING:
            self._catch_up()
        if error.is_outcome_unknown:
            # The store was away for a whole publish deadline; who waits behind would wait another one for the same answer.
            self._refuse(list(self._pending.drain()), Refused(error.code, error.detail))
        self._append_pending()

    def _refuse(self, batch: Sequence[tuple[Publish, Any]], refused: Refused) -> None:
        self._counters.refused_publishes += len(batch)
        for _, publisher in batch:
            self.send(publisher, refused)

    # -------------------------------------------------------------------------------------------------------------- absorbing

    def on_fed(self, fed: Fed, _sender: Any) -> None:
        if self._feed is Feed.COLD:
            return
        if fed.messages is not None:
            self._absorb(fed.prev, fed.messages, fed.epoch)
        elif self._newest is None or fed.newest > self._newest:
            self._catch_up()

    def _absorb(self, prev: MessageId, messages: Sequence[Message], epoch: str) -> None:
        """Take messages that follow `prev` into memory; the only way in."""
        last = messages[-1].id
        self._floor = max(self._floor, last)
        if self._feed is Feed.COLD:
            if prev != self._newest:
                self._forget(prev, epoch)
            self._epoch = epoch
            self._keep(messages)
            return
        if self._feed is Feed.JOINING or self._is_catching_up:
            self._held.append((prev, messages, epoch))
            return
        assert self._newest is not None
        if last <= self._newest and epoch == self._epoch:
            return
        if self._epoch and epoch != self._epoch:
            self._resync(Position(epoch, last), "epoch_changed")
            return
        if prev < self._newest:
            messages = [message for message in messages if message.id > self._newest]
            prev = messages[0].prev
        if prev != self._newest:
            self._held.append((prev, messages, epoch))
            self._catch_up()
            return
        self._epoch = epoch
        self._keep(messages)
        if self._live:
            delivered = Delivered(self._topic, Batch(self._topic, messages))
            for subscriber in self._live.values():
                self.send(subscriber, delivered)

    def _keep(self, messages: Sequence[Message]) -> None:
        self._hot.extend(messages)
        self._newest = messages[-1].id
        self._report_hot()

    def _forget(self, newest: MessageId, epoch: str) -> None:
        self._hot.clear(newest)
        self._pages.clear()
        self._newest = newest
        self._epoch = epoch
        self._report_hot()

    def _resync(self, position: Position, reason: str) -> None:
        """The stream is not the one in memory any more: forget, and let every live subscriber prove its cursor anew."""
        logger.warning(
            "topic %s: stream changed under us (%s), now at %s", self._topic, reason, position.newest
        )
        self._forget(position.newest, position.epoch)
        self._evict(proves=True)

    def _evict(self, *, proves: bool) -> None:
        subscribers, self._live = list(self._live.values()), {}
        for subscriber in subscribers:
            self.send(subscriber, Evicted(self._topic, proves))
        self._report_subscribers()

    def _catch_up(self) -> None:
        if self._is_catching_up or self._feed is not Feed.FOLLOWING or self._newest is None:
            return
        self._is_catching_up = True
        self._read_from_newest()

    def _read_from_newest(self) -> None:
        assert self._newest is not None
        tag = _CatchingUp(self._newest)
        self.perform(
            self._store.read(self._topic, tag.newest, CATCH_UP_MESSAGES, self._limits.page_max_bytes), tag
        )

    def on_caught_up(self, tag: _CatchingUp, page: StreamPage) -> None:
        """One page of what was missing. Contiguous if its first entry names our newest as its predecessor."""
        self._is_catching_up = False
        if self._feed is not Feed.FOLLOWING or tag.newest != self._newest:
            return
        position = page.position
        if (
            page.first_prev == self._newest
            and page.batch.messages
            and position.epoch in (self._epoch, self._epoch or position.epoch)
        ):
            self._absorb(self._newest, page.batch.messages, position.epoch)
            if page.has_more:
                self._catch_up()
        elif page.first_id is not None or position.newest != self._newest or position.epoch != self._epoch:
            self._resync(
                position, "entries are missing" if position.newest > tag.newest else "history was lost"
            )
        if not self._is_catching_up:
            self._release()

    def on_catch_up_failed(self, _tag: _CatchingUp, _error: StoreError) -> None:
        self.call_after(CATCH_UP_RETRY_SECONDS, _CatchUpAgain())

    def on_catch_up_again(self, _again: _CatchUpAgain, _sender: Any) -> None:
        if self._feed is Feed.FOLLOWING:
            self._read_from_newest()

    def _release(self) -> None:
        """Memory and stream agree again: absorb what was held, answer who waited."""
        held, self._held = self._held, []
        for prev, messages, epoch in held:
            self._absorb(prev, messages, epoch)
        if self._is_catching_up:
            return
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            self._serve(waiter)
        locating, self._locating = self._locating, []
        for locate, subscriber in locating:
            self.on_locate(locate, subscriber)

    # --------------------------------------------------------------------------------------------------------------- following

    def _join(self) -> None:
        if self._feed is Feed.COLD:
            self._feed = Feed.JOINING
            self.perform(self._store.follow(self._topic), _Joining())

    def on_joined(self, _tag: _Joining, position: Position) -> None:
        self._feed = Feed.FOLLOWING
        self.send(self._directory, FollowingChanged(self._topic, is_following=True))
        newest = self._newest
        is_known = newest is not None and self._epoch == position.epoch
        if is_known and position.newest == newest:
            self._release()
        elif (
            is_known
            and newest < position.newest
            and position.newest.number - newest.number <= CATCH_UP_MESSAGES
        ):
            self._catch_up()
        else:
            # Too far behind to fill up, or never seen: subscribers that want older messages read them from the stream.
            self._forget(position.newest, position.epoch)
            self._release()
        self._floor = max(self._floor, position.newest)

    def on_join_failed(self, _tag: _Joining, error: StoreError) -> None:
        self._feed = Feed.COLD
        held, self._held = self._held, []
        for prev, messages, epoch in held:
            self._absorb(prev, messages, epoch)
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            self.send(waiter.subscriber, FetchFailed(self._topic, waiter.fetch.ticket, error.code))
        locating, self._locating = self._locating, []
        for locate, subscriber in locating:
            self.send(subscriber, FetchFailed(self._topic, locate.ticket, error.code))

    def on_compared(self, compared: Compared, _sender: Any) -> None:
        position = compared.position
        if (
            self._feed is not Feed.FOLLOWING
            or self._is_catching_up
            or self._in_flight is not None
            or self._newest is None
        ):
            return
        if position.newest > self._newest and position.epoch == self._epoch:
            self._catch_up()
        elif position.newest != self._newest or position.epoch != self._epoch:
            # The comparison may have been read before our own newest append: only one that is asked now proves a loss.
            self.perform(self._store.position(self._topic), _Confirming(self._newest))

    def on_confirmed(self, tag: _Confirming, position: Position) -> None:
        if self._feed is Feed.FOLLOWING and (
            position.newest < tag.newest or (self._epoch and position.epoch != self._epoch)
        ):
            self._resync(position, "history was lost")

    # ---------------------------------------------------------------------------------------------------------------- fetching

    def on_locate(self, locate: Locate, subscriber: Any) -> None:
        self._idle_ticks = 0
        if self._feed is Feed.FOLLOWING and not self._is_catching_up:
            assert self._newest is not None
            self.send(subscriber, Located(self._topic, locate.ticket, self._newest, self._epoch))
            return
        self._locating.append((locate, subscriber))
        self._join()

    def on_fetch(self, fetch: Fetch, subscriber: Any) -> None:
        self._idle_ticks = 0
        waiter = _Waiter(fetch, subscriber)
        if self._feed is Feed.FOLLOWING and not self._is_catching_up:
            self._serve(waiter)
            return
        self._waiting.append(waiter)
        self._join()

    def _serve(self, waiter: _Waiter) -> None:
        """Answer a fetch from the hot buffer, or make its subscriber live, or read the stream for it."""
        fetch, hot, newest = waiter.fetch, self._hot, self._newest
        assert newest is not None
        cursor = fetch.cursor
        if fetch.epoch and self._epoch and fetch.epoch != self._epoch:
            notice = self._count(Notice("reset", self._topic, "epoch_changed"))
            fetch = replace(fetch, epoch=None, proves=False, cursor=min(cursor, newest))
            waiter, cursor = _Waiter(fetch, waiter.subscriber, notice), fetch.cursor
        if cursor > newest or not hot.covers(cursor) or (fetch.proves and not hot.knows(cursor)):
            self._counters.hot_misses += 1
            self._read_for(waiter)
        elif cursor == newest:
            self._go_live(waiter)
        else:
            self._counters.hot_hits += 1
            page = self._pages.get(cursor, fetch.max_messages)
            if page is None:
                page = Batch(self._topic, hot.after(cursor, fetch.max_messages, self._limits.page_max_bytes))
                self._pages.put(cursor, fetch.max_messages, page)
            self._answer(waiter, page, page.last < newest)

    def _go_live(self, waiter: _Waiter) -> None:
        assert self._newest is not None
        fetch = waiter.fetch
        self._live[fetch.subscriber_id] = waiter.subscriber
        self.send(
            waiter.subscriber, WentLive(self._topic, fetch.ticket, self._newest, self._epoch, waiter.notice)
        )
        self._report_subscribers()

    def _answer(self, waiter: _Waiter, batch: Batch, has_more: bool) -> None:
        alive = batch.unexpired(self._clock())
        self.send(waiter.subscriber, Page(self._topic, waiter.fetch.ticket, alive, has_more, waiter.notice))

    def _read_for(self, waiter: _Waiter) -> None:
        fetch = waiter.fetch
        tag = _Reading(fetch.cursor, fetch.max_messages)
        readers = self._reads.setdefault((tag.cursor, tag.max_messages), [])
        readers.append(waiter)
        if len(readers) == 1:
            self.perform(
                self._store.read(self._topic, tag.cursor, tag.max_messages, self._limits.page_max_bytes), tag
            )

    def on_read(self, tag: _Reading, page: StreamPage) -> None:
        for waiter in self._reads.pop((tag.cursor, tag.max_messages), ()):
            notice = waiter.notice
            if waiter.fetch.proves:
                notice = self._count(judge(self._topic, tag.cursor, page)) or notice
            self._serve_read(replace(waiter, notice=notice), page)

    def _serve_read(self, waiter: _Waiter, page: StreamPage) -> None:
        if page.batch.last > waiter.fetch.cursor:
            self._answer(waiter, page.batch, page.has_more)
            return
        # Nothing after the cursor. Where the stream ends is where this subscriber stands, be it behind or ahead of its cursor.
        end = page.position.newest
        fetch = replace(waiter.fetch, cursor=end, proves=False)
        waiter = replace(waiter, fetch=fetch)
        if self._feed is not Feed.FOLLOWING or self._newest is None:
            self._waiting.append(waiter)
            self._join()
        elif end > self._newest or self._is_catching_up:
            self._waiting.append(waiter)
            self._catch_up()
        elif end < self._newest and not self._hot.covers(end):
            self.perform(self._store.position(self._topic), _Confirming(self._newest))
            self.send(waiter.subscriber, FetchFailed(self._topic, fetch.ticket, "store_unavailable"))
        else:
            self._serve(waiter)

    def on_read_failed(self, tag: _Reading, error: StoreError) -> None:
        for waiter in self._reads.pop((tag.cursor, tag.max_messages), ()):
            self.send(waiter.subscriber, FetchFailed(self._topic, waiter.fetch.ticket, error.code))

    def _count(self, notice: Notice | None) -> Notice | None:
        if notice is not None and notice.kind == "gap":
            self._counters.gaps += 1
        elif notice is not None:
            self._counters.resets += 1
        return notice

    def on_leave(self, leave: Leave, _sender: Any) -> None:
        if self._live.pop(leave.subscriber_id, None) is not None:
            self._report_subscribers()

    # ------------------------------------------------------------------------------------------------------- time, memory, end

    def on_tick(self, _tick: Tick, _sender: Any) -> None:
        self._ticks += 1
        now_ms = self._clock()
        self._hot.expire(now_ms)
        self._report_hot()
        if self._is_trim_due and self._ticks % TRIM_EVERY_TICKS == 0:
            self._is_trim_due = False
            self.perform(self._store.trim(self._topic, now_ms - self._limits.retention_ms), _Trimming())
        if (
            self._live
            or self._waiting
            or self._locating
            or self._reads
            or self._in_flight
            or len(self._pending)
        ):
            self._idle_ticks = 0
            return
        self._idle_ticks += 1
        if self._idle_ticks >= self._limits.idle_ticks:
            self.send(self._directory, Idle(self._topic, self._received))

    def on_retire(self, _retire: Retire, _sender: Any) -> None:
        self._stop_following()
        self._hot.clear(MessageId(0))
        self._report_hot()
        self.stop()

    def _stop_following(self) -> None:
        if self._feed is not Feed.COLD:
            self._feed = Feed.COLD
            self._store.unfollow(self._topic)
            self.send(self._directory, FollowingChanged(self._topic, is_following=False))

    def on_shrink_hot(self, shrink: ShrinkHot, _sender: Any) -> None:
        self._hot.shrink(shrink.max_bytes)
        self._pages.clear()
        self._report_hot()

    def _report_hot(self) -> None:
        size = self._hot.size_bytes
        if abs(size - self._reported_hot_bytes) >= HOT_REPORT_BYTES or (
            size == 0 and self._reported_hot_bytes
        ):
            self._reported_hot_bytes = size
            self.send(self._directory, HotSize(self._topic, size))

    def _report_subscribers(self) -> None:
        self.send(self._directory, SubscribersChanged(self._topic, len(self._live)))

    def on_trimmed(self, _tag: _Trimming, count: int) -> None:
        self._counters.trimmed_messages += count

    def on_trim_failed(self, _tag: _Trimming, _error: StoreError) -> None:
        self._is_trim_due = True

    def on_delete(self, _delete: DeleteTopic, asker: Any) -> None:
        self.perform(self._store.delete(self._topic), _Deleting(asker))

    def on_deleted(self, tag: _Deleting, position: Position | None) -> None:
        if position is not None:
            self._floor = max(self._floor, position.newest)
            if self._newest is None or position.newest >= self._newest:
                self._forget(position.newest, "")
        self.send(tag.asker, TopicDeleted(self._topic, position is not None))

    def on_delete_failed(self, tag: _Deleting, error: StoreError) -> None:
        self.send(tag.asker, Refused(error.code, error.detail))

    def on_exit(self, _exit: ActorExitRequest, _sender: Any) -> None:
        self._abandon(Refused("shutting_down"))

    def on_failure(self, error: BaseException, message: Any, sender: Any) -> None:
        """A handler raised: who waits here gets an answer, and comes back to the actor that replaces this one."""
        self._counters.topics_failed += 1
        self._abandon(
            Refused("internal_error", "the topic failed; a request with an Idempotency-Key is safe to repeat")
        )

    def _abandon(self, refused: Refused) -> None:
        self._refuse([*(self._in_flight or ()), *self._pending.drain()], refused)
        waiters = [*self._waiting, *(waiter for readers in self._reads.values() for waiter in readers)]
        for waiter in waiters:
            self.send(waiter.subscriber, FetchFailed(self._topic, waiter.fetch.ticket, refused.code))
        for locate, subscriber in self._locating:
            self.send(subscriber, FetchFailed(self._topic, locate.ticket, refused.code))
        self._evict(proves=False)
        self._stop_following()

    # ---------------------------------------------------------------------------------------------------------------- dispatch

    def _on_performed(self, performed: Performed, _sender: Any) -> None:
        self._on_outcome[type(performed.tag)][0](self, performed.tag, performed.result)

    def _on_perform_failed(self, failed: PerformFailed, _sender: Any) -> None:
        error = failed.error
        if not isinstance(error, StoreError):
            # A store that raises anything else has a bug; it must cost this topic no more than an unavailable store would.
            logger.error("topic %s: %s failed", self._topic, type(failed.tag).__name__, exc_info=error)
            error = StoreError("internal_error", is_outcome_unknown=True)
        on_failed = self._on_outcome[type(failed.tag)][1]
        if on_failed is not None:
            on_failed(self, failed.tag, error)

    _from_directory: ClassVar[dict[type, Callable[[TopicActor, Any, Any], None]]] = {
        Publish: on_publish,
        Fetch: on_fetch,
        Leave: on_leave,
        Locate: on_locate,
        Fed: on_fed,
        Compared: on_compared,
        Tick: on_tick,
        ShrinkHot: on_shrink_hot,
        DeleteTopic: on_delete,
    }
    _from_self: ClassVar[dict[type, Callable[[TopicActor, Any, Any], None]]] = {
        StartTopic: on_start,
        Flush: on_flush,
        Retire: on_retire,
        ActorExitRequest: on_exit,
        _CatchUpAgain: on_catch_up_again,
        Performed: _on_performed,
        PerformFailed: _on_perform_failed,
    }
    _on_outcome: ClassVar[dict[type, tuple[Callable[..., None], Callable[..., None] | None]]] = {
        _Appending: (on_appended, on_append_failed),
        _Reading: (on_read, on_read_failed),
        _Joining: (on_joined, on_join_failed),
        _CatchingUp: (on_caught_up, on_catch_up_failed),
        _Confirming: (on_confirmed, None),
        _Trimming: (on_trimmed, on_trim_failed),
        _Deleting: (on_deleted, on_delete_failed),
    }
