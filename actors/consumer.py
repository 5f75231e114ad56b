"""Consumer: the named client that one connection speaks for: its claim, its place, what it was given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from actors.acknowledgements import AckBatch, Acknowledgements
from actors.consumer_protocol import Claimed, Hold, LetGo
from actors.ports import Claim
from actors.protocol import Acknowledge, Start, StartSubscriber
from actors.runtime import LoopActor
from actors.stream import BEGINNING, MessageId
from actors.subscription import Stage, Subscription, Subscriptions
from actors.value import value

MARK_SECONDS = 0.25
"""What a client was given is stored at most this often, and when its connection ends."""


@value
class Recall:
    """The tag under which a claim comes back, with what is kept for these subscriptions."""

    subscriptions: Sequence[Subscription]


@value
class Marking:
    """The tag under which stored marks come back."""

    topics: Sequence[str]


@value
class Leaving:
    """The tag under which the release of a claim comes back."""


@value
class MarkDue:
    """A note to itself: store what was given to the client by now."""


class Consumer:
    """A part of the subscriber's actor. Of all connections that present a name the last to claim it speaks
    for it; the others are deposed: told so by the announcement of the later claim, or, should that get lost,
    by the store's refusal of their next acknowledgement.
    """

    def __init__(self, actor: LoopActor, start: StartSubscriber, client_id: str) -> None:
        self.client_id = client_id
        self.is_deposed = False
        self._actor = actor
        self._start = start
        self._store = start.store
        self._acknowledgements = Acknowledgements(
            actor, start.store, start.sink, client_id, start.subscriber_id
        )
        self._generation: int | None = None
        self._heard = 0
        self._delivered: dict[str, MessageId] = {}
        self._unmarked: set[str] = set()
        self._is_mark_due = False
        # First: a later claim must not be announced before somebody listens.
        actor.send(start.claims, Hold(client_id, start.subscriber_id))

    # The claim

    def recall(self, subscriptions: Sequence[Subscription]) -> None:
        """Claim the name, or confirm the claim, and ask where the client stands in these topics."""
        topics = [subscription.topic for subscription in subscriptions]
        claim = self._store.claim(
            self.client_id, self._start.subscriber_id, topics, is_held=self._generation is not None
        )
        # Given up with the connection: carried out late, it would depose who came after.
        self._actor.perform(claim, Recall(subscriptions), cancel_on_exit=True)

    def recalled(self, recall: Recall, claim: Claim) -> Sequence[Subscription]:
        """The subscriptions that can begin now; those not wanted any more are left out."""
        self._generation = claim.generation
        self._judge()
        wanted = [one for one in recall.subscriptions if one.stage is Stage.LOCATING]
        for subscription in wanted:
            topic = subscription.topic
            subscription.is_recalled = True
            subscription.given = max(
                claim.delivered.get(topic, BEGINNING), self._delivered.get(topic, BEGINNING)
            )
            if subscription.start is Start.ACKED:
                subscription.place(claim.cursors.get(topic))
        self._acknowledgements.begin()
        return wanted

    def hear(self, claimed: Claimed) -> None:
        """Somebody claimed the name; it may have been this connection."""
        self._heard = max(self._heard, claimed.generation)
        self._judge()

    def _judge(self) -> None:
        if self._generation is not None and self._heard > self._generation:
            self.is_deposed = True

    # Acknowledgements

    def acknowledge(self, acknowledge: Acknowledge, subscriptions: Subscriptions) -> None:
        topic, sink = acknowledge.topic, self._start.sink
        if topic is None and len(subscriptions) == 1:
            topic = next(iter(subscriptions.all())).topic
        subscription = None if topic is None else subscriptions.get(topic)
        if topic is None and len(subscriptions):
            sink.refuse("topic_ambiguous", "name the topic of the acknowledged message", acknowledge.ref)
        elif subscription is None:
            sink.refuse(
                "not_subscribed", "only messages of subscribed topics are acknowledged", acknowledge.ref
            )
        else:
            # What it was sent on this connection was given out; anything else is asked about.
            is_given = subscription.is_answered and acknowledge.message_id <= subscription.cursor
            self._acknowledgements.add(subscription.topic, acknowledge, proves=not is_given)

    # Marks

    def note_delivery(self, topic: str, cursor: MessageId) -> None:
        self._delivered[topic] = cursor
        self._unmarked.add(topic)
        # A poll is over soon, and all marks are stored then.
        if not self._is_mark_due and not self._start.completes:
            self._is_mark_due = True
            self._actor.call_after(MARK_SECONDS, MarkDue())

    def mark(self) -> None:
        self._is_mark_due = False
        marks = self._take_unmarked()
        self._actor.perform(self._store.mark(self.client_id, marks), Marking(list(marks)))

    def _take_unmarked(self) -> Mapping[str, MessageId]:
        marks = {topic: self._delivered[topic] for topic in self._unmarked}
        self._unmarked.clear()
        return marks

    # What the store answers

    def stored(self, tag: AckBatch | Marking) -> None:
        if isinstance(tag, AckBatch):
            self._acknowledgements.stored(tag)

    def fail(self, tag: AckBatch | Marking, code: str) -> None:
        if isinstance(tag, AckBatch):
            self._acknowledgements.fail(tag, code)
            self.is_deposed = self.is_deposed or code == "taken_over"
            return
        for topic in tag.topics:
            self.note_delivery(topic, self._delivered[topic])

    def leave(self) -> None:
        """The connection ends: store what is not stored yet, then let go of the name."""
        self._acknowledgements.end()
        marks = self._take_unmarked()
        release = self._store.release(self.client_id, self._start.subscriber_id, marks)
        self._actor.perform(release, Leaving())
        self._actor.send(self._start.claims, LetGo(self.client_id, self._start.subscriber_id))
