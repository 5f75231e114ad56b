"""Whether a request may go on, and what its client is told of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import msgspec


class Verdict(msgspec.Struct, frozen=True):
    """`limit` is what may be asked for at once, `remaining` what of it is left, as far as this worker knows;
    `reset_seconds` the time until all of it is there again; `retry_after_seconds` the time until the same
    request is allowed, 0 where it is.
    """

    is_allowed: bool
    limit: int
    remaining: int
    reset_seconds: float
    retry_after_seconds: float = 0.0

    def lines(self) -> bytes:
        """`headers` of a request that is counted and allowed, as they stand in an answer."""
        return b"X-RateLimit-Limit: %d\r\nX-RateLimit-Remaining: %d\r\nX-RateLimit-Reset: %d\r\n" % (
            self.limit,
            self.remaining,
            math.ceil(self.reset_seconds),
        )

    @property
    def headers(self) -> Mapping[str, str]:
        """For the answer, also for one that is allowed. Times are whole seconds, rounded up."""
        if self is UNLIMITED:
            return {}
        told = {
            "X-RateLimit-Limit": f"{self.limit}",
            "X-RateLimit-Remaining": f"{self.remaining}",
            "X-RateLimit-Reset": f"{math.ceil(self.reset_seconds)}",
        }
        if not self.is_allowed:
            told["Retry-After"] = str(max(1, math.ceil(self.retry_after_seconds)))
        return told


UNLIMITED: Final = Verdict(True, 0, 0, 0.0)
"""Of a request that nothing counts: its client is told nothing."""
