"""How endpoints about accounts put their answers together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actors.stream import timestamp_text
from pulsar_relay import wire
from pulsar_relay.web.endpoint import Answer


def json_answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(status, wire.json_text(value), headers or {})


def nothing(headers: Mapping[str, str] | None = None) -> Answer:
    """It is done, and there is no more to say."""
    return Answer(204, b"", headers or {})


def time_text(milliseconds: int | None) -> str | None:
    return None if milliseconds is None else timestamp_text(milliseconds)
