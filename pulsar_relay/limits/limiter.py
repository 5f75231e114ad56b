"""All limits of one worker: rates by class of request, back-off of logins, seats."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from types import MappingProxyType

from pulsar_relay.errors import RelayError
from pulsar_relay.kinds import Rate
from pulsar_relay.limits.allowance import Allowances
from pulsar_relay.limits.buckets import Buckets
from pulsar_relay.limits.client_address import household
from pulsar_relay.limits.login_backoff import BackoffTimes, LoginBackoff
from pulsar_relay.limits.seats import NO_SEAT, Seat, Seats
from pulsar_relay.limits.verdict import UNLIMITED, Verdict
from pulsar_relay.settings import LimitSettings
from pulsar_relay.store.client import Client

FAILS_OPEN: Mapping[str, bool] = MappingProxyType(
    {
        "login": False,
        "refresh": False,
        "device_code": False,
        "device_token": False,
        "device_page": False,
        "publish": True,
        "read": True,
    }
)
"""The classes of requests, each a rate in the settings; whether it goes on while Valkey cannot be asked.

What hands out access does not: else an outage of Valkey would be the time to guess passwords. It needs Valkey
anyway. Publishes and reads fail by themselves where they need Valkey, with a 503 that says so.
"""


"""What is told of a rate that is not counted."""

LOGIN_BACKOFF, CONNECTIONS, POLLS = "login_backoff", "connections", "polls"
"""What else a request can be refused by: the wait after wrong passwords, and the two kinds of seats."""


def user(user_id: str) -> str:
    """Whose bucket it is, for requests of somebody who has logged in."""
    return f"user:{user_id}"


def address(client_address: str) -> str:
    """Whose bucket it is, for requests of nobody in particular."""
    return f"address:{household(client_address)}"


class Limiter:
    """`refusals` counts what was refused, by class, `login_backoff` and kind of seat."""

    def __init__(
        self,
        client: Client,
        settings: LimitSettings,
        worker: str,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`worker` names this one's life; `now` is a monotonic clock in seconds."""
        self._buckets = Buckets(client)
        self._now = now
        self._allowances: dict[str, Allowances] = {}
        self._retired: list[Allowances] = []
        self._backoff = LoginBackoff(client, _times(settings))
        self.connections = Seats(client, CONNECTIONS, settings.connections_per_user, worker)
        self.polls = Seats(client, POLLS, settings.polls_per_user, worker)
        self.refusals: Counter[str] = Counter()
        self.reload(settings)

    def reload(self, settings: LimitSettings) -> None:
        """Go on with these. Buckets stay as full as they are; who has more open than is allowed keeps it."""
        for name, fails_open in FAILS_OPEN.items():
            rate: Rate | None = getattr(settings, name)
            present = self._allowances.get(name)
            if (None if present is None else present.rate) == rate:
                continue
            if present is not None:
                self._retired.append(self._allowances.pop(name))
            if rate is not None:
                self._allowances[name] = Allowances(
                    self._buckets, name, rate, fails_open=fails_open, now=self._now
                )
        self._backoff.times = _times(settings)
        self.connections.limit = settings.connections_per_user
        self.polls.limit = settings.polls_per_user

    async def admit(self, name: str, who: str, cost: int = 1) -> Verdict | None:
        """What to tell the client in headers; None where there is no such limit. RelayError `rate_limited`
        with these headers; StoreError where the class does not fail open.
        """
        allowances = self._allowances.get(name)
        if allowances is None:
            return None
        verdict = await allowances.take(who, cost)
        if not verdict.is_allowed:
            self.refusals[name] += 1
            raise RelayError("rate_limited", headers=verdict.headers)
        return verdict

    async def charge(self, name: str, who: str | None, cost: int = 1) -> Verdict:
        """`admit`; UNLIMITED for who is not counted, which is None."""
        verdict = None if who is None else await self.admit(name, who, cost)
        return UNLIMITED if verdict is None else verdict

    def charge_now(self, name: str, who: str | None, cost: int = 1) -> Verdict | None:
        """The same at once, without a question to Valkey; None where that is for `charge` to wait for."""
        if who is None:
            return UNLIMITED
        allowances = self._allowances.get(name)
        if allowances is None:
            return UNLIMITED
        verdict = allowances.take_now(who, cost)
        if verdict is not None and not verdict.is_allowed:
            self.refusals[name] += 1
            raise RelayError("rate_limited", headers=verdict.headers)
        return verdict

    async def admit_password(self, username: str, client_address: str) -> None:
        """Before a password is verified. RelayError `login_backoff`, StoreError."""
        wait = await self._backoff.wait_seconds(username, household(client_address))
        if wait > 0:
            self.refusals[LOGIN_BACKOFF] += 1
            headers = Verdict(False, 1, 0, wait, wait).headers
            raise RelayError("login_backoff", headers={"Retry-After": headers["Retry-After"]})

    async def note_password(self, username: str, client_address: str, *, is_right: bool) -> None:
        """How that went. StoreError."""
        if is_right:
            await self._backoff.note_right(username, household(client_address))
        else:
            await self._backoff.note_wrong(username, household(client_address))

    async def take_connection(self, who: str | None) -> Seat:
        """For a WebSocket or event stream. RelayError `too_many_user_connections`."""
        return await self._take(self.connections, CONNECTIONS, who, "too_many_user_connections")

    def take_connection_now(self, who: str | None) -> Seat | None:
        """The same at once; None where that is for `take_connection` to wait for, or to refuse."""
        return NO_SEAT if who is None else self.connections.take_now(who)

    async def take_poll(self, who: str | None) -> Seat:
        """For a poll. RelayError `too_many_polls`."""
        return await self._take(self.polls, POLLS, who, "too_many_polls")

    def take_poll_now(self, who: str | None) -> Seat | None:
        """The same at once; None where that is for `take_poll` to wait for, or to refuse."""
        return NO_SEAT if who is None else self.polls.take_now(who)

    async def _take(self, seats: Seats, name: str, who: str | None, code: str) -> Seat:
        if who is None:
            return NO_SEAT
        seat = await seats.take(who)
        if seat is None:
            self.refusals[name] += 1
            raise RelayError(code)
        return seat

    async def run(self) -> None:
        """What there is to do beside the requests, until cancelled."""
        await asyncio.gather(self.connections.run(), self.polls.run())

    async def aclose(self) -> None:
        allowances = [*self._allowances.values(), *self._retired]
        await asyncio.gather(
            *(one.aclose() for one in allowances), self.connections.aclose(), self.polls.aclose()
        )


def _times(settings: LimitSettings) -> BackoffTimes:
    return BackoffTimes(
        settings.login_backoff_after,
        settings.login_backoff_first_seconds,
        settings.login_backoff_longest_seconds,
    )
