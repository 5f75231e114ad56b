"""The judge of what happened: from the logs of producers and consumers and the final read of the store, every
way in which a promise was broken. Pure; it knows no socket and no file.

| anomaly             | is                                                                                   |
| ------------------- | ------------------------------------------------------------------------------------ |
| `lost-acked`        | an acknowledged message is not stored; `where` it was: `prefix`, `middle` or `tail`  |
| `stored-after-fail` | stored, though every attempt was refused                                             |
| `unexpected`        | stored, though nobody sent it, or not with this content                              |
| `store-duplicate`   | one message stored twice                                                             |
| `ack-id-changed`    | one message acknowledged under two ids, or stored under another one                  |
| `realtime-order`    | sent after another producer's was acknowledged, and before it in the stream          |
| `producer-reorder`  | a producer's later message is before its earlier one                                 |
| `gap`               | in one session, a message was skipped                                                |
| `backwards`         | a message came after one that follows it                                             |
| `duplicate`         | a message came twice in a session, or again though the cursor was past it            |
| `never-delivered`   | between two sessions, a message got lost                                             |
| `not-caught-up`     | the last messages did not come                                                       |
| `phantom`           | delivered, but not stored, and no `reset` came after it                              |
| `id-reused`         | delivered, but another message is stored under that id, and no `reset` came after it |
| `late-answer`       | a publisher had to wait longer than ANSWER_SECONDS                                   |
| `rude-answer`       | a 4xx to a sound message; a 500; a 5xx without `Retry-After` or without a code       |

What a `gap` or `reset` notice announced is none of these.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from tests.faults.anomaly import Anomaly
from tests.faults.records import (
    BEGINNING,
    Answered,
    Attached,
    ConsumerRecord,
    Content,
    Detached,
    Noticed,
    Place,
    Received,
    Record,
    Sent,
    Stored,
    place,
)
from tests.faults.view import View

ANSWER_SECONDS = 10.0
"""A publisher is answered within this time, whatever the store does."""

Message = tuple[str, Content]
"""A message by its topic and content, whatever ids it has."""


@dataclass(slots=True)
class History:
    """All records of a run; those of one consumer in the order of their writing."""

    sent: list[Sent] = field(default_factory=list)
    answered: list[Answered] = field(default_factory=list)
    consumers: dict[str, list[ConsumerRecord]] = field(default_factory=lambda: defaultdict(list))
    stored: dict[str, list[Stored]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def of(cls, records: Iterable[Record]) -> History:
        history = cls()
        for record in records:
            match record:
                case Sent():
                    history.sent.append(record)
                case Answered():
                    history.answered.append(record)
                case Stored():
                    history.stored[record.topic].append(record)
                case Attached() | Received() | Noticed() | Detached():
                    history.consumers[record.consumer].append(record)
        return history


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was wrong, and how lively it was. Durations are seconds; times are those of the records."""

    anomalies: Sequence[Anomaly]
    notices: Sequence[Noticed]
    acknowledged: int
    oks: Sequence[float]
    """When each message was first acknowledged, ascending."""
    longest_without_ok: float
    largest_lag: float
    """The longest time from a message's acknowledgement to when a consumer had it."""
    most_attempts: int
    """How often the unluckiest message was sent until it was acknowledged."""

    @property
    def kinds(self) -> set[str]:
        return {anomaly.kind for anomaly in self.anomalies}

    def until_ok(self, since: float) -> float:
        """How long after `since` the next message was acknowledged; infinite if none was."""
        index = bisect_left(self.oks, since)
        return self.oks[index] - since if index < len(self.oks) else float("inf")


def judge(
    history: History,
    *,
    cuts: Sequence[float] = (),
    wipes: Sequence[float] = (),
    trimmed: Mapping[str, str] | None = None,
) -> Verdict:
    """Judge a run that has ended: faults healed, consumers drained, store read.

    `cuts` are the times at which the store lost its power: what was lost is a tail if nothing of its topic
    behind it, acknowledged before the cut, is left. `wipes` are the times at which somebody had finished
    deleting all topics: what was sent before may be gone from the store, and consumers be told so. `trimmed`
    is up to where retention took a topic's messages.
    """
    run = _Run(history, wipes, trimmed or {})
    anomalies = [*run.store(), *run.losses(cuts), *run.acknowledgements(), *run.orders(), *run.answers()]
    notices = []
    for name, records in sorted(history.consumers.items()):
        for topic in run.topics:
            anomalies += run.consumer(name, topic, records)
        notices += [record for record in records if isinstance(record, Noticed)]
    oks = sorted(run.first_ok.values())
    attempts: dict[Message, int] = defaultdict(int)
    for sent in history.sent:
        attempts[sent.topic, sent.content] += 1
    return Verdict(
        anomalies,
        notices,
        len(oks),
        oks,
        max((later - earlier for earlier, later in pairwise(oks)), default=0.0),
        run.largest_lag(),
        max(attempts.values(), default=0),
    )


class _Run:
    """A history with its indexes."""

    def __init__(self, history: History, wipes: Sequence[float], trimmed: Mapping[str, str]) -> None:
        self._history = history
        self._wipes = wipes
        self._wiped = max(wipes, default=float("-inf"))
        self._trimmed = {topic: place(message_id) for topic, message_id in trimmed.items()}
        self._stored = {
            topic: {place(entry.message_id): entry.content for entry in entries}
            for topic, entries in history.stored.items()
        }
        self._first_sent: dict[Message, float] = {}
        for sent in history.sent:
            self._first_sent.setdefault((sent.topic, sent.content), sent.at)
        self._acks = [answer for answer in history.answered if answer.outcome == "ok"]
        self.first_ok: dict[Message, float] = {}
        for ack in self._acks:
            self.first_ok.setdefault((ack.topic, ack.content), ack.at)
        self.topics = sorted({*self._stored, *(sent.topic for sent in history.sent)})
        self._order = {topic: self._known_order(topic) for topic in self.topics}

    def _known_order(self, topic: str) -> list[Place]:
        """All ids that are known to have been in the stream: stored, or acknowledged and then wiped away."""
        known = set(self._stored.get(topic, ()))
        known |= {
            place(ack.message_id)
            for ack in self._acks
            if ack.topic == topic and self._is_wiped((topic, ack.content))
        }
        return sorted(known)

    def _is_wiped(self, message: Message) -> bool:
        return self._first_sent.get(message, float("inf")) <= self._wiped

    def _is_forgotten(self, message: Message) -> bool:
        """Whether its idempotency key was deleted between two attempts. What the first one appended while
        the deleting went on may be left, and the last one is a new message to the store.
        """
        until = self.first_ok.get(message, float("inf"))
        return any(self._first_sent[message] <= wipe <= until for wipe in self._wipes)

    def _may_be_gone(self, message: Message, at: Place) -> bool:
        return self._is_wiped(message) or at <= self._trimmed.get(message[0], BEGINNING)

    # The store

    def store(self) -> Iterator[Anomaly]:
        outcomes = defaultdict(set)
        for answer in self._history.answered:
            outcomes[answer.topic, answer.content].add(answer.outcome)
        attempts: dict[Message, int] = defaultdict(int)
        ends: dict[Message, int] = defaultdict(int)
        for sent in self._history.sent:
            attempts[sent.topic, sent.content] += 1
        for answer in self._history.answered:
            ends[answer.topic, answer.content] += 1
        for topic, entries in self._history.stored.items():
            first_id: dict[Content, str] = {}
            for entry in entries:
                message = (topic, entry.content)
                if message not in attempts:
                    yield Anomaly("unexpected", topic, f"{entry.message_id} {entry.content}")
                elif entry.content in first_id and not self._is_forgotten(message):
                    text = f"{entry.content} is {first_id[entry.content]} and {entry.message_id}"
                    yield Anomaly("store-duplicate", topic, text)
                elif outcomes[message] == {"fail"} and ends[message] == attempts[message]:
                    yield Anomaly("stored-after-fail", topic, f"{entry.message_id} {entry.content}")
                first_id.setdefault(entry.content, entry.message_id)

    def losses(self, cuts: Sequence[float]) -> Iterator[Anomaly]:
        kept = {(topic, content) for topic, stored in self._stored.items() for content in stored.values()}
        survivors = sorted(
            (ack.topic, place(ack.message_id), ack.at)
            for ack in self._acks
            if (ack.topic, ack.content) in kept
        )
        told = set()
        for ack in self._acks:
            message, at = (ack.topic, ack.content), place(ack.message_id)
            if message in kept or message in told or self._may_be_gone(message, at):
                continue
            told.add(message)
            cut = min((cut for cut in cuts if cut >= ack.at), default=float("inf"))
            others = [other for topic, other, when in survivors if topic == ack.topic and when <= cut]
            where = "tail" if not others or others[-1] < at else "prefix" if at < others[0] else "middle"
            yield Anomaly("lost-acked", ack.topic, f"{ack.message_id} {ack.content}", where=where, at=ack.at)

    def acknowledgements(self) -> Iterator[Anomaly]:
        ids_of: dict[Message, set[Place]] = defaultdict(set)
        for topic, entries in self._stored.items():
            for at, content in entries.items():
                ids_of[topic, content].add(at)
        acknowledged: dict[Message, str] = {}
        for ack in self._acks:
            message, at = (ack.topic, ack.content), place(ack.message_id)
            earlier = acknowledged.setdefault(message, ack.message_id)
            if earlier != ack.message_id:
                yield Anomaly(
                    "ack-id-changed",
                    ack.topic,
                    f"{ack.content} was {earlier}, then {ack.message_id}",
                    at=ack.at,
                )
            elif ids_of[message] and at not in ids_of[message] and not self._may_be_gone(message, at):
                text = f"{ack.content} is not {ack.message_id} but {sorted(ids_of[message])}"
                yield Anomaly("ack-id-changed", ack.topic, text, at=ack.at)

    def orders(self) -> Iterator[Anomaly]:
        for topic, entries in self._history.stored.items():
            numbers: dict[str, int] = {}
            seen = set()
            for entry in entries:
                content = entry.content
                if content in seen:
                    continue
                seen.add(content)
                before = numbers.get(content.producer, -1)
                if content.number < before:
                    text = f"{entry.message_id} {content} behind {before}"
                    yield Anomaly("producer-reorder", topic, text, content.producer)
                numbers[content.producer] = max(before, content.number)
        yield from self._realtime_order()

    def _realtime_order(self) -> Iterator[Anomaly]:
        first_ack: dict[Message, Answered] = {}
        for ack in self._acks:
            first_ack.setdefault((ack.topic, ack.content), ack)
        acks = sorted(first_ack.values(), key=lambda ack: ack.at)
        newest: dict[str, dict[str, Answered]] = defaultdict(dict)
        index = 0
        for message, sent_at in sorted(self._first_sent.items(), key=lambda pair: pair[1]):
            while index < len(acks) and acks[index].at < sent_at:
                ack = acks[index]
                index += 1
                of_producer = newest[ack.topic]
                earlier = of_producer.get(ack.content.producer)
                if earlier is None or place(earlier.message_id) < place(ack.message_id):
                    of_producer[ack.content.producer] = ack
            topic, content = message
            ours = first_ack.get(message)
            if ours is None:
                continue
            for producer, other in newest[topic].items():
                # One producer's order is `producer-reorder`.
                if producer != content.producer and place(ours.message_id) <= place(other.message_id):
                    text = f"{ours.message_id} {content} was sent after {other.message_id} was acknowledged"
                    yield Anomaly("realtime-order", topic, text, content.producer, at=ours.at)

    def answers(self) -> Iterator[Anomaly]:
        for answer in self._history.answered:
            topic, who = answer.topic, answer.content.producer
            if answer.seconds > ANSWER_SECONDS:
                text = f"{answer.seconds:.1f} s until {answer.status or answer.code}"
                yield Anomaly("late-answer", topic, text, who, at=answer.at)
            status = answer.status or 0
            is_polite = status < 400 or (status > 500 and answer.code and answer.retry_after)
            if not is_polite:
                text = f"{status} {answer.code}, Retry-After {answer.retry_after}"
                yield Anomaly("rude-answer", topic, text, who, at=answer.at)

    # A consumer

    def consumer(self, name: str, topic: str, records: Sequence[ConsumerRecord]) -> Iterator[Anomaly]:
        view = View(name, topic, self._order[topic])
        for record in records:
            match record:
                case Attached():
                    view.attach(None if record.cursors is None else record.cursors.get(topic))
                case Noticed() if record.topic == topic:
                    view.notice(record)
                case Received() if record.topic == topic:
                    view.receive(record)
        yield from view.end()
        last_reset = max((reset.at for reset in view.resets), default=float("-inf"))
        stored = self._stored.get(topic, {})
        for record in view.received:
            at = place(record.message_id)
            message = (topic, record.content)
            if record.at < last_reset or stored.get(at) == record.content or self._may_be_gone(message, at):
                continue
            kind = "id-reused" if at in stored else "phantom"
            text = f"{record.message_id} {record.content}"
            yield Anomaly(kind, topic, text, name, at=record.at)

    def largest_lag(self) -> float:
        lags = [0.0]
        for records in self._history.consumers.values():
            seen = set()
            for record in records:
                if not isinstance(record, Received):
                    continue
                message = (record.topic, record.content)
                if message not in seen:
                    seen.add(message)
                    lags.append(record.at - self.first_ok.get(message, record.at))
        return max(lags)
