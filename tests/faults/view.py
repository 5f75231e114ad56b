"""What one consumer saw of one topic, held against the stream's order."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from tests.faults.anomaly import Anomaly
from tests.faults.records import BEGINNING, Noticed, Place, Received, place


class View:
    """One consumer's view of one topic, record by record, against the stream's order.

    `_position` is the last message it has; None where a `reset` named no first message, until the next one.
    A message that is not stored in the end can have an id above those of messages that are: what it was
    brought ahead of is announced with the `reset` that takes it back.
    """

    def __init__(self, name: str, topic: str, order: Sequence[Place]) -> None:
        self._name, self._topic, self._order = name, topic, order
        self._stored = frozenset(order)
        self.received: list[Received] = []
        self.resets: list[Noticed] = []
        self._seen: set[Place] = set()
        self._start: Place | None = None
        self._position: Place | None = None
        self._is_anywhere = False
        self._skipped: dict[Place, float] = {}
        self._taken_back_with: dict[Place, float] = {}
        self._gaps: dict[Place, float] = {}
        self._excused: set[Place] = set()
        self._anomalies: list[Anomaly] = []

    def attach(self, cursor: str | None) -> None:
        # What this session skipped and did not bring later is a gap, even if the next one brings it.
        self._gaps.update(self._skipped)
        self._skipped = {}
        if cursor is None:
            return
        if self._is_anywhere and self._position is not None and place(cursor) < self._position:
            # The relay said to begin again, and not where: the first message that comes says it.
            return
        if self._is_anywhere:
            self._excuse(place(cursor))
        self._position = place(cursor)
        self._is_anywhere = False
        if self._start is None:
            self._start = self._position

    def notice(self, notice: Noticed) -> None:
        if notice.kind == "reset":
            self.resets.append(notice)
            self._excused.update(self._taken_back_with)
            self._taken_back_with = {}
        if notice.first_available is None:
            self._is_anywhere = True
            return
        milliseconds, number = place(notice.first_available)
        before_first = (milliseconds, number - 1)
        self._excuse(before_first)
        self._position = before_first

    def receive(self, record: Received) -> None:
        self.received.append(record)
        at = place(record.message_id)
        if self._start is None:
            self._start = self._position = (at[0], at[1] - 1)
        if self._is_anywhere:
            self._excuse((at[0], at[1] - 1))
            self._is_anywhere, self._position = False, None
        position = self._position
        if position is not None and at <= position:
            if at in self._seen:
                self._note("duplicate", record)
            else:
                self._note("backwards", record)
                self._skipped.pop(at, None)
        else:
            skipped = self._skipped if at in self._stored else self._taken_back_with
            if position is not None:
                for missing in self._between(position, (at[0], at[1] - 1)):
                    skipped.setdefault(missing, record.at)
            self._position = at
        self._seen.add(at)

    def end(self) -> Iterator[Anomaly]:
        yield from self._anomalies
        self._gaps.update(self._skipped | self._taken_back_with)
        if self._gaps:
            yield self._missing("gap", sorted(self._gaps), min(self._gaps.values()))
        start = self._start or BEGINNING
        accounted = self._seen | self._excused | self._gaps.keys()
        missing = [at for at in self._order if at > start and at not in accounted]
        newest = max(self._seen, default=BEGINNING)
        between, behind = [at for at in missing if at < newest], [at for at in missing if at > newest]
        if between:
            yield self._missing("never-delivered", between)
        if behind:
            yield self._missing("not-caught-up", behind)

    def _missing(self, kind: str, places: Sequence[Place], at: float = 0.0) -> Anomaly:
        text = f"{len(places)} missing, from {_id(places[0])} to {_id(places[-1])}"
        return Anomaly(kind, self._topic, text, self._name, at=at)

    def _between(self, after: Place, up_to: Place) -> Sequence[Place]:
        return self._order[bisect_right(self._order, after) : bisect_right(self._order, up_to)]

    def _excuse(self, up_to: Place) -> None:
        # From the beginning of the view on: what was announced as gone is not asked for any more.
        self._excused.update(self._between(self._position or self._start or BEGINNING, up_to))

    def _note(self, kind: str, record: Received) -> None:
        text = f"{record.message_id} {record.content} at {_id(self._position or BEGINNING)}"
        self._anomalies.append(Anomaly(kind, self._topic, text, self._name, at=record.at))


def _id(at: Place) -> str:
    return f"{at[0]}-{at[1]}"
