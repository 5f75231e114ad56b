"""Every address about accounts, in one place, and what somebody must show to be answered there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from actors.ports import StoreError
from pulsar_relay.account_requests import AccountReader
from pulsar_relay.accounts.accounts import Accounts
from pulsar_relay.accounts.principal import Principal
from pulsar_relay.accounts.user import ADMIN
from pulsar_relay.errors import RelayError
from pulsar_relay.limits import limiter
from pulsar_relay.limits.limiter import Limiter
from pulsar_relay.web.account_keys import KeyEndpoints
from pulsar_relay.web.endpoint import Answer, Endpoint, Request, Route
from pulsar_relay.web.gate import Gate, bearer
from pulsar_relay.web.sign_in import SignInEndpoints
from pulsar_relay.web.topic_permissions import GrantEndpoints
from pulsar_relay.web.user_accounts import OwnedTopics, UserEndpoints

SignedInEndpoint = Callable[[Request, Principal], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class AccountParts:
    """What the addresses about accounts are made of."""

    accounts: Accounts
    limits: Limiter
    topics: OwnedTopics


def account_routes(parts: AccountParts, gate: Gate) -> Iterator[Route]:
    """Of addresses that could both be meant the first is."""
    reader = AccountReader()
    sign_in = SignInEndpoints(parts.accounts, parts.limits, reader)
    users = UserEndpoints(parts.accounts, reader, parts.topics)
    keys = KeyEndpoints(parts.accounts, reader)
    grants = GrantEndpoints(parts.accounts, reader, parts.topics)

    def open_(method: str, path: str, endpoint: Endpoint) -> Route:
        return Route(method, path, stored(endpoint))

    def signed_in(
        method: str,
        path: str,
        endpoint: SignedInEndpoint,
        needs: str | None = None,
        *,
        takes_key: bool = False,
    ) -> Route:
        guarded = SignedInOnly(gate, parts.limits, endpoint, needs=needs, takes_key=takes_key)
        return Route(method, path, stored(guarded))

    yield open_("POST", "/auth/login", sign_in.login)
    yield open_("POST", "/auth/token/refresh", sign_in.refresh)
    yield open_("POST", "/auth/token/revoke", sign_in.revoke)
    yield signed_in("POST", "/auth/logout", sign_in.logout)
    yield signed_in("GET", "/auth/sessions", sign_in.sessions)
    yield signed_in("DELETE", "/auth/sessions", sign_in.end_all)
    yield signed_in("DELETE", "/auth/sessions/{}", sign_in.end_session)
    yield signed_in("GET", "/auth/me", users.me, takes_key=True)
    yield signed_in("POST", "/auth/register", users.register, ADMIN)
    yield signed_in("GET", "/auth/users", users.list, ADMIN)
    yield signed_in("GET", "/auth/users/stats", users.statistics, ADMIN)
    yield signed_in("PATCH", "/auth/users/{}", users.change, ADMIN)
    yield signed_in("DELETE", "/auth/users/{}", users.delete, ADMIN)
    yield signed_in("GET", "/auth/keys", keys.list)
    yield signed_in("POST", "/auth/keys", keys.make)
    yield signed_in("DELETE", "/auth/keys/{}", keys.revoke)
    yield signed_in("GET", "/api/v1/topics/{}/permissions", grants.list)
    yield signed_in("POST", "/api/v1/topics/{}/permissions", grants.grant)
    yield signed_in("DELETE", "/api/v1/topics/{}/permissions/{}", grants.take_back)


class SignedInOnly:
    """An endpoint for those who show who they are, have the permission it `needs`, and do not ask too often.

    Unless it `takes_key` they have signed in: who finds the API key of a program has no way from there to
    another key, or to anybody's sessions.
    """

    def __init__(
        self,
        gate: Gate,
        limits: Limiter,
        endpoint: SignedInEndpoint,
        *,
        needs: str | None,
        takes_key: bool,
    ) -> None:
        self._gate = gate
        self._limits = limits
        self._endpoint = endpoint
        self._needs = needs
        self._takes_key = takes_key

    async def __call__(self, request: Request) -> Answer:
        shown = bearer(request.headers.get("authorization"))
        caller = await self._gate.admit(shown, request.address)
        principal = caller.principal
        if principal is None:
            raise RelayError("unauthenticated")
        if self._needs is not None:
            principal.require(self._needs)
        if principal.key is not None and not self._takes_key:
            raise RelayError("login_required")
        verdict = await self._limits.admit("read", limiter.user(principal.user.user_id))
        told = {} if verdict is None else verdict.headers
        try:
            answer = await self._endpoint(request, principal)
        except RelayError as error:
            raise error.with_headers(told) from None
        return Answer(answer.status, answer.body, {**told, **answer.headers})


def stored(endpoint: Endpoint) -> Endpoint:
    """The endpoint, where what the store says is what the client is told."""

    async def ask_store(request: Request) -> Answer:
        try:
            return await endpoint(request)
        except StoreError as error:
            raise RelayError(error.code) from error

    return ask_store
