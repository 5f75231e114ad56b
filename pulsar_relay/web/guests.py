"""Guests: what users have open, each for as long as they may.

     a change in the roster ──▶ everybody is looked at, at most ten times a second
     the clock              ──▶ who expires next: a warning first, then the end

One timer and one listener for all of a worker's connections. What a guest is there for is asked of it, and
whether it may stay of the roster: a store that is away shuts nobody out, but time does.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Protocol

from pulsar_relay.accounts import access
from pulsar_relay.accounts.accounts import Accounts
from pulsar_relay.accounts.principal import Principal
from pulsar_relay.accounts.user import READ

WARNING_SECONDS = 30.0
"""So long before its end who can get another token is told."""
LOOK_SECONDS = 0.1
"""Time between two looks at everybody."""
TURN_SECONDS = 0.5
"""The longest sleep while anybody can expire: the clock on the wall can be set."""


class Guest(Protocol):
    """One connection, or one poll that waits."""

    def topics_read(self) -> Iterable[str]:
        """Inside, those it receives."""

    def warn(self, expires_at: float) -> None:
        """What it was let in with ends then, in Unix seconds. May be said again. Must not raise."""

    def shut_out(self, code: str) -> None:
        """End at once, and tell why: a row of the error table. Must not raise."""


class _Party:
    """All guests of one principal."""

    __slots__ = ("expires", "guests", "is_over", "is_warned", "principal", "sound_at")

    def __init__(self, principal: Principal | None) -> None:
        self.principal = principal
        self.guests: dict[int, Guest] = {}
        self.is_warned = False
        self.is_over = False
        self.expires = principal is not None and principal.expires_at is not None
        self.sound_at = -1
        """The roster's change after which the principal was found to be in good standing."""


class Guests:
    """`now` is the clock on the wall, in Unix seconds. All belong to one loop."""

    def __init__(self, accounts: Accounts, now: Callable[[], float]) -> None:
        self._accounts = accounts
        self._now = now
        self._parties: dict[int, _Party] = {}
        self._due: list[tuple[float, int, _Party]] = []
        self._numbers = itertools.count()
        self._turn: asyncio.TimerHandle | None = None
        self._look: asyncio.TimerHandle | None = None
        self._looked_at = float("-inf")
        self._changes = 0
        self.shut_out: Counter[str] = Counter()
        """How many have been, by why."""
        accounts.roster.listen(self._on_change)

    def __len__(self) -> int:
        return sum(len(party.guests) for party in self._parties.values())

    def enter(self, guest: Guest, principal: Principal | None) -> None:
        """The guest is there as this principal, None for who has not signed in, until it leaves."""
        party = self._parties.get(id(principal))
        if party is None:
            # The party keeps the principal, so that nobody else is given its id.
            party = self._parties[id(principal)] = _Party(principal)
            if principal is not None and principal.expires_at is not None:
                self._push(principal.expires_at - WARNING_SECONDS, party)
        party.guests[id(guest)] = guest
        if party.is_warned and principal is not None and principal.expires_at is not None:
            guest.warn(principal.expires_at)
        # What was taken away between its request and now was told to those who were here.
        if party.sound_at != self._changes:
            if self._standing(principal) is not None:
                self._look_soon()
                return
            party.sound_at = self._changes
        if not self._may_read_all(principal, guest):
            self._look_soon()

    def leave(self, guest: Guest, principal: Principal | None) -> None:
        """May be called again."""
        party = self._parties.get(id(principal))
        if party is None:
            return
        party.guests.pop(id(guest), None)
        # Of a token that expires the party stays till then: its place in the queue is used by the next poll.
        if not party.guests and not party.expires:
            self._end(party)

    def stop(self) -> None:
        """Look at nobody any more."""
        for timer in (self._turn, self._look):
            if timer is not None:
                timer.cancel()
        self._turn = self._look = None

    # What changes

    def _on_change(self) -> None:
        self._changes += 1
        self._look_soon()

    def _look_soon(self) -> None:
        if self._look is None:
            loop = asyncio.get_running_loop()
            wait = max(0.0, self._looked_at + LOOK_SECONDS - loop.time())
            self._look = loop.call_later(wait, self._look_at_all)

    def _look_at_all(self) -> None:
        self._look = None
        self._looked_at = asyncio.get_running_loop().time()
        for party in list(self._parties.values()):
            code = self._standing(party.principal)
            if code is not None:
                self._shut_out(party, code)
            else:
                for guest in list(party.guests.values()):
                    if not self._may_read_all(party.principal, guest):
                        party.guests.pop(id(guest), None)
                        self.shut_out["grant_revoked"] += 1
                        guest.shut_out("grant_revoked")

    def _standing(self, principal: Principal | None) -> str | None:
        if principal is None:
            return None
        code = self._accounts.authenticator.standing(principal)
        if code is None and READ in principal.permissions:
            # A key is good for what its user may, whatever that is by now.
            user = self._accounts.roster.users[principal.user.user_id]
            if READ not in user.permissions:
                return "permission_required"
        return code

    def _may_read_all(self, principal: Principal | None, guest: Guest) -> bool:
        own = f"{principal.user.user_id}/" if principal is not None else "/"
        for topic in guest.topics_read():
            if not topic.startswith(own):
                owner_id, _, name = topic.partition("/")
                grant = self._accounts.grants.known(owner_id, name)
                if not access.may(principal, READ, owner_id, name, grant):
                    return False
        return True

    # Time

    def _push(self, when: float, party: _Party) -> None:
        heapq.heappush(self._due, (when, next(self._numbers), party))
        self._turn_soon()

    def _turn_soon(self) -> None:
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        if self._due:
            wait = min(max(0.0, self._due[0][0] - self._now()), TURN_SECONDS)
            self._turn = asyncio.get_running_loop().call_later(wait, self._on_time)

    def _on_time(self) -> None:
        self._turn = None
        now = self._now()
        while self._due and self._due[0][0] <= now:
            party = heapq.heappop(self._due)[2]
            if not party.is_over:
                self._come_due(party, now)
        self._turn_soon()

    def _come_due(self, party: _Party, now: float) -> None:
        assert party.principal is not None
        expires_at = party.principal.expires_at
        assert expires_at is not None
        if expires_at <= now:
            self._shut_out(party, "token_expired")
            return
        party.is_warned = True
        heapq.heappush(self._due, (expires_at, next(self._numbers), party))
        for guest in list(party.guests.values()):
            guest.warn(expires_at)

    # The end

    def _shut_out(self, party: _Party, code: str) -> None:
        self._end(party)
        guests, party.guests = party.guests, {}
        self.shut_out[code] += len(guests)
        for guest in guests.values():
            guest.shut_out(code)

    def _end(self, party: _Party) -> None:
        party.is_over = True
        if self._parties.get(id(party.principal)) is party:
            del self._parties[id(party.principal)]
