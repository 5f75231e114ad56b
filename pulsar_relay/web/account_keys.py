"""API keys: made by their user, listed and revoked by their user or an admin."""

from __future__ import annotations

from pulsar_relay.account_requests import AccountReader
from pulsar_relay.accounts.accounts import Accounts
from pulsar_relay.accounts.api_key import ApiKey
from pulsar_relay.accounts.audit import Actor, AuditRecord, Deed, Kind
from pulsar_relay.accounts.principal import Principal
from pulsar_relay.web.account_answer import json_answer, nothing, time_text
from pulsar_relay.web.endpoint import Answer, Request
from pulsar_relay.web.sign_in import whose


class KeyEndpoints:
    """GET and POST /auth/keys, DELETE /auth/keys/{key_id}"""

    def __init__(self, accounts: Accounts, reader: AccountReader) -> None:
        self._accounts = accounts
        self._reader = reader

    async def list(self, request: Request, principal: Principal) -> Answer:
        user_id = whose(self._reader.whose(request.query), principal)
        listed = await self._accounts.api_keys.list(user_id)
        return json_answer([_entry(one.key, one.used_at_ms) for one in listed])

    async def make(self, request: Request, principal: Principal) -> Answer:
        """For oneself only: who has a user's key sees the user's topics, and no admin is to."""
        asked = self._reader.new_key(request.plain_body(), request.headers.get("content-type"))
        ends_ms = None if asked.lives_ms is None else self._accounts.now_ms() + asked.lives_ms
        user_id = principal.user.user_id
        key, text = await self._accounts.api_keys.make(
            user_id, asked.name, asked.actions, asked.topics, ends_ms
        )
        self._write(Deed.MAKE_KEY, request, principal, key.key_id, key.actions)
        return json_answer({**_entry(key, None), "key": text}, 201)

    async def revoke(self, request: Request, principal: Principal) -> Answer:
        user_id = whose(self._reader.whose(request.query), principal)
        await self._accounts.api_keys.revoke(user_id, request.argument)
        self._write(Deed.REVOKE_KEY, request, principal, request.argument)
        return nothing()

    def _write(
        self,
        deed: Deed,
        request: Request,
        principal: Principal,
        key_id: str,
        permissions: tuple[str, ...] = (),
    ) -> None:
        actor = Actor.of(principal, request.address)
        self._accounts.audit.write(
            AuditRecord(deed=deed, actor=actor, kind=Kind.KEY, target=key_id, permissions=permissions)
        )


def _entry(key: ApiKey, used_at_ms: int | None) -> dict[str, object]:
    return {
        "key_id": key.key_id,
        "name": key.name,
        "actions": key.actions,
        "topics": key.topics,
        "created_at": time_text(key.created_at_ms),
        "expires_at": time_text(key.expires_at_ms),
        "last_used_at": time_text(used_at_ms),
    }
