"""SubscriberActor: one connection's subscriptions, their cursors, and the state of its outbox. WebSocket,
Server-Sent Events and long-poll alike.

Each subscription goes round one loop (drawn in `subscription`): it fetches pages after its cursor until there
are no more, then it is live, and is sent what comes. There is no other way for a message to reach the
connection. While the outbox is full, a subscription keeps nothing but its cursor: the slow connection pays,
nobody else.

A long-poll is the same actor with `completes` set: it is answered once, after the first messages or when its
time is over, as soon as no topic owes it an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from thespian.actors import ActorExitRequest

from actors.announcements import Announcements
from actors.consumer import Consumer, Leaving, MarkDue, Recall
from actors.consumer_protocol import Claimed
from actors.long_poll import LongPoll
from actors.ports import StoreError
from actors.protocol import (
    Acknowledge,
    Delivered,
    Disconnect,
    Drained,
    Evicted,
    Expire,
    FetchFailed,
    Filled,
    Leave,
    Locate,
    Located,
    Page,
    SinkFailed,
    Start,
    StartSubscriber,
    Subscribe,
    Unsubscribe,
    WentLive,
)
from actors.runtime import LoopActor, Performed, PerformFailed
from actors.stream import Batch
from actors.subscription import Stage, SubscribeRequest, Subscription, Subscriptions
from actors.value import value

RETRY_SECONDS = (0.1, 0.2, 0.5, 1.0)


@value
class _Retry:
    topic: str
    ticket: int


class SubscriberActor(LoopActor):
    """See the module's text. Made by the `Relay` for a connection; the first message is `StartSubscriber`."""

    def __init__(self) -> None:
        self._subscriptions = Subscriptions()
        self._consumer: Consumer | None = None
        self._is_paused = False

    def receiveMessage(self, message: Any, sender: Any) -> None:
        self._handlers[type(message)](self, message)

    def on_start(self, start: StartSubscriber) -> None:
        self._start = start
        self._id = start.subscriber_id
        self._sink = start.sink
        self._directory = start.directory
        self._page_max_messages = start.page_max_messages
        self._poll = LongPoll() if start.completes else None
        self._counters = start.counters
        self._announcements = Announcements(start.sink, start.counters)
        if start.subscribe is not None:
            self.on_subscribe(start.subscribe)

    # Subscribing

    def on_subscribe(self, subscribe: Subscribe) -> None:
        code = self._name(subscribe)
        if code is not None:
            self._sink.refuse(code, "", subscribe.ref)
            return
        request = SubscribeRequest(subscribe.ref, subscribe.wanted)
        for subscription in request.subscriptions.values():
            self._drop(subscription.topic)
            self._subscriptions.add(subscription)
            if self._consumer is None:
                self._begin(subscription)
        if self._consumer is not None:
            self._recall(self._consumer, list(request.subscriptions.values()))
        self._confirm_if_located(request)
        self._fetch_parked()

    def _name(self, subscribe: Subscribe) -> str | None:
        """Take the client's name, if it has one; the error code if that cannot be."""
        client_id = subscribe.client_id
        if self._consumer is None:
            if client_id is not None:
                self._consumer = Consumer(self, self._start, client_id)
                for subscription in self._subscriptions.all():
                    subscription.sink = None
            elif any(wanted.start is Start.ACKED for wanted in subscribe.wanted):
                return "client_id_required"
        elif client_id not in (None, self._consumer.client_id):
            return "client_id_changed"
        return None

    def _recall(self, consumer: Consumer, subscriptions: Sequence[Subscription]) -> None:
        for subscription in subscriptions:
            self._subscriptions.enter(subscription, Stage.LOCATING)
            self._subscriptions.ask(subscription)
        consumer.recall(subscriptions)

    def _begin(self, subscription: Subscription) -> None:
        if self._poll is not None and subscription.has_place:
            self._park(subscription)  # nobody needs to be told where it begins
            self._fetch_parked()
        else:
            self._subscriptions.enter(subscription, Stage.LOCATING)
            ticket = self._subscriptions.ask(subscription)
            self.send(self._directory, Locate(subscription.topic, ticket))

    def on_located(self, located: Located) -> None:
        subscription = self._subscriptions.current(located.topic, located.ticket, Stage.LOCATING)
        if subscription is None:
            return
        if not subscription.has_place:
            subscription.place(located.newest, located.epoch)
        self._subscriptions.enter(subscription, Stage.LOCATED)
        request = subscription.request
        assert request is not None
        request.epochs[located.topic] = located.epoch
        if self._poll is not None:
            self._park(subscription)
            self._fetch_parked()
        else:
            self._confirm_if_located(request)

    def _confirm_if_located(self, request: SubscribeRequest) -> None:
        """Once every topic has its place: say so before the first message, then read."""
        if not request.is_located:
            return
        subscriptions = request.subscriptions.values()
        cursors = {subscription.topic: subscription.cursor for subscription in subscriptions}
        self._sink.subscribed(cursors, request.epochs, request.ref)
        for subscription in subscriptions:
            subscription.request = None
            self._park(subscription)
        self._fetch_parked()

    def on_unsubscribe(self, unsubscribe: Unsubscribe) -> None:
        for topic in unsubscribe.topics:
            self._drop(topic)
        self._sink.unsubscribed(unsubscribe.topics, unsubscribe.ref)
        self._fetch_parked()

    def _drop(self, topic: str) -> None:
        """End a subscription, be it that nobody wants it any more or that it starts anew."""
        subscription = self._subscriptions.get(topic)
        if subscription is None:
            return
        self._leave(subscription)
        self._subscriptions.remove(subscription)
        request, subscription.request = subscription.request, None
        if request is not None:
            request.withdraw(topic)
            self._confirm_if_located(request)

    def _leave(self, subscription: Subscription) -> None:
        subscription.sink = None
        if subscription.stage in (Stage.LIVE, Stage.FETCHING):
            self.send(self._directory, Leave(subscription.topic, self._id))

    # Receiving

    def _park(self, subscription: Subscription) -> None:
        """Have it wait behind the others for its turn to fetch."""
        self._subscriptions.enter(subscription, Stage.PARKED)

    def _fetch_parked(self) -> None:
        while not self._is_paused and (subscription := self._subscriptions.next_to_fetch()) is not None:
            fetch = subscription.fetch(self._id, self._page_max_messages, completes=self._poll is not None)
            self.send(self._directory, fetch)

    def on_page(self, page: Page) -> None:
        subscription = self._subscriptions.current(page.topic, page.ticket, Stage.FETCHING)
        if subscription is None:
            return
        self._park(subscription)
        # If another topic's page filled the outbox meanwhile, this one is read again later: its cursor has
        # not moved.
        if not self._is_paused:
            self._announcements.answered(subscription, page.notice, page.batch.prev, page.batch)
            subscription.has_more = page.has_more
            self._deliver(subscription, page.batch)
            self._fetch_parked()
            self._complete_if_over()

    def on_went_live(self, went: WentLive) -> None:
        subscription = self._subscriptions.current(went.topic, went.ticket, Stage.FETCHING)
        if subscription is None:
            return  # it left when it asked something else
        if self._is_paused:
            self._leave(subscription)
            self._park(subscription)
            return
        self._announcements.answered(subscription, went.notice, went.cursor)
        self._subscriptions.enter(subscription, Stage.LIVE)
        subscription.cursor = went.cursor
        subscription.epoch = went.epoch
        subscription.has_more = False
        if self._poll is None and self._consumer is None and self._start.is_counted:
            # Nothing but the sink has to know what is delivered.
            subscription.sink = self._sink
        self._fetch_parked()
        self._complete_if_over()

    def on_delivered(self, delivered: Delivered) -> None:
        subscription = self._subscriptions.get(delivered.topic)
        if subscription is None or subscription.stage is not Stage.LIVE:
            return
        batch = delivered.batch
        if batch.prev < subscription.cursor:
            self._counters.duplicates += 1
            if self._poll is not None:
                self._fetch_again(subscription)  # the topic has let go of it
                return
            rest = batch.after(subscription.cursor)
            if rest is None:
                return
            batch = rest
        elif batch.prev > subscription.cursor:
            # Something is missing that nobody told of. What is read after the cursor will tell, or have it.
            self._counters.unannounced_gaps += 1
            self._fetch_again(subscription)
            return
        if self._poll is not None:
            page = batch.first(self._page_max_messages)
            subscription.has_more = page is not batch
            batch = page
        self._deliver(subscription, batch)
        self._complete_if_over()

    def _fetch_again(self, subscription: Subscription) -> None:
        self._leave(subscription)
        self._park(subscription)
        self._fetch_parked()

    def _deliver(self, subscription: Subscription, batch: Batch) -> None:
        before, subscription.cursor = subscription.cursor, batch.last
        if not len(batch):
            return
        self._counters.messages_delivered += len(batch)
        if before < subscription.given:
            batch = batch.redelivered(subscription.given)
        if self._consumer is not None:
            self._consumer.note_delivery(batch.topic, batch.last)
        if self._sink.deliver(batch):
            self._pause()
        if self._poll is not None:
            self._poll.has_delivered = True
            # One batch a topic is what a long-poll's limit allows; the rest is for the next poll. The topic
            # knows that, and has let go of it.
            self._subscriptions.enter(subscription, Stage.OVER)

    def on_fetch_failed(self, failed: FetchFailed) -> None:
        asking = (Stage.LOCATING, Stage.FETCHING)
        subscription = self._subscriptions.current(failed.topic, failed.ticket, *asking)
        if subscription is not None:
            self._retry_later(subscription, failed.code)
            self._fetch_parked()
            self._complete_if_over()

    def _retry_later(self, subscription: Subscription, code: str) -> None:
        if self._poll is not None:
            self._poll.failure = code
        self._subscriptions.enter(subscription, Stage.RETRYING)
        seconds = RETRY_SECONDS[min(subscription.failures, len(RETRY_SECONDS) - 1)]
        subscription.failures += 1
        self.call_after(seconds, _Retry(subscription.topic, subscription.ticket))

    def on_retry(self, retry: _Retry) -> None:
        subscription = self._subscriptions.current(retry.topic, retry.ticket, Stage.RETRYING)
        if subscription is None:
            return
        if self._consumer is not None and not subscription.is_recalled:
            self._recall(self._consumer, [subscription])
        elif subscription.request is not None:
            self._begin(subscription)
        else:
            self._park(subscription)
            self._fetch_parked()

    def on_evicted(self, evicted: Evicted) -> None:
        subscription = self._subscriptions.get(evicted.topic)
        if subscription is not None and subscription.stage is Stage.LIVE:
            self._park(subscription)
            self._fetch_parked()

    # The outbox

    def on_filled(self, _filled: Filled) -> None:
        # Several topics may have filled it before this was heard of.
        if not self._is_paused:
            self._pause()

    def on_sink_failed(self, failed: SinkFailed) -> None:
        raise failed.error

    def _pause(self) -> None:
        self._is_paused = True
        self._counters.demotions += 1
        self._counters.lagging_subscribers += 1
        for subscription in self._subscriptions.all():
            if subscription.stage is Stage.LIVE:
                self._leave(subscription)
                self._park(subscription)

    def on_drained(self, _drained: Drained) -> None:
        if self._is_paused:
            self._is_paused = False
            self._counters.lagging_subscribers -= 1
            self._fetch_parked()

    # The named client

    def on_acknowledge(self, acknowledge: Acknowledge) -> None:
        if self._consumer is None:
            self._sink.refuse("client_id_required", "", acknowledge.ref)
        else:
            self._consumer.acknowledge(acknowledge, self._subscriptions)

    def on_claimed(self, claimed: Claimed) -> None:
        if self._consumer is not None:
            self._consumer.hear(claimed)
            self._end_if_deposed(self._consumer)

    def on_mark_due(self, _due: MarkDue) -> None:
        if self._consumer is not None:
            self._consumer.mark()

    def on_performed(self, performed: Performed) -> None:
        tag, consumer = performed.tag, self._consumer
        assert consumer is not None, tag
        if isinstance(tag, Leaving):
            self._answer_poll()
        elif isinstance(tag, Recall):
            for subscription in consumer.recalled(tag, performed.result):
                self._begin(subscription)
            self._end_if_deposed(consumer)
        else:
            consumer.stored(tag)

    def on_perform_failed(self, failed: PerformFailed) -> None:
        code = failed.error.code if isinstance(failed.error, StoreError) else "internal_error"
        tag, consumer = failed.tag, self._consumer
        assert consumer is not None, tag
        if isinstance(tag, Leaving):
            self._answer_poll()
        elif not isinstance(tag, Recall):
            consumer.fail(tag, code)
        elif code == "taken_over":
            consumer.is_deposed = True
        else:
            for subscription in tag.subscriptions:
                if subscription.stage is Stage.LOCATING:
                    self._retry_later(subscription, code)
            self._complete_if_over()
        self._end_if_deposed(consumer)

    def _end_if_deposed(self, consumer: Consumer) -> None:
        if consumer.is_deposed:
            self._counters.takeovers += 1
            self._sink.taken_over()
            self.on_disconnect()

    # The end

    def on_expire(self, _expire: Expire) -> None:
        if self._poll is not None:
            self._poll.is_expired = True
            self._complete_if_over()

    def _complete_if_over(self) -> None:
        poll = self._poll
        if poll is None or poll.is_ending or not poll.is_over(self._subscriptions.all()):
            return
        poll.is_ending = True
        if self._consumer is None:
            self._answer_poll()
            return
        for subscription in self._subscriptions.all():
            self._leave(subscription)
            self._subscriptions.enter(subscription, Stage.OVER)
        # Before the answer: who has it and asks again must find what it was given.
        self._consumer.leave()

    def _answer_poll(self) -> None:
        assert self._poll is not None
        self._poll.answer(self._sink, self._subscriptions.all())
        self.on_disconnect()

    def on_disconnect(self, _disconnect: Disconnect | ActorExitRequest | None = None) -> None:
        for subscription in self._subscriptions.all():
            self._leave(subscription)
        if self._is_paused:
            self._is_paused = False
            self._counters.lagging_subscribers -= 1
        if self._consumer is not None and (self._poll is None or not self._poll.is_ending):
            self._consumer.leave()
        self.stop()

    def on_failure(self, error: BaseException, message: Any, sender: Any) -> None:
        """A handler raised: the topics forget this subscriber, its client comes back with its cursor."""
        self.on_disconnect()
        self._sink.fail()

    _handlers: ClassVar[dict[type, Callable[[SubscriberActor, Any], None]]] = {
        Delivered: on_delivered,
        Page: on_page,
        WentLive: on_went_live,
        Located: on_located,
        FetchFailed: on_fetch_failed,
        Evicted: on_evicted,
        Filled: on_filled,
        SinkFailed: on_sink_failed,
        Drained: on_drained,
        Subscribe: on_subscribe,
        Unsubscribe: on_unsubscribe,
        Acknowledge: on_acknowledge,
        Claimed: on_claimed,
        MarkDue: on_mark_due,
        Expire: on_expire,
        Disconnect: on_disconnect,
        ActorExitRequest: on_disconnect,
        StartSubscriber: on_start,
        _Retry: on_retry,
        Performed: on_performed,
        PerformFailed: on_perform_failed,
    }
