"""Whether a text can be a payload; only what spoils a request is judged here, the rest is the relay's to
refuse.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from pulsar_relay.json_text import JsonError, check

DEPTH_JUDGED_BY_RELAY = 1000
"""The deepest that any relay can be set to allow."""


def why_not_json(text: bytes) -> str | None:
    """The reason why `text` is not one JSON value in UTF-8, None if it is."""
    try:
        check(text, DEPTH_JUDGED_BY_RELAY)
    except JsonError as error:
        return str(error)
    return None


def hint(argument: str) -> str:
    """What somebody who wrote `argument` for a payload may have meant."""
    text = argument.strip()
    if not text:
        return "an empty string is '\"\"' in JSON"
    if any("\ud800" <= char <= "\udfff" for char in text):
        # How Python shows bytes that are no UTF-8.
        return "convert it to UTF-8 first, for instance with iconv"
    if text[0] in "{[":
        return "put single quotes around it, so that the shell leaves its double quotes alone"
    if text[0] == "'" or not text.isprintable():
        return "JSON strings stand in double quotes, and these in single ones for the shell: '\"text\"'"
    if Path(text).exists():
        return f"to publish the lines of that file: pulsar-relay publish TOPIC - < {shlex.quote(text)}"
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    return f"did you mean a string? {shlex.quote(chr(34) + quoted + chr(34))}"
