"""Audience: a topic's subscribers in this worker: the live ones, who have all there is and are sent what
comes, and those who are about to have it.

    Fetch ──▶ a page from memory              while memory covers the cursor
          ──▶ a page from the stream          for cursors that memory cannot serve or prove
          ──▶ a place among the live          at the newest message
          ──▶ FetchFailed                     if the store does not answer

One decision, taken in one turn: so no message can come between the last page and going live.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from actors.fan_out import FanOut
from actors.memory import Standing, TopicMemory
from actors.ports import StreamPage
from actors.proof import judge, unbroken
from actors.protocol import (
    Fetch,
    FetchFailed,
    Locate,
    Located,
    Page,
    StartTopic,
    SubscribersChanged,
    TopicLimits,
    WentLive,
)
from actors.readers import PageKey, Reader, Readers
from actors.runtime import LoopActor
from actors.stream import BEGINNING, Batch, Message, MessageId
from actors.value import value

RELEASED_AT_ONCE = 200
"""Waiting readers answered in one turn; other topics have theirs in between."""


@value
class PageRead:
    """The tag under which a page that was read for subscribers comes back."""

    key: PageKey


class Audience:
    """A part of the topic's actor, in whose name it sends and reads."""

    def __init__(self, actor: LoopActor, start: StartTopic, memory: TopicMemory) -> None:
        self._actor = actor
        self._topic = start.topic
        self._directory = start.directory
        self._store = start.store
        self._page_max_bytes = start.limits.page_max_bytes
        self._fan_out = FanOut(actor, start)
        self._clock = start.clock
        self._counters = start.counters
        self._memory = memory
        self._readers = Readers()
        self._locating: list[tuple[Locate, Any]] = []

    def __len__(self) -> int:
        """Subscribers that are live or wait for an answer."""
        return len(self._fan_out) + len(self._readers) + len(self._locating)

    def bound(self, limits: TopicLimits) -> None:
        """For the reads from now on."""
        self._page_max_bytes = limits.page_max_bytes

    # Coming

    def locate(self, locate: Locate, subscriber: Any) -> None:
        """Answered once memory is in step: a position that is known to be old is none to begin at."""
        if self._memory.is_in_step:
            self._answer_locate(locate, subscriber)
        else:
            self._locating.append((locate, subscriber))

    def _answer_locate(self, locate: Locate, subscriber: Any) -> None:
        memory = self._memory
        located = Located(self._topic, locate.ticket, memory.newest, memory.epoch)
        self._actor.send(subscriber, located)

    def fetch(self, fetch: Fetch, subscriber: Any) -> None:
        reader = Reader(fetch, subscriber)
        self._readers.open(reader)
        if self._memory.standing is Standing.FOLLOWING:
            self._serve(reader)
        else:
            self._readers.wait(reader)

    def _serve(self, reader: Reader) -> None:
        """Answer from memory, also while it is behind: what is there is right, and the rest follows."""
        fetch, memory = reader.fetch, self._memory
        if not memory.covers(fetch.cursor, proves=fetch.proves, epoch=fetch.epoch):
            shared = memory.shared(fetch.cursor, fetch.max_messages, fetch.epoch)
            if shared is not None:
                self._counters.hot_hits += 1
                self._answer(reader, shared, has_more=True)
            else:
                self._counters.hot_misses += 1
                self._read_for(reader)
            return
        page = memory.page(fetch.cursor, fetch.max_messages)
        if page is None:
            self._go_live(reader)
        else:
            self._counters.hot_hits += 1
            self._answer(reader, page, has_more=memory.has_more_after(page.last, self._clock()))

    def _go_live(self, reader: Reader) -> None:
        fetch, memory = reader.fetch, self._memory
        self._fan_out.enter(fetch, reader.subscriber, memory.newest)
        went = WentLive(self._topic, fetch.ticket, memory.newest, memory.epoch, reader.notice)
        self._actor.send(reader.subscriber, went)
        self._readers.close(fetch.subscriber_id)
        self._report_live()

    def _answer(self, reader: Reader, page: Batch, *, has_more: bool) -> None:
        alive = page.unexpired(self._clock())
        fetch = reader.fetch
        answer = Page(self._topic, fetch.ticket, alive, has_more, reader.notice)
        self._actor.send(reader.subscriber, answer)
        self._readers.close(fetch.subscriber_id)

    # Reading the stream

    def _read_for(self, reader: Reader) -> None:
        if self._readers.read(reader):
            cursor, max_messages = key = reader.key
            read = self._store.read(self._topic, cursor, max_messages, self._page_max_bytes)
            self._actor.perform(read, PageRead(key))

    def take_read(self, key: PageKey, page: StreamPage) -> None:
        """Answer those who waited for this page; memory may have to be filled up for some of them."""
        page = unbroken(page)
        self._memory.share(*key, page)
        for reader in self._readers.take_page(key):
            fetch, notice = reader.fetch, reader.notice
            if fetch.proves and notice is None:
                notice = judge(self._topic, fetch.cursor, fetch.epoch, page)
            judged = replace(reader, notice=notice)
            if page.batch.last > fetch.cursor:
                self._answer(judged, page.batch, has_more=page.has_more)
            elif fetch.proves and self._is_of_the_future(fetch.cursor, page):
                self._serve_from_beginning(judged)
            else:
                self._serve_from_end(judged, page.position.newest)

    def _is_of_the_future(self, cursor: MessageId, page: StreamPage) -> bool:
        return cursor.milliseconds > max(self._clock(), page.position.newest.milliseconds)

    def _serve_from_beginning(self, reader: Reader) -> None:
        """What comes next will lie before this cursor too: a client that does not understand notices, and
        keeps presenting it, would miss everything."""
        fetch = replace(reader.fetch, cursor=BEGINNING, proves=False, epoch=None)
        reader = replace(reader, fetch=fetch)
        self._readers.open(reader)
        self._serve(reader)

    def _serve_from_end(self, reader: Reader, end: MessageId) -> None:
        """Nothing comes after the cursor: where the stream ends is where the subscriber stands, be that
        behind or ahead of its cursor."""
        reader = replace(reader, fetch=replace(reader.fetch, cursor=end, proves=True, epoch=None))
        self._readers.open(reader)
        if self._memory.covers(end, proves=True, epoch=None):
            self._serve(reader)
        else:
            # Either memory is behind, or it has what the stream has not, which must be looked into.
            self._readers.wait(reader)
            self._memory.doubt()

    def fail_read(self, key: PageKey, code: str) -> None:
        for reader in self._readers.take_page(key):
            self._fail(reader, code)

    # Waiting for memory

    def release(self) -> bool:
        """Memory has what was in the stream when they asked: answer those who waited for that. True: some
        still wait for the next turn."""
        for _ in range(RELEASED_AT_ONCE):
            reader = self._readers.next_waiting()
            if reader is None:
                break
            self._serve(reader)
        locating, self._locating = self._locating, []
        for locate, subscriber in locating:
            self._answer_locate(locate, subscriber)
        return self._readers.has_waiting

    def fail_waiting(self, code: str) -> None:
        """Memory cannot be brought in step now; who waits for it comes again."""
        while (reader := self._readers.next_waiting()) is not None:
            self._fail(reader, code)
        locating, self._locating = self._locating, []
        for locate, subscriber in locating:
            self._actor.send(subscriber, FetchFailed(self._topic, locate.ticket, code))

    def _fail(self, reader: Reader, code: str) -> None:
        self._actor.send(reader.subscriber, FetchFailed(self._topic, reader.fetch.ticket, code))
        self._readers.close(reader.fetch.subscriber_id)

    # Being live

    def fan_out(self, messages: Sequence[Message]) -> None:
        if self._fan_out.deliver(messages):
            self._report_live()

    def go_on(self) -> None:
        """With a fan-out that had no time for all."""
        self._fan_out.go_on()

    # Going

    def leave(self, subscriber_id: int) -> None:
        self._readers.close(subscriber_id)
        if self._fan_out.leave(subscriber_id):
            self._report_live()

    def evict(self) -> None:
        """Have every live subscriber prove its cursor anew."""
        if self._fan_out.evict():
            self._report_live()

    def dismiss(self, code: str) -> None:
        """The topic's actor ends: nobody may wait for it, or believe to be live."""
        self.fail_waiting(code)
        for reader in self._readers.drain():
            self._fail(reader, code)
        self.evict()

    def _report_live(self) -> None:
        self._actor.send(self._directory, SubscribersChanged(self._topic, len(self._fan_out)))
