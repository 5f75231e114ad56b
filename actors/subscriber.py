"""SubscriberActor: one connection's subscriptions, cursors and outbox state. WebSocket, SSE and long-poll alike.

Each subscription goes round one loop; there is no other way for a message to reach the connection:

    LOCATING ──Located──▶ FETCHING ──Page──▶ FETCHING ... ──WentLive──▶ LIVE ──Evicted──▶ FETCHING
                              │                                            │
                              └──────── outbox above its high mark ────────┴──▶ PARKED ──Drained──▶ FETCHING

A parked subscription keeps nothing but its cursor: the slow connection pays, nobody else. A long-poll is the same actor with
`completes` set: it answers once, after the first messages or at its time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import Any, ClassVar

from thespian.actors import ActorExitRequest

from actors.protocol import (
    Acknowledge,
    Delivered,
    Disconnect,
    Drained,
    Evicted,
    Expire,
    Fetch,
    FetchFailed,
    Leave,
    Locate,
    Located,
    Notice,
    Page,
    Start,
    StartSubscriber,
    StoreError,
    Subscribe,
    Unsubscribe,
    Wanted,
    WentLive,
)
from actors.runtime import LoopActor, Performed, PerformFailed
from actors.stream import BEGINNING, Batch, MessageId

RETRY_SECONDS = (0.1, 0.2, 0.5, 1.0)


class Stage(Enum):
    LOCATING = auto()
    FETCHING = auto()
    LIVE = auto()
    PARKED = auto()
    RETRYING = auto()


class Subscription:
    """One topic of this connection."""

    __slots__ = (
        "cursor",
        "epoch",
        "failures",
        "is_answered",
        "proves",
        "request",
        "stage",
        "start",
        "ticket",
        "topic",
    )

    def __init__(self, wanted: Wanted, request: SubscribeRequest) -> None:
        self.topic = wanted.topic
        self.start = wanted.start
        self.epoch = wanted.epoch
        self.request: SubscribeRequest | None = request
        self.cursor: MessageId | None = wanted.start if isinstance(wanted.start, MessageId) else None
        self.proves = self.cursor is not None and wanted.proves
        self.stage = Stage.LOCATING
        self.ticket = 0
        self.failures = 0
        self.is_answered = False


class SubscribeRequest:
    """A subscribe request whose topics are still being located; it is confirmed when all of them are."""

    __slots__ = ("cursors", "epochs", "ref", "topics")

    def __init__(self, ref: object, topics: list[str]) -> None:
        self.ref = ref
        self.topics = topics
        self.cursors: dict[str, MessageId] = {}
        self.epochs: dict[str, str] = {}


class _Acknowledging:
    __slots__ = ("cursors", "refs")

    def __init__(self) -> None:
        self.cursors: dict[str, MessageId] = {}
        self.refs: list[tuple[str, MessageId, object]] = []


class _RecallingAcknowledged:
    __slots__ = ("subscribe",)

    def __init__(self, subscribe: Subscribe) -> None:
        self.subscribe = subscribe


class _Retry:
    __slots__ = ("ticket", "topic")

    def __init__(self, topic: str, ticket: int) -> None:
        self.topic = topic
        self.ticket = ticket


class SubscriberActor(LoopActor):
    """See the module's text. Made by the `Relay` for a connection; the first message is `StartSubscriber`."""

    def __init__(self) -> None:
        self._subscriptions: dict[str, Subscription] = {}
        self._last_ticket = 0
        self._is_paused = False
        self._client_id: str | None = None
        self._acknowledging: _Acknowledging | None = None
        self._acknowledge_next = _Acknowledging()
        self._has_delivered = False
        self._has_more = False
        self._is_complete = False

    def receiveMessage(self, message: Any, sender: Any) -> None:
        self._handlers[type(message)](self, message)

    def on_start(self, start: StartSubscriber) -> None:
        self._id = start.subscriber_id
        self._sink = start.sink
        self._directory = start.directory
        self._store = start.store
        self._page_max_messages = start.page_max_messages
        self._completes = start.completes
        self._counters = start.counters

    # ------------------------------------------------------------------------------------------------------------ subscribing

    def on_subscribe(self, subscribe: Subscribe) -> None:
        if subscribe.client_id is not None:
            self._client_id = subscribe.client_id
        if any(wanted.start is Start.ACKED for wanted in subscribe.wanted):
            if self._client_id is None:
                self._sink.refuse("client_id_required", "offset acked needs a client_id", subscribe.ref)
                return
            topics = [wanted.topic for wanted in subscribe.wanted]
            self.perform(self._store.acknowledged(self._client_id, topics), _RecallingAcknowledged(subscribe))
            return
        self._begin(subscribe, subscribe.wanted)

    def _begin(self, subscribe: Subscribe, wanted_topics: tuple[Wanted, ...]) -> None:
        request = SubscribeRequest(subscribe.ref, [wanted.topic for wanted in wanted_topics])
        for wanted in wanted_topics:
            self._leave(self._subscriptions.get(wanted.topic))
            subscription = self._subscriptions[wanted.topic] = Subscription(wanted, request)
            if self._completes and subscription.cursor is not None:
                self._fetch(subscription)
            else:
                self._locate(subscription)

    def _locate(self, subscription: Subscription) -> None:
        subscription.stage = Stage.LOCATING
        self._last_ticket = subscription.ticket = self._last_ticket + 1
        self.send(self._directory, Locate(subscription.topic, subscription.ticket))

    def on_located(self, located: Located) -> None:
        subscription = self._current(located.topic, located.ticket, Stage.LOCATING)
        if subscription is None:
            return
        if subscription.start is Start.LATEST:
            subscription.cursor = located.newest
        elif subscription.cursor is None:
            subscription.cursor = BEGINNING
        request, subscription.request = subscription.request, None
        if self._completes or request is None:
            self._fetch(subscription)
            return
        request.cursors[located.topic] = subscription.cursor
        request.epochs[located.topic] = located.epoch
        if len(request.cursors) == len(set(request.topics)):
            self._confirm(request)

    def _confirm(self, request: SubscribeRequest) -> None:
        """Every topic has its place: say so before the first message, then read."""
        self._sink.subscribed(request.cursors, request.epochs, request.ref)
        for topic in request.cursors:
            subscription = self._subscriptions.get(topic)
            if (
                subscription is not None
                and subscription.stage is Stage.LOCATING
                and subscription.request is None
            ):
                self._fetch(subscription)

    def on_unsubscribe(self, unsubscribe: Unsubscribe) -> None:
        for topic in unsubscribe.topics:
            subscription = self._subscriptions.pop(topic, None)
            if subscription is None:
                continue
            self._leave(subscription)
            if subscription.request is not None:
                self._withdraw(subscription.request, topic)
        self._sink.unsubscribed(unsubscribe.topics, unsubscribe.ref)

    def _withdraw(self, request: SubscribeRequest, topic: str) -> None:
        request.topics = [other for other in request.topics if other != topic]
        if request.topics and len(request.cursors) == len(set(request.topics)):
            self._confirm(request)

    # --------------------------------------------------------------------------------------------------------------- receiving

    def _fetch(self, subscription: Subscription) -> None:
        if self._is_paused:
            subscription.stage = Stage.PARKED
            return
        assert subscription.cursor is not None
        subscription.stage = Stage.FETCHING
        self._last_ticket = subscription.ticket = self._last_ticket + 1
        fetch = Fetch(
            subscription.topic,
            self._id,
            subscription.ticket,
            subscription.cursor,
            self._page_max_messages,
            subscription.proves,
            subscription.epoch,
        )
        self.send(self._directory, fetch)

    def on_page(self, page: Page) -> None:
        subscription = self._current(page.topic, page.ticket, Stage.FETCHING)
        if subscription is None or self._is_complete:
            return
        if self._is_paused:
            # Another topic's page filled the outbox meanwhile. The cursor has not moved, so this one is read again later.
            subscription.stage = Stage.PARKED
            return
        self._answered(subscription, page.notice)
        self._has_more = self._has_more or page.has_more
        self._deliver(subscription, page.batch)
        if not self._completes or not len(page.batch):
            self._fetch(subscription)  # parks it, if that page filled the outbox
        self._complete_if_answered()

    def on_went_live(self, went: WentLive) -> None:
        subscription = self._current(went.topic, went.ticket, Stage.FETCHING)
        if subscription is None or self._is_complete or self._is_paused:
            self.send(self._directory, Leave(went.topic, self._id))
            if subscription is not None:
                subscription.stage = Stage.PARKED
            return
        self._answered(subscription, went.notice)
        subscription.stage = Stage.LIVE
        subscription.cursor = went.cursor
        subscription.epoch = went.epoch or None
        self._complete_if_answered()

    def on_delivered(self, delivered: Delivered) -> None:
        subscription = self._subscriptions.get(delivered.topic)
        if subscription is None or subscription.stage is not Stage.LIVE or self._is_complete:
            return
        batch: Batch | None = delivered.batch
        assert batch is not None and subscription.cursor is not None
        if batch.messages[0].id <= subscription.cursor:
            self._counters.order_inversions += 1
            batch = batch.after(subscription.cursor)
            if batch is None:
                return
        if self._completes:
            cut = batch.first(self._page_max_messages)
            self._has_more = self._has_more or cut is not batch
            batch = cut
        self._deliver(subscription, batch)
        self._complete_if_answered()

    def _deliver(self, subscription: Subscription, batch: Batch) -> None:
        subscription.cursor = batch.last
        if not len(batch):
            return
        self._has_delivered = True
        self._counters.messages_delivered += len(batch)
        if self._sink.deliver(batch) and not self._is_paused:
            self._pause()
        if self._completes:
            # One batch a topic is what a long-poll's limit allows; the rest is for the next poll.
            self._leave(subscription)
            subscription.stage = Stage.PARKED

    def _answered(self, subscription: Subscription, notice: Notice | None) -> None:
        """The topic has answered: the cursor is proved, or its break is about to be announced."""
        subscription.failures = 0
        subscription.is_answered = True
        subscription.proves = False
        if subscription.epoch is not None and notice is not None:
            subscription.epoch = None
        if subscription.start is Start.UNKNOWN:
            subscription.start = Start.EARLIEST
            self._counters.resets += 1
            notice = notice or Notice("reset", subscription.topic, "unknown_cursor")
        if notice is not None:
            self._sink.notify(notice)

    def on_fetch_failed(self, failed: FetchFailed) -> None:
        subscription = self._subscriptions.get(failed.topic)
        if subscription is None or subscription.ticket != failed.ticket or self._is_complete:
            return
        subscription.stage = Stage.RETRYING
        seconds = RETRY_SECONDS[min(subscription.failures, len(RETRY_SECONDS) - 1)]
        subscription.failures += 1
        self._failure = failed.code
        self.call_after(seconds, _Retry(failed.topic, failed.ticket))
        self._complete_if_answered()

    def on_retry(self, retry: _Retry) -> None:
        subscription = self._current(retry.topic, retry.ticket, Stage.RETRYING)
        if subscription is None:
            return
        if subscription.request is not None and not (self._completes and subscription.cursor is not None):
            self._locate(subscription)
        else:
            self._fetch(subscription)

    def on_evicted(self, evicted: Evicted) -> None:
        subscription = self._subscriptions.get(evicted.topic)
        if subscription is not None and subscription.stage is Stage.LIVE:
            subscription.proves = evicted.proves
            self._fetch(subscription)

    def _current(self, topic: str, ticket: int, stage: Stage) -> Subscription | None:
        """The subscription an answer belongs to; None if it was asked by one that is over or has asked again since."""
        subscription = self._subscriptions.get(topic)
        if subscription is None or subscription.ticket != ticket or subscription.stage is not stage:
            return None
        return subscription

    # ------------------------------------------------------------------------------------------------------------------ outbox

    def _pause(self) -> None:
        self._is_paused = True
        self._counters.demotions += 1
        self._counters.lagging_subscribers += 1
        for subscription in self._subscriptions.values():
            if subscription.stage is Stage.LIVE:
                self._leave(subscription)
                subscription.stage = Stage.PARKED

    def on_drained(self, _drained: Drained) -> None:
        if not self._is_paused:
            return
        self._is_paused = False
        self._counters.lagging_subscribers -= 1
        for subscription in self._subscriptions.values():
            if subscription.stage is Stage.PARKED:
                self._fetch(subscription)

    def _leave(self, subscription: Subscription | None) -> None:
        if subscription is not None and subscription.stage in (Stage.LIVE, Stage.FETCHING):
            self.send(self._directory, Leave(subscription.topic, self._id))

    # --------------------------------------------------------------------------------------------------------- acknowledgement

    def on_acknowledge(self, acknowledge: Acknowledge) -> None:
        topic = acknowledge.topic
        if self._client_id is None:
            self._sink.refuse(
                "client_id_required",
                "acknowledgements are kept by client_id: subscribe with one",
                acknowledge.ref,
            )
            return
        if topic is None and len(self._subscriptions) == 1:
            topic = next(iter(self._subscriptions))
        if topic is None:
            self._sink.refuse(
                "topic_ambiguous", "name the topic of the acknowledged message", acknowledge.ref
            )
            return
        pending = self._acknowledge_next
        pending.cursors[topic] = max(pending.cursors.get(topic, BEGINNING), acknowledge.message_id)
        pending.refs.append((topic, acknowledge.message_id, acknowledge.ref))
        self._store_acknowledged()

    def _store_acknowledged(self) -> None:
        if self._acknowledging is not None or not self._acknowledge_next.refs:
            return
        assert self._client_id is not None
        self._acknowledging, self._acknowledge_next = self._acknowledge_next, _Acknowledging()
        self.perform(
            self._store.acknowledge(self._client_id, self._acknowledging.cursors), self._acknowledging
        )

    def on_performed(self, performed: Performed) -> None:
        tag = performed.tag
        if isinstance(tag, _RecallingAcknowledged):
            self._begin_acked(tag.subscribe, performed.result)
            return
        self._acknowledging = None
        for topic, message_id, ref in tag.refs:
            self._sink.acknowledged(topic, message_id, ref)
        self._store_acknowledged()

    def _begin_acked(self, subscribe: Subscribe, acked: Mapping[str, MessageId]) -> None:
        resolved = tuple(
            Wanted(wanted.topic, acked.get(wanted.topic, Start.EARLIEST), wanted.epoch)
            if wanted.start is Start.ACKED
            else wanted
            for wanted in subscribe.wanted
        )
        self._begin(subscribe, resolved)

    def on_perform_failed(self, failed: PerformFailed) -> None:
        code = failed.error.code if isinstance(failed.error, StoreError) else "internal_error"
        tag = failed.tag
        if isinstance(tag, _RecallingAcknowledged):
            self._sink.refuse(
                code, "the acknowledged cursor could not be read; subscribe again", tag.subscribe.ref
            )
            return
        self._acknowledging = None
        for _topic, _message_id, ref in tag.refs:
            self._sink.refuse(code, "the acknowledgement was not stored; acknowledge again", ref)
        self._store_acknowledged()

    # --------------------------------------------------------------------------------------------------------------------- end

    _failure: str | None = None

    def _complete_if_answered(self) -> None:
        """A long-poll with messages ends as soon as no topic owes it an answer any more."""
        if not self._completes or self._is_complete or not self._has_delivered:
            return
        for subscription in self._subscriptions.values():
            if not subscription.is_answered and subscription.stage is not Stage.RETRYING:
                return
        self._complete()

    def on_expire(self, _expire: Expire) -> None:
        if self._completes and not self._is_complete:
            self._complete()

    def _complete(self) -> None:
        self._is_complete = True
        cursors = {s.topic: s.cursor for s in self._subscriptions.values() if s.cursor is not None}
        is_unread = any(not s.is_answered for s in self._subscriptions.values())
        failure = (self._failure or "store_unavailable") if is_unread and not self._has_delivered else None
        self._sink.complete(cursors, self._has_more, failure)
        self.on_disconnect(Disconnect())

    def on_disconnect(self, _disconnect: Disconnect | ActorExitRequest) -> None:
        for subscription in self._subscriptions.values():
            self._leave(subscription)
        self._subscriptions.clear()
        if self._is_paused:
            self._is_paused = False
            self._counters.lagging_subscribers -= 1
        self.stop()

    def on_failure(self, error: BaseException, message: Any, sender: Any) -> None:
        """A handler raised: the client is told to come back with its cursor, the topics forget this subscriber."""
        self._sink.fail()
        self.on_disconnect(Disconnect())

    _handlers: ClassVar[dict[type, Callable[[SubscriberActor, Any], None]]] = {
        Delivered: on_delivered,
        Page: on_page,
        WentLive: on_went_live,
        Located: on_located,
        FetchFailed: on_fetch_failed,
        Evicted: on_evicted,
        Drained: on_drained,
        Subscribe: on_subscribe,
        Unsubscribe: on_unsubscribe,
        Acknowledge: on_acknowledge,
        Expire: on_expire,
        Disconnect: on_disconnect,
        ActorExitRequest: on_disconnect,
        StartSubscriber: on_start,
        _Retry: on_retry,
        Performed: on_performed,
        PerformFailed: on_perform_failed,
    }
