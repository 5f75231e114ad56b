"""Signing in and out: passwords, refresh tokens, sessions. Who shows no token yet is known by an address, and
limited by that.
"""

from __future__ import annotations

from collections.abc import Mapping

from pulsar_relay.account_requests import AccountReader
from pulsar_relay.accounts.accounts import Accounts, SignedIn
from pulsar_relay.accounts.audit import Actor, AuditRecord, Deed, Kind
from pulsar_relay.accounts.principal import Principal
from pulsar_relay.accounts.sessions import ReplayError, Session
from pulsar_relay.accounts.user import ADMIN
from pulsar_relay.errors import RelayError
from pulsar_relay.limits import limiter
from pulsar_relay.limits.limiter import Limiter
from pulsar_relay.limits.verdict import Verdict
from pulsar_relay.web.account_answer import json_answer, nothing, time_text
from pulsar_relay.web.endpoint import Answer, Request
from pulsar_relay.web.form import read_form
from pulsar_relay.web.password_login import PasswordLogin


class SignInEndpoints:
    """POST /auth/login, /auth/token/refresh, /auth/token/revoke and /auth/logout; /auth/sessions"""

    def __init__(self, accounts: Accounts, limits: Limiter, reader: AccountReader) -> None:
        self._accounts = accounts
        self._limits = limits
        self._reader = reader
        self._passwords = PasswordLogin(accounts, limits)

    async def login(self, request: Request) -> Answer:
        asked = self._reader.login(read_form(request.plain_body(), request.headers.get("content-type")))
        try:
            user, told = await self._passwords.check(asked.username, asked.password, request.address)
        except RelayError as error:
            if error.code == "user_inactive":
                former = RelayError("user_inactive", former="User account is inactive")
                raise former.with_headers(error.headers) from None
            raise
        return json_answer(_tokens(await self._accounts.sign_in(user)), headers=told)

    async def refresh(self, request: Request) -> Answer:
        token = self._reader.refresh(request.plain_body(), request.headers.get("content-type"))
        verdict = await self._limits.admit("refresh", limiter.address(request.address))
        try:
            signed_in = await self._accounts.refresh(token)
        except RelayError as error:
            self._note_refresh(request, error)
            raise error.with_headers(_told(verdict)) from None
        return json_answer(_tokens(signed_in), headers=_told(verdict))

    def _note_refresh(self, request: Request, error: RelayError) -> None:
        # One that succeeds changes nothing, and each client does it every few minutes: it is not recorded.
        actor = Actor(address=request.address)
        if isinstance(error, ReplayError):
            self._write(Deed.REPLAY, actor, Kind.SESSION, error.jti)
        else:
            self._write(Deed.REFRESH, actor, error=error.code)

    async def revoke(self, request: Request) -> Answer:
        token, whole_chain = self._reader.revoke(request.plain_body(), request.headers.get("content-type"))
        # Whoever has no token guesses: as often as one may refresh.
        verdict = await self._limits.admit("refresh", limiter.address(request.address))
        await self._accounts.sessions.revoke(token, whole_chain=whole_chain)
        self._write(Deed.END_SESSION, Actor(address=request.address))
        return nothing(_told(verdict))

    async def logout(self, request: Request, principal: Principal) -> Answer:
        await self._accounts.sign_out(principal)
        self._write(Deed.SIGN_OUT, Actor.of(principal, request.address))
        return nothing()

    async def sessions(self, request: Request, principal: Principal) -> Answer:
        user_id = self._whose(request, principal)
        return json_answer([_session(one) for one in await self._accounts.sessions.list(user_id)])

    async def end_session(self, request: Request, principal: Principal) -> Answer:
        jti = request.argument
        await self._accounts.sessions.end(self._whose(request, principal), jti)
        self._write(Deed.END_SESSION, Actor.of(principal, request.address), Kind.SESSION, jti)
        return nothing()

    async def end_all(self, request: Request, principal: Principal) -> Answer:
        """With access tokens and connections; this request's own token is one of them."""
        user_id = self._whose(request, principal)
        await self._accounts.users.end_all(user_id)
        self._write(Deed.END_ALL_SESSIONS, Actor.of(principal, request.address), Kind.USER, user_id)
        return nothing()

    def _whose(self, request: Request, principal: Principal) -> str:
        """The id of the user that is meant."""
        return whose(self._reader.whose(request.query), principal)

    def _write(
        self,
        deed: Deed,
        actor: Actor,
        kind: Kind | None = None,
        target: str | None = None,
        error: str | None = None,
    ) -> None:
        record = AuditRecord(deed=deed, actor=actor, kind=kind, target=target, error=error)
        self._accounts.audit.write(record)


def whose(asked: str | None, principal: Principal) -> str:
    """The id of the user that is meant by `asked`, None for oneself. RelayError unless that may be asked."""
    own = principal.user.user_id
    if asked is None or asked == own:
        return own
    principal.require(ADMIN)
    return asked


def _told(verdict: Verdict | None) -> Mapping[str, str]:
    return {} if verdict is None else verdict.headers


def _tokens(signed_in: SignedIn) -> dict[str, object]:
    access = signed_in.access
    return {
        "access_token": access.text,
        "token_type": "bearer",
        "expires_in": access.expires_at - access.issued_at,
        "refresh_token": signed_in.refresh,
        "refresh_token_secondary": None,
    }


def _session(session: Session) -> dict[str, object]:
    return {
        "jti": session.jti,
        "issued_at": time_text(session.issued_at_ms),
        "expires_at": time_text(session.expires_at_ms),
        "last_used_at": time_text(session.used_at_ms),
        "client_hint": session.hint,
    }
