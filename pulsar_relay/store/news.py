"""News: what append.lua announces, as it travels on the feed."""

from __future__ import annotations

from actors.protocol import Fed
from actors.stream import Message, MessageId


def read_news(topic: str, data: bytes) -> Fed:
    """The announcement of append.lua: `<worker> <prev> <last> <epoch>`, then, if it carries the drafts, for
    each `<bytes of payload>` or `<bytes of payload>.<bytes of metadata>.<expiry>`, then a line feed and their
    texts. ValueError or IndexError if it is something else.
    """
    end = data.index(b"\n")
    words = data[:end].decode("ascii").split(" ")
    prev, newest, epoch, shapes = MessageId.parse(words[1]), MessageId.parse(words[2]), words[3], words[4:]
    if not shapes:
        return Fed(topic, prev, newest, epoch, None)
    at = end + 1
    messages, before, this = [], prev, MessageId(newest - len(shapes) + 1)
    for shape in shapes:
        payload_bytes, metadata_bytes, expiry = shape.split(".") if "." in shape else (shape, 0, "")
        middle = at + int(payload_bytes)
        after = middle + int(metadata_bytes)
        metadata = data[middle:after] or None
        expires_at_ms = int(expiry) if expiry else None
        messages.append(Message(topic, this, str(this), before, data[at:middle], metadata, expires_at_ms))
        at, before, this = after, this, MessageId(this + 1)
    if at != len(data):
        raise ValueError("lengths do not add up")
    return Fed(topic, prev, newest, epoch, messages)
