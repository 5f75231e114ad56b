"""Lag: how far a named client is behind in a topic, and what it has lost or is about to lose."""

from __future__ import annotations

from actors.ports import Place
from actors.proof import judge
from actors.stream import MessageId
from actors.value import value


@value
class Lag:
    """`messages`: appended after the cursor, exactly, as the numbers in ids say; those whose time to live has
    passed, and those no longer kept, are counted too. Without a cursor it is what is kept. None if the ids do
    not count: the topic's history is another one, or another server wrote it.

    `seconds`: the age of the oldest message kept after the cursor; 0 if the client has come to the end, None
    if nothing is left of what it lacks. `lost`: how many after the cursor are not kept any more; None if
    unknown. `messages_to_loss`, `seconds_to_loss`: what retention leaves before it may take the oldest of
    those after the cursor: so many more messages, so much more time. None where it takes none.
    """

    messages: int | None
    seconds: float | None
    lost: int | None
    messages_to_loss: int | None
    seconds_to_loss: float | None


def lag(place: Place, now_ms: int) -> Lag:
    """The lag at `now_ms`."""
    page, limits = place.page, place.limits
    newest, first = page.position.newest, page.first_id
    start = place.cursor
    if start is None:
        start = newest if page.oldest_prev is None else page.oldest_prev
    if start == newest:
        return Lag(0, 0.0, 0, None, None)
    messages = _between(start, newest)
    lost = _lost(place)
    if first is None:
        return Lag(messages, None, lost, None, None)
    age_ms = max(0, now_ms - first.milliseconds)
    kept = _between(MessageId(first - 1), newest)
    # The newest message of a topic survives any age.
    left_ms = None if first == newest else _left(limits.retention_ms, age_ms)
    return Lag(
        messages,
        age_ms / 1000,
        lost,
        None if kept is None else _left(limits.max_messages, kept),
        None if left_ms is None else left_ms / 1000,
    )


def _left(limit: int | None, used: int) -> int | None:
    return None if limit is None else max(0, limit - used)


def _between(cursor: MessageId, newest: MessageId) -> int | None:
    count = newest.number - cursor.number
    return count if count > 0 else None


def _lost(place: Place) -> int | None:
    if place.cursor is None:
        return 0
    notice = judge(place.topic, place.cursor, None, place.page)
    if notice is None:
        return 0
    return notice.lost
