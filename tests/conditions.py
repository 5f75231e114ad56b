"""Waiting for a condition, never for a duration."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

from tests.valkeys import TIMEOUT_SCALE

T = TypeVar("T")

WAIT_SECONDS = 20 * TIMEOUT_SCALE


def until(condition: Callable[[], T], what: str) -> T:
    """Return what `condition` returns as soon as that is true; fail when it is not in time."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.002)
    return found


async def until_in_loop(condition: Callable[[], object], what: str) -> None:
    """The same, for a condition of things on the running loop."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        await asyncio.sleep(0.001)
