"""Credentials: what a client shows a relay, and what it does when that is not good any more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Credentials(Protocol):
    async def shown(self) -> str | None:
        """An access token or API key, None for nothing. Raises ClientError where there should be one."""

    async def renewed(self, refused: str) -> bool:
        """After a 401: whether there is something else to show than what was refused. Raises ClientError."""


class Nothing:
    """For relays without accounts, and what is granted to everybody."""

    async def shown(self) -> str | None:
        return None

    async def renewed(self, refused: str) -> bool:
        return False


@dataclass(frozen=True, slots=True, repr=False)
class ShownKey:
    """An API key."""

    text: str

    async def shown(self) -> str | None:
        return self.text

    async def renewed(self, refused: str) -> bool:
        return False


NOTHING = Nothing()
