"""Gate: from what a request shows to who is calling, before anything else is done with it.

Asked thousands of times a second: a token or key that was shown before is recalled, without a pause; only one
that is new is waited for.
"""

from __future__ import annotations

from typing import Protocol

from pulsar_relay.accounts.accounts import Accounts
from pulsar_relay.accounts.authenticator import RECALLED
from pulsar_relay.accounts.principal import Principal
from pulsar_relay.errors import RelayError
from pulsar_relay.web.caller import ANYBODY, AnybodyAt, Caller, Stranger, UserCaller
from pulsar_relay.web.endpoint import Answer, Endpoint, Request
from pulsar_relay.web.guests import Guests


class Gate(Protocol):
    def recall(self, shown: str | None, address: str) -> Caller | None:
        """The caller at this address that shows this, at once; None if that takes longer."""

    async def admit(self, shown: str | None, address: str) -> Caller:
        """The caller that shows this access token or API key, or nothing. RelayError says why there is none:
        a 401, 403 for an account that is closed, 503 while nobody can tell.
        """

    def guard(self, endpoint: Endpoint, needs: str) -> Endpoint:
        """The endpoint, for callers whose account has this permission, and for who has not signed in as far
        as it is granted to everybody.
        """


class OpenGate:
    """For a relay without accounts. `counts_addresses`: limits are for each address, else for nobody."""

    def __init__(self, *, counts_addresses: bool = False) -> None:
        self._counts_addresses = counts_addresses

    def recall(self, shown: str | None, address: str) -> Caller:
        return AnybodyAt(address) if self._counts_addresses else ANYBODY

    async def admit(self, shown: str | None, address: str) -> Caller:
        return self.recall(shown, address)

    def guard(self, endpoint: Endpoint, needs: str) -> Endpoint:
        if not self._counts_addresses:
            return endpoint

        async def answer_address(request: Request) -> Answer:
            return await endpoint(request.by(AnybodyAt(request.address)))

        return answer_address


class AccountsGate:
    """For a relay with accounts."""

    def __init__(self, accounts: Accounts, guests: Guests) -> None:
        self._accounts = accounts
        self._authenticator = accounts.authenticator
        self._guests = guests
        self._callers: dict[str, UserCaller] = {}
        """By the header that they show, as it was sent, so that it need not be taken apart each time."""

    def recall(self, shown: str | None, address: str) -> Caller | None:
        if shown is None:
            return self._stranger(address)
        principal = self._authenticator.recall(shown)
        return None if principal is None else self._caller(principal)

    async def admit(self, shown: str | None, address: str) -> Caller:
        if shown is None:
            return self._stranger(address)
        return self._caller(await self._authenticator.authenticate(shown))

    def _stranger(self, address: str) -> Caller:
        return Stranger(self._accounts, self._guests, address)

    def _caller(self, principal: Principal) -> UserCaller:
        return UserCaller(principal, self._accounts, self._guests)

    def guard(self, endpoint: Endpoint, needs: str) -> Endpoint:
        callers, vouches = self._callers, self._authenticator.vouches

        async def answer_user(request: Request) -> Answer:
            authorization = request.headers.get("authorization", "")
            caller = callers.get(authorization)
            if caller is None or not vouches(caller.principal):
                shown = bearer(authorization)
                if shown is None:
                    return await self._answer_stranger(endpoint, request)
                caller = self._caller(await self._authenticator.authenticate(shown))
                self._remember(authorization, caller)
            caller.principal.require(needs)
            return await endpoint(request.by(caller))

        return answer_user

    def _remember(self, authorization: str, caller: UserCaller) -> None:
        self._callers.pop(authorization, None)
        while len(self._callers) >= RECALLED:
            del self._callers[next(iter(self._callers))]
        self._callers[authorization] = caller

    async def _answer_stranger(self, endpoint: Endpoint, request: Request) -> Answer:
        try:
            return await endpoint(request.by(self._stranger(request.address)))
        except RelayError as error:
            if error.kind.is_retryable:
                raise
            # Whatever is wrong with the request: first of all it is nobody's.
            raise RelayError("unauthenticated") from None


def bearer(authorization: str | None) -> str | None:
    """What an `Authorization` header shows; None if it shows no bearer of anything."""
    if authorization is None:
        return None
    scheme, _, shown = authorization.partition(" ")
    return (shown.strip() or None) if scheme.lower() == "bearer" else None
