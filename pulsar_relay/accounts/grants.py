"""Grants in Valkey: what owners let others do with their topics."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import msgspec

from actors.ports import StoreError
from pulsar_relay.accounts import schema
from pulsar_relay.accounts.access import NOTHING, Grant
from pulsar_relay.accounts.roster import Roster
from pulsar_relay.accounts.user import EVERYBODY, READ, SIGNED_IN, WRITE
from pulsar_relay.errors import FieldError, RelayError
from pulsar_relay.store.client import Client, Script
from pulsar_relay.store.link import Word

MOST_TOPICS, MOST_USERS = 10_000, 1000
"""Topics of an owner with a grant, and users that one names."""
ATTEMPTS = 20
KIND = "grant"


@dataclass(frozen=True, slots=True)
class Grantee:
    """`public`, `users` for all that have signed in, or a user's id."""

    name: str

    def given(self, grant: Grant, actions: frozenset[str]) -> Grant:
        """The grant in which this grantee may do just that."""
        if self.name == EVERYBODY:
            return msgspec.structs.replace(grant, public=actions)
        if self.name == SIGNED_IN:
            return msgspec.structs.replace(grant, signed_in=actions)
        others = {one: granted for one, granted in grant.users.items() if one != self.name}
        users = {**others, self.name: actions} if actions else others
        return msgspec.structs.replace(grant, users=users)


class Grants:
    """Raises StoreError, and RelayError where the docstring says so."""

    def __init__(self, client: Client, roster: Roster) -> None:
        self._client = client
        self._roster = roster
        self._put = Script("put_record", "pulsar_relay.accounts")
        self._drop = Script("drop_record", "pulsar_relay.accounts")

    def known(self, owner_id: str, topic: str) -> Grant:
        """As this worker knows it, at once; NOTHING if nothing is granted."""
        return self._roster.grants.get(f"{owner_id}/{topic}", NOTHING)

    async def read(self, owner_id: str, topic: str) -> Grant:
        text = await self._client.command("HGET", schema.GRANTS, f"{owner_id}/{topic}")
        return _decoded(text)

    async def set(self, owner_id: str, topic: str, grantee: Grantee, actions: Collection[str]) -> Grant:
        """Let the grantee do just these actions, none to take all back; the grant as it is then.

        RelayError `invalid_request` for an action that is none, `too_many_grants`, `user_not_found` if there
        is no such owner. Whether there is such a grantee is not looked at: who has gone can do nothing.
        """
        if not set(actions) <= {READ, WRITE}:
            field = FieldError(("body", "actions"), f"must be some of {READ}, {WRITE}")
            raise RelayError("invalid_request", errors=[field])
        given = frozenset(actions)
        return await self._change(owner_id, topic, lambda grant: grantee.given(grant, given))

    async def forget(self, owner_id: str, topic: str) -> None:
        """Take everything back: the topic is deleted."""
        await self._change(owner_id, topic, lambda _: NOTHING)

    async def list(self, owner_id: str) -> Mapping[str, Grant]:
        """By topic, what this owner has granted."""
        topics = sorted(await self._client.command("SMEMBERS", schema.grants_of(owner_id)))
        if not topics:
            return {}
        fields = [b"%b/%b" % (owner_id.encode(), topic) for topic in topics]
        texts = await self._client.command("HMGET", schema.GRANTS, *fields)
        return {
            topic.decode(): _decoded(text)
            for topic, text in zip(topics, texts, strict=True)
            if text is not None
        }

    async def _change(self, owner_id: str, topic: str, change: Callable[[Grant], Grant]) -> Grant:
        field = f"{owner_id}/{topic}"
        for _ in range(ATTEMPTS):
            text = await self._client.command("HGET", schema.GRANTS, field)
            before = _decoded(text)
            changed = change(before)
            if changed == before:
                return before
            if len(changed.users) > MOST_USERS:
                raise RelayError("too_many_grants")
            if await self._store(owner_id, topic, text or b"", changed):
                await self._roster.settle()
                return changed
        raise RelayError("overloaded", "These grants are changed too often at the same time.")

    async def _store(self, owner_id: str, topic: str, before: bytes, changed: Grant) -> bool:
        """False if somebody else has changed it meanwhile."""
        field, announced = f"{owner_id}/{topic}", [schema.CHANGED, secrets.token_hex(8)]
        owned = schema.grants_of(owner_id)
        if changed.is_empty:
            # No uses are kept of a grant: the fourth key is none's field.
            keys = [schema.GRANTS, owned, schema.CHANGES, schema.API_KEY_USES]
            dropped: int = await self._drop.run_as_append(
                self._client, keys, [field, topic, KIND, *announced, before]
            )
            return dropped > 0
        args: list[Word] = [field, topic, changed.encode(), owner_id, MOST_TOPICS, KIND, *announced, before]
        keys = [schema.GRANTS, owned, schema.USERS, schema.CHANGES]
        reply = await self._put.run_as_append(self._client, keys, args)
        if reply == b"no user":
            raise RelayError("user_not_found")
        if reply == b"full":
            raise RelayError("too_many_grants")
        return bool(reply == b"done")


def _decoded(text: bytes | None) -> Grant:
    try:
        return NOTHING if text is None else Grant.decode(text)
    except msgspec.DecodeError as error:
        raise StoreError("store_damaged", "a grant cannot be read") from error
