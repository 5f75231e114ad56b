"""API keys in Valkey: made, listed, revoked, and when they were last used, to the minute."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from actors.ports import StoreError
from pulsar_relay.accounts import schema
from pulsar_relay.accounts.api_key import ApiKey
from pulsar_relay.accounts.roster import Roster
from pulsar_relay.errors import RelayError
from pulsar_relay.store.client import Client, Script
from pulsar_relay.store.link import Word

logger = logging.getLogger(__name__)

MOST_OF_A_USER = 100
KIND = "api-key"


@dataclass(frozen=True, slots=True)
class ListedKey:
    key: ApiKey
    used_at_ms: int | None
    """To the minute; None if it never was."""


class ApiKeys:
    """Raises StoreError, and RelayError where the docstring says so. `now_ms` is the clock on the wall."""

    def __init__(self, client: Client, roster: Roster, now_ms: Callable[[], int]) -> None:
        self._client = client
        self._roster = roster
        self._now_ms = now_ms
        self._put = Script("put_record", "pulsar_relay.accounts")
        self._drop = Script("drop_record", "pulsar_relay.accounts")
        self._used: set[str] = set()

    async def make(
        self,
        user_id: str,
        name: str,
        actions: Sequence[str],
        topics: Sequence[str],
        expires_at_ms: int | None = None,
    ) -> tuple[ApiKey, str]:
        """A key and its text, which nobody can tell again. RelayError `invalid_request`, `user_not_found`,
        `too_many_api_keys`.
        """
        key, text = ApiKey.make(user_id, name, actions, topics, self._now_ms(), expires_at_ms)
        keys = [schema.API_KEYS, schema.api_keys_of(user_id), schema.USERS, schema.CHANGES]
        args: list[Word] = [key.key_id, key.key_id, key.encode(), user_id, MOST_OF_A_USER]
        args += [KIND, schema.CHANGED, secrets.token_hex(8), ""]
        reply = await self._put.run_as_append(self._client, keys, args)
        if reply == b"no user":
            raise RelayError("user_not_found")
        if reply == b"full":
            raise RelayError("too_many_api_keys")
        await self._roster.settle()
        return key, text

    async def list(self, user_id: str) -> Sequence[ListedKey]:
        """The user's keys, the oldest first."""
        ids = await self._client.command("SMEMBERS", schema.api_keys_of(user_id))
        if not ids:
            return ()
        names = sorted(ids)
        texts = await self._client.command("HMGET", schema.API_KEYS, *names)
        uses = await self._client.command("HMGET", schema.API_KEY_USES, *names)
        listed = [
            ListedKey(_decoded(text), None if used is None else int(used))
            for text, used in zip(texts, uses, strict=True)
            if text is not None
        ]
        return sorted(listed, key=lambda one: one.key.created_at_ms)

    async def revoke(self, user_id: str, key_id: str) -> None:
        """RelayError `api_key_not_found` if the user has no such key."""
        keys = [schema.API_KEYS, schema.api_keys_of(user_id), schema.CHANGES, schema.API_KEY_USES]
        args = [key_id, key_id, KIND, schema.CHANGED, secrets.token_hex(8), "*"]
        if not await self._drop.run_as_append(self._client, keys, args):
            raise RelayError("api_key_not_found")
        await self._roster.settle()

    def note_use(self, key_id: str) -> None:
        """Costs nothing now; `store_uses` tells Valkey."""
        self._used.add(key_id)

    async def store_uses(self) -> None:
        """Keep that the keys noted since the last time were used about now. What cannot be stored is dropped:
        nothing depends on it.
        """
        used, self._used = self._used, set()
        # Not of keys that were revoked meanwhile: nobody would take these away again.
        known = [key_id for key_id in used if key_id in self._roster.api_keys]
        if not known:
            return
        now_ms = self._now_ms()
        flat: list[Word] = [word for key_id in known for word in (key_id, now_ms)]
        try:
            await self._client.command("HSET", schema.API_KEY_USES, *flat)
        except StoreError as error:
            logger.debug("accounts: which keys were used is not stored (%s)", error.code)


def _decoded(text: bytes) -> ApiKey:
    try:
        return ApiKey.decode(text)
    except msgspec.DecodeError as error:
        raise StoreError("store_damaged", "an API key cannot be read") from error
