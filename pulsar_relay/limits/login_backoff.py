"""The wait after wrong passwords: longer each time, for one user name from one address.

The right user is not locked out by somebody elsewhere who tries passwords under the same name. Who tries from
many addresses meets the rate of logins at each, and the cost of a password's verification.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from pulsar_relay.store.client import Client, Script


@dataclass(frozen=True, slots=True)
class BackoffTimes:
    """`free` wrong passwords cost nothing; the next wait is `first_seconds`, and each one twice the last."""

    free: int
    first_seconds: float
    longest_seconds: float


class LoginBackoff:
    """Ask before a password is verified, and tell how that went. Of attempts that are verified at the same
    time each counts; how many there can be is for the rate of logins to say. Raises StoreError: whom nobody
    counts does not get to try.
    """

    def __init__(self, client: Client, times: BackoffTimes) -> None:
        self.times = times
        self._client = client
        self._script = Script("login_backoff", "pulsar_relay.limits")

    async def wait_seconds(self, username: str, address: str) -> float:
        """How long this user has to wait at this address; 0 if a password may be tried."""
        return await self._run(username, address, "ask")

    async def note_wrong(self, username: str, address: str) -> float:
        """A password was wrong; how long to wait before the next."""
        return await self._run(username, address, "wrong")

    async def note_right(self, username: str, address: str) -> None:
        await self._client.command("DEL", _key(username, address))

    async def _run(self, username: str, address: str, what: str) -> float:
        times = self.times
        args = (what, times.free, round(times.first_seconds * 1000), round(times.longest_seconds * 1000))
        return int(await self._script.run(self._client, [_key(username, address)], args)) / 1000


def _key(username: str, address: str) -> str:
    # What people type as their name may be their password, and as long as they like.
    text = f"{len(address)}:{address}{username}".encode("utf-8", "surrogatepass")
    return f"relay:backoff:{hashlib.sha256(text).hexdigest()}"
