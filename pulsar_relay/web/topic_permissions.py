"""What owners let others do with their topics. A topic that there is not has nothing to grant: who may write
one would make it for its owner.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pulsar_relay.account_requests import AccountReader, GrantRequest
from pulsar_relay.account_schemas import GRANTEE
from pulsar_relay.accounts.access import Grant
from pulsar_relay.accounts.accounts import Accounts
from pulsar_relay.accounts.audit import Actor, AuditRecord, Deed, Kind
from pulsar_relay.accounts.grants import Grantee
from pulsar_relay.accounts.principal import Principal
from pulsar_relay.accounts.user import EVERYBODY, SIGNED_IN
from pulsar_relay.errors import FieldError, RelayError
from pulsar_relay.web.account_answer import json_answer, nothing
from pulsar_relay.web.caller import existing
from pulsar_relay.web.endpoint import Answer, Request
from pulsar_relay.web.user_accounts import OwnedTopics

_GRANTEE = re.compile(GRANTEE)


class GrantEndpoints:
    """GET and POST /api/v1/topics/{topic}/permissions, and DELETE of one of them; all for one's own topics"""

    def __init__(self, accounts: Accounts, reader: AccountReader, topics: OwnedTopics) -> None:
        self._accounts = accounts
        self._reader = reader
        self._topics = topics

    async def list(self, request: Request, principal: Principal) -> Answer:
        topic, owner_id = _own_name(request.argument, principal), principal.user.user_id
        await self._topics.require(owner_id, topic)
        return json_answer(self._told(owner_id, topic, await self._accounts.grants.read(owner_id, topic)))

    async def grant(self, request: Request, principal: Principal) -> Answer:
        topic, owner_id = _own_name(request.argument, principal), principal.user.user_id
        await self._topics.require(owner_id, topic)
        asked = self._reader.new_grant(request.plain_body(), request.headers.get("content-type"))
        grantee = await self._grantee(asked)
        grant = await self._accounts.grants.set(owner_id, topic, Grantee(grantee), asked.actions)
        try:
            await self._topics.require(owner_id, topic)
        except RelayError as error:
            if error.code == "topic_not_found":
                # Deleted meanwhile, and its grants with it, but for this one.
                await self._accounts.grants.forget(owner_id, topic)
            raise
        self._write(Deed.GRANT, request, principal, topic, grantee, asked.actions)
        return json_answer(self._told(owner_id, topic, grant))

    async def take_back(self, request: Request, principal: Principal) -> Answer:
        name, _, grantee = request.argument.rpartition("/")
        topic, owner_id = _own_name(name, principal), principal.user.user_id
        if not _GRANTEE.fullmatch(grantee):
            raise RelayError("user_not_found")
        await self._accounts.grants.set(owner_id, topic, Grantee(grantee), ())
        self._write(Deed.TAKE_BACK, request, principal, topic, grantee)
        return nothing()

    async def _grantee(self, asked: GrantRequest) -> str:
        if asked.to is not None:
            return asked.to
        if asked.user_id is not None:
            if not _GRANTEE.fullmatch(asked.user_id) or asked.user_id in (EVERYBODY, SIGNED_IN):
                wrong = FieldError(("body", "user_id"), "must be a user's id")
                raise RelayError("invalid_request", errors=[wrong])
            return asked.user_id
        assert asked.username is not None
        user = await self._accounts.users.find_by_name(asked.username)
        if user is None:
            raise RelayError("user_not_found")
        return user.user_id

    def _told(self, owner_id: str, topic: str, grant: Grant) -> dict[str, object]:
        return {
            "topic_name": topic,
            "owner_id": owner_id,
            "permissions": [
                {"grantee": grantee, "username": self._name_of(grantee), "actions": sorted(actions)}
                for grantee, actions in _entries(grant)
            ],
        }

    def _name_of(self, grantee: str) -> str | None:
        user = self._accounts.roster.users.get(grantee)
        return None if user is None else user.username

    def _write(
        self,
        deed: Deed,
        request: Request,
        principal: Principal,
        topic: str,
        grantee: str,
        permissions: tuple[str, ...] = (),
    ) -> None:
        record = AuditRecord(
            deed=deed,
            actor=Actor.of(principal, request.address),
            kind=Kind.TOPIC,
            target=f"{principal.user.user_id}/{topic}",
            grantee=grantee,
            permissions=permissions,
        )
        self._accounts.audit.write(record)


def _entries(grant: Grant) -> Iterator[tuple[str, frozenset[str]]]:
    if grant.public:
        yield EVERYBODY, grant.public
    if grant.signed_in:
        yield SIGNED_IN, grant.signed_in
    yield from sorted(grant.users.items())


def _own_name(name: str, principal: Principal) -> str:
    """The bare name of a topic of the principal's own."""
    topic = name.removeprefix(f"{principal.user.user_id}/")
    if "/" in topic:
        raise RelayError("topic_not_found")
    return existing(topic)
