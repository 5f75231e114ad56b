"""Whether a cursor is proved to belong to a stream.

Ids alone prove nothing: a store that lost its tail can hand the same milliseconds out again. So every entry names the id before
it, and a cursor is proved when the first entry after it names it as its predecessor.
"""

from __future__ import annotations

from actors.protocol import Notice, StreamPage
from actors.stream import MessageId


def judge(topic: str, cursor: MessageId, page: StreamPage) -> Notice | None:
    """What a subscriber that resumes from `cursor` must be told before the first message of `page`; None if nothing is missing.

    The number in an id counts the topic's messages, so the loss is the distance between two numbers, however long ago the entries
    between them were trimmed.
    """
    newest = page.position.newest
    if page.first_id is None or page.first_prev is None:
        if cursor == newest:
            return None
        if cursor > newest:
            return Notice("reset", topic, "ahead_of_stream")
        return Notice("gap", topic, "trimmed", _distance(cursor, newest))
    if page.first_prev == cursor:
        return None
    available = str(page.first_id)
    lost = _distance(cursor, page.first_id, between=True)
    if page.knows_cursor:
        return Notice("gap", topic, "deleted", lost, available)
    if page.oldest_prev is not None and cursor < page.oldest_prev:
        return Notice("gap", topic, "trimmed", lost, available)
    return Notice("reset", topic, "unknown_cursor", None, available)


def _distance(cursor: MessageId, other: MessageId, *, between: bool = False) -> int | None:
    # An id that did not come from this stream's counting (written by another server, or by hand) has a number that means nothing.
    lost = other.number - cursor.number - (1 if between else 0)
    return lost if lost > 0 else None
