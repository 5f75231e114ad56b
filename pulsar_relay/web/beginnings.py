"""Where the subscriptions of a poll or stream begin, when it names some cursors and leaves others out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from actors.protocol import Start, Wanted
from actors.stream import MessageId
from pulsar_relay.cursors import place


def beginnings(
    topics: Sequence[str], since: Mapping[str, str] | None, known: Mapping[str, MessageId]
) -> tuple[Wanted, ...]:
    """One `Wanted` for each topic: where `since` says; else where the client is `known` to be; else now.

    But if `since` names other topics, not now but no later than the oldest place among those, so that
    nothing the client could have missed is skipped, and nothing older is dug out.
    """
    said = {topic: place(cursor) for topic, cursor in (since or {}).items()}
    wanted = []
    for topic in topics:
        if topic in said:
            wanted.append(Wanted(topic, said[topic]))
        elif topic in known:
            wanted.append(Wanted(topic, known[topic]))
        elif said:
            wanted.append(_beside(topic, said.values()))
        else:
            wanted.append(Wanted(topic, Start.LATEST))
    return tuple(wanted)


def _beside(topic: str, others: Iterable[MessageId | Start]) -> Wanted:
    cursors = [start for start in others if isinstance(start, MessageId)]
    if not cursors:
        return Wanted(topic, Start.EARLIEST)
    # An id of another topic is only a time here.
    return Wanted(topic, MessageId.of(min(cursors).milliseconds, 0), proves=False)
