"""Whether a request may go on, and what its client is told of it."""

from __future__ import annotations

import math
from collections.abc import Mapping

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

    @property
    def headers(self) -> Mapping[str, str]:
        """For the answer, also for one that is allowed. Times are whole seconds, rounded up."""
        told = {
            "X-RateLimit-Limit": f"{self.limit}",
            "X-RateLimit-Remaining": f"{self.remaining}",
            "X-RateLimit-Reset": f"{math.ceil(self.reset_seconds)}",
        }
        if not self.is_allowed:
            told["Retry-After"] = str(max(1, math.ceil(self.retry_after_seconds)))
        return told
