"""What is published: messages with a number, so that count and order can be read off the bytes received."""

from __future__ import annotations

import json
import re

FIRST = 1_000_000_000
"""The number of a topic's first message, which tells that a subscriber is there. Numbers have ten digits."""
LAST = 1_999_999_999
"""The number of its last one: whoever has it should have all."""
LAST_MARK = b'"n":%d' % LAST
NUMBER = re.compile(rb'"n":(1\d{9})')
MESSAGE_ID = re.compile(rb'"message_id":"(\d+)-(\d+)"')
DIGITS = 10


class Template:
    """Bytes in which `%d` stands for the message's number; any other percent sign is not allowed.

    With several messages each has one `%d`, in their order; with one it may stand anywhere, several times.
    """

    __slots__ = ("_parts", "_text", "messages")

    def __init__(self, text: bytes, messages: int = 1) -> None:
        self.messages = messages
        self._text = text
        self._parts = text.split(b"%d")

    def fill(self, number: int) -> bytes:
        """With `number`, and those after it if it is for several messages."""
        if self.messages == 1:
            return (b"%d" % number).join(self._parts)
        return self._text % tuple(range(number, number + self.messages))


def payload(size: int) -> bytes:
    """A JSON object of `size` bytes once its number is in it: a job's state, as Galaxy's messages are."""
    start = '{"n":%d,"job_id":"f9cad7b01a472135","status":"running","note":'
    filler = "x" * (size - len(start) - (DIGITS - 2) - 3)
    return f"{start}{json.dumps(filler)}}}".encode()


def filled_length(text: bytes) -> int:
    """Of a template's text, once numbers are in it."""
    return len(text) + text.count(b"%d") * (DIGITS - len(b"%d"))
