"""Whether a cursor is proved to belong to a stream.

Ids alone prove nothing: a store that lost its tail can hand the same milliseconds out again. So every entry
names the id before it, and a cursor is proved when the first entry after it names it as its predecessor.
"""

from __future__ import annotations

from dataclasses import replace

from actors.ports import Notice, StreamPage
from actors.stream import BEGINNING, Batch, MessageId


def unbroken(page: StreamPage) -> StreamPage:
    """The page up to where a message does not name the one before it. What comes behind the break is another
    page, whose reader is told of it."""
    messages = page.batch.messages
    named = [message.prev for message in messages[1:]]
    before = [message.id for message in messages[:-1]]
    if named == before:
        return page
    length = 1 + next(index for index, prev in enumerate(named) if prev != before[index])
    return replace(
        page, batch=Batch(page.batch.topic, messages[:length], prev=page.batch.prev), has_more=True
    )


def judge(topic: str, cursor: MessageId, epoch: str | None, page: StreamPage) -> Notice | None:
    """What a subscriber that resumes from `cursor` must be told before the first message of `page`, which was
    read after that cursor; None if nothing is missing.

    `epoch` is the history the subscriber says its cursor is from, None if it does not say. The number in an
    id counts the topic's messages, so a loss is the distance between two numbers, however long ago the
    entries between them were trimmed.
    """
    position = page.position
    first_id = page.first_id
    available = None if first_id is None else str(first_id)
    if epoch and position.epoch and epoch != position.epoch:
        return Notice("reset", topic, "epoch_changed", None, available)
    if first_id is None:
        if cursor == position.newest:
            return None
        if cursor > position.newest:
            return Notice("reset", topic, "ahead_of_stream")
        return Notice("gap", topic, "trimmed", number_lost(cursor, position.newest.number))
    if cursor in (page.first_prev, page.batch.prev):
        return None
    lost = number_lost(cursor, first_id.number - 1)
    if page.knows_cursor and page.first_prev == BEGINNING:
        # The store lost what came behind the cursor, and another history begins with this message.
        return Notice("reset", topic, "epoch_changed", lost, available)
    if page.knows_cursor:
        return Notice("gap", topic, "deleted", lost, available)
    if page.oldest_prev is not None and cursor < page.oldest_prev:
        return Notice("gap", topic, "trimmed", lost, available)
    return Notice("reset", topic, "unknown_cursor", None, available)


def number_lost(cursor: MessageId, last_missing_number: int) -> int | None:
    """How many messages a reader at `cursor` misses if the last of them has this number; None if unknown."""
    lost = last_missing_number - cursor.number
    # An id that another server gave has a number that counts nothing.
    return lost if lost > 0 else None
