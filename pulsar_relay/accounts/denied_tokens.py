"""Access tokens that were logged out, until they would have expired."""

from __future__ import annotations

import secrets

from pulsar_relay.accounts import schema
from pulsar_relay.accounts.access_tokens import AccessToken
from pulsar_relay.accounts.roster import Roster
from pulsar_relay.store.client import Client, Script
from pulsar_relay.store.link import Word

KEPT_SECONDS = 3600
"""How much longer than they need be, should a worker's clock be behind."""


class DeniedTokens:
    def __init__(self, client: Client, roster: Roster) -> None:
        self._client = client
        self._roster = roster
        self._deny = Script("deny", "pulsar_relay.accounts")

    async def deny(self, token: AccessToken, now: float) -> None:
        """From the return on for this worker, within five seconds for all. Raises StoreError; the token may
        then be denied or not. `now` in Unix seconds.
        """
        keys = [schema.DENIED, schema.CHANGES]
        forgotten = int(now) - KEPT_SECONDS
        args: list[Word] = [token.jti, token.expires_at, forgotten, schema.CHANGED, secrets.token_hex(8)]
        await self._deny.run_as_append(self._client, keys, args)
        await self._roster.settle()
