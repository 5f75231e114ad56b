"""A worker's allowance: tokens of a bucket taken some at a time, so that a request need not ask Valkey.

A slice is what the bucket gains in 20 ms, and no fewer than one. Where it is one token, as for logins, each
request asks. Where it is more, a worker counts in memory and gets its next slice while it still has some of
the last; who comes before the first slice is there is allowed on credit, up to one slice, which the worker
pays with its next. So all workers together allow what the bucket allows and at most one slice each beyond.

What was not used within a second is given up, rather than kept for later: that may cost a user 2 % of the
rate for each worker, as long as the user does not ask for what would be missed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from actors.ports import StoreError
from pulsar_relay.kinds import Rate
from pulsar_relay.limits.buckets import Buckets, Taken
from pulsar_relay.limits.verdict import Verdict

SLICE_OF_A_SECOND = 0.02
KEPT_SECONDS = 1.0


def slice_of(rate: Rate) -> int:
    return max(1, int(rate.per_second * SLICE_OF_A_SECOND))


class Allowance:
    """Of one user or address: one worker's tokens, and what it knows of the bucket they are from."""

    __slots__ = ("asking", "full_at", "left", "refused_until", "taken_at", "tokens")

    def __init__(self, rate: Rate, now: float) -> None:
        # Below 0: what was lent.
        self.tokens = 0
        self.taken_at = now
        self.left = rate.count
        self.full_at = now
        self.refused_until = 0.0
        self.asking: asyncio.Task[None] | None = None

    def give_up_old(self, now: float) -> None:
        if self.tokens > 0 and now - self.taken_at > KEPT_SECONDS:
            self.tokens = 0

    def note(self, taken: Taken, now: float) -> None:
        self.left = taken.left
        self.full_at = now + taken.full_seconds


class Allowances:
    """Those of one class of requests. `fails_open`: what cannot be counted is allowed; else the StoreError is
    raised. Call `aclose` at the end.
    """

    def __init__(
        self,
        buckets: Buckets,
        name: str,
        rate: Rate,
        *,
        fails_open: bool,
        now: Callable[[], float],
    ) -> None:
        self._buckets = buckets
        self._name = name
        self.rate = rate
        self._fails_open = fails_open
        self._now = now
        self._slice = slice_of(rate)
        # Two generations: whoever was not heard of in the one before is forgotten, without a look at each.
        self._recent: dict[str, Allowance] = {}
        self._earlier: dict[str, Allowance] = {}
        self._rotate_at = 0.0

    def __len__(self) -> int:
        """How many are remembered."""
        return len(self._recent.keys() | self._earlier.keys())

    async def take(self, who: str, cost: int = 1) -> Verdict:
        """`cost` tokens for a request of theirs; the whole bucket for one that costs more than it holds.
        Raises StoreError unless the class fails open. A caller that is cancelled has taken them or not.
        """
        cost = min(cost, self.rate.count)
        if self._slice == 1 or cost > self._slice:
            return await self._take_from_bucket(who, self._of(who, self._now()), cost)
        while (verdict := self.take_now(who, cost)) is None:
            # All that may be lent is: wait for what is under way, as all others who come now do.
            refilling = self._refilling(who, self._of(who, self._now()))
            await asyncio.wait((refilling,))
            if not refilling.cancelled():
                refilling.result()
        return verdict

    def take_now(self, who: str, cost: int = 1) -> Verdict | None:
        """The same at once, from what this worker has at hand; None where that is for `take` to wait for."""
        size = self._slice
        if size == 1 or cost > size:
            return None
        now = self._now()
        one = self._recent.get(who)
        if one is None or now >= self._rotate_at:
            one = self._of(who, now)
        if one.refused_until > now:
            return self._refused(one, now, one.refused_until - now)
        left = one.tokens
        if left > 0 and now - one.taken_at > KEPT_SECONDS:
            left = 0
        left -= cost
        if left < -size:
            return None
        one.tokens = left
        if left <= size // 2:
            self._refilling(who, one)
        # As `_allowed`, without its call: each request comes by here.
        most, remaining, reset_seconds = self.rate.count, one.left + left, one.full_at - now
        if remaining > most:
            remaining = most
        elif remaining < 0:
            remaining = 0
        return Verdict(True, most, remaining, reset_seconds if reset_seconds > 0 else 0.0)

    async def aclose(self) -> None:
        asking = [one.asking for one in (*self._recent.values(), *self._earlier.values()) if one.asking]
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    async def _take_from_bucket(self, who: str, one: Allowance, cost: int) -> Verdict:
        now = self._now()
        if cost == 1 and one.refused_until > now:
            return self._refused(one, now, one.refused_until - now)
        try:
            taken = await self._buckets.take(self._bucket(who), self.rate, cost, cost)
        except StoreError:
            if not self._fails_open:
                raise
            return self._allowed(one, self._now())
        now = self._now()
        one.note(taken, now)
        if taken.count:
            return self._allowed(one, now)
        if cost == 1:
            one.refused_until = now + taken.wait_seconds
        return self._refused(one, now, taken.wait_seconds)

    def _refilling(self, who: str, one: Allowance) -> asyncio.Task[None]:
        if one.asking is None:
            one.asking = asyncio.ensure_future(self._refill(who, one))
        return one.asking

    async def _refill(self, who: str, one: Allowance) -> None:
        wanted = self._slice - one.tokens
        try:
            taken = await self._buckets.take(self._bucket(who), self.rate, wanted, 1)
        except StoreError:
            # Publishes and reads fail by themselves where Valkey is away; what does not need it goes on.
            one.tokens = self._slice
        else:
            now = self._now()
            one.give_up_old(now)
            one.tokens += taken.count
            one.note(taken, now)
            if taken.count < wanted and one.tokens <= 0:
                # What was lent is paid first: until that much has come in, nothing is there for anybody.
                owed_seconds = -one.tokens / self.rate.per_second
                one.refused_until = now + max(taken.wait_seconds, owed_seconds)
        finally:
            one.taken_at = self._now()
            one.asking = None

    def _allowed(self, one: Allowance, now: float) -> Verdict:
        remaining = max(0, min(one.left + one.tokens, self.rate.count))
        return Verdict(True, self.rate.count, remaining, max(0.0, one.full_at - now))

    def _refused(self, one: Allowance, now: float, wait_seconds: float) -> Verdict:
        reset_seconds = max(wait_seconds, one.full_at - now)
        return Verdict(False, self.rate.count, 0, reset_seconds, wait_seconds)

    def _bucket(self, who: str) -> str:
        return f"{self._name}:{who}"

    def _of(self, who: str, now: float) -> Allowance:
        if now >= self._rotate_at:
            self._earlier, self._recent = self._recent, {}
            self._rotate_at = now + max(KEPT_SECONDS, min(self.rate.seconds, 60.0))
        one = self._recent.get(who)
        if one is None:
            one = self._earlier.pop(who, None) or Allowance(self.rate, now)
            self._recent[who] = one
        return one
