"""Tickets: a text that nobody can guess, given to a browser to bring back once, for what is kept in Valkey.

What a sign-in knows between two requests stands behind one: it cannot be changed by who carries it, it can be
used once, on whichever worker, and it is gone when its time is over.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Generic, TypeVar

import msgspec

from actors.ports import StoreError
from pulsar_relay.accounts import schema
from pulsar_relay.store.client import Client

T = TypeVar("T", bound=msgspec.Struct)

TICKET_BYTES = 32
LONGEST = 64
"""Characters of a ticket; ours have 43."""


class Tickets(Generic[T]):
    """Those of one `kind`, for values of one type, good for `lifetime_seconds`. Raises StoreError."""

    def __init__(self, client: Client, kind: str, of: type[T], lifetime_seconds: float) -> None:
        self._client = client
        self._kind = kind
        self._type = of
        self._lifetime_ms = round(lifetime_seconds * 1000)

    async def issue(self, value: T) -> str:
        text = secrets.token_urlsafe(TICKET_BYTES)
        await self._client.appends.call(
            "SET", self._key(text), msgspec.json.encode(value), "PX", self._lifetime_ms
        )
        return text

    async def redeem(self, text: str) -> T | None:
        """What it stands for, to the first who asks; None for all others, and for what is no ticket."""
        if not text.isascii() or len(text) > LONGEST:
            return None
        kept = await self._client.appends.call("GETDEL", self._key(text))
        if kept is None:
            return None
        try:
            return msgspec.json.decode(kept, type=self._type)
        except msgspec.DecodeError as error:
            raise StoreError("store_damaged", "a ticket cannot be read") from error

    def _key(self, text: str) -> str:
        return schema.ticket(self._kind, hashlib.sha256(text.encode("ascii")).hexdigest())
