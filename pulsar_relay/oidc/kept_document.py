"""KeptDocument: what a provider publishes, fetched when it is needed and kept for as long as it says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from pulsar_relay.oidc.provider_calls import Fetched

LEAST_SECONDS, MOST_SECONDS = 60.0, 24 * 3600.0
USUAL_SECONDS = 600.0


class KeptDocument:
    """`clock` is monotonic, in seconds. All who need it at the same time wait for one fetch."""

    def __init__(self, fetch: Callable[[], Awaitable[Fetched]], clock: Callable[[], float]) -> None:
        self._fetch = fetch
        self._clock = clock
        self._turn = asyncio.Lock()
        self._document: Mapping[str, Any] | None = None
        self._fetched_at = self._good_until = float("-inf")

    async def read(self, *, anew: bool = False) -> Mapping[str, Any]:
        """With `anew`, one that was fetched after this call began. Raises what `fetch` raises."""
        called_at = self._clock()
        async with self._turn:
            is_good = self._fetched_at >= called_at if anew else self._clock() < self._good_until
            if self._document is None or not is_good:
                asked_at = self._clock()
                fetched = await self._fetch()
                self._document, self._fetched_at = fetched.document, asked_at
                self._good_until = asked_at + _lifetime(fetched.max_age_seconds)
            return self._document


def _lifetime(max_age_seconds: float | None) -> float:
    if max_age_seconds is None:
        return USUAL_SECONDS
    return min(max(max_age_seconds, LEAST_SECONDS), MOST_SECONDS)
