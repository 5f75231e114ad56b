"""A relay with small limits, and requests for it: what tests of the server share."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.valkeys import RealValkey
from tests.workers import RunningWorker, make_settings

LIMIT = 4096
PATH = "/api/v1/messages"
UNUSUAL = {"TE": "trailers"}
"""A header with which Tornado gets a request that a connection of the relay's own could answer."""

by_either = pytest.mark.parametrize("headers", [{}, UNUSUAL], ids=["plain", "unusual"])
"""Requests that the relay's own connections answer, and those that Tornado does."""


@pytest.fixture(scope="module")
def small(relay_valkey: RealValkey) -> Iterator[RunningWorker]:
    """A relay that takes bodies and headers of up to `LIMIT` bytes."""
    limits = {"max_body_bytes": LIMIT, "max_header_bytes": LIMIT}
    running = RunningWorker(relay_valkey.socket_path, make_settings(server=limits))
    yield running
    running.stop()


def body_of(topic: str, size: int) -> bytes:
    """A publish of exactly `size` bytes."""
    empty = len(json.dumps({"topic": topic, "payload": ""}))
    return json.dumps({"topic": topic, "payload": "x" * (size - empty)}).encode()
