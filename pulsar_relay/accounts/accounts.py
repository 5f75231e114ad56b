"""Accounts: all parts of them, put together for one worker, and what takes several of them.

sign in ──▶ Users ──▶ Sessions, AccessTokens         asks Valkey, and takes its time
request ──▶ Authenticator ──▶ Roster                 asks nobody
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import argon2

from actors.ports import StoreError
from pulsar_relay.accounts import access, schema
from pulsar_relay.accounts.access_tokens import AccessToken, AccessTokens
from pulsar_relay.accounts.api_keys import ApiKeys
from pulsar_relay.accounts.audit import AuditLog, AuditTopic
from pulsar_relay.accounts.authenticator import Authenticator
from pulsar_relay.accounts.bootstrap import ensure_admin
from pulsar_relay.accounts.denied_tokens import DeniedTokens
from pulsar_relay.accounts.grants import Grants
from pulsar_relay.accounts.imports import Imports
from pulsar_relay.accounts.passwords import Passwords, default_hasher
from pulsar_relay.accounts.principal import Principal
from pulsar_relay.accounts.refresh_secrets import RefreshSecrets
from pulsar_relay.accounts.roster import Roster
from pulsar_relay.accounts.sessions import Sessions
from pulsar_relay.accounts.user import User
from pulsar_relay.accounts.users import Users
from pulsar_relay.errors import RelayError
from pulsar_relay.settings import AuthSettings
from pulsar_relay.store.client import Client
from pulsar_relay.store.feed import Feed

logger = logging.getLogger(__name__)

RETRY_SECONDS = 0.5
USES_SECONDS = 60.0
PASSWORD_LOGIN = "password-login"  # noqa: S105 - what its sessions are called


@dataclass(frozen=True, slots=True)
class SignedIn:
    """What somebody has who signed in."""

    access: AccessToken
    refresh: str


class Accounts:
    """To be made before the feed is started; `settings` have a secret. Times come from `clock`, which is
    monotonic, and `now`, the one on the wall, both in seconds.
    """

    def __init__(
        self,
        client: Client,
        feed: Feed,
        settings: AuthSettings,
        *,
        audit_topic: AuditTopic | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        hasher: argon2.PasswordHasher | None = None,
    ) -> None:
        assert settings.jwt_secret is not None
        secrets = (settings.jwt_secret, *(settings.jwt_former_secrets or ()))
        self._settings = settings
        self._now = now
        self._tasks: list[asyncio.Task[None]] = []
        self._awaits_admin = settings.bootstrap_username is not None
        self.passwords = Passwords(hasher or default_hasher())
        self.roster = Roster(client, clock, now)
        feed.listen_to(schema.CHANGED, self.roster.hint)
        self.tokens = AccessTokens(secrets, settings.access_token_ttl_seconds, now)
        self.users = Users(client, self.passwords, self.now_ms, self.roster.settle)
        self.sessions = Sessions(client, self.users, RefreshSecrets(secrets), settings, self.now_ms)
        self.denied = DeniedTokens(client, self.roster)
        self.api_keys = ApiKeys(client, self.roster, self.now_ms)
        self.grants = Grants(client, self.roster)
        self.imports = Imports(self.users, self.sessions)
        self.authenticator = Authenticator(self.tokens, self.roster, now, self.api_keys.note_use)
        self.audit = AuditLog(self.now_ms, audit_topic)

    def now_ms(self) -> int:
        return int(self._now() * 1000)

    def start(self) -> None:
        """Returns at once: until the roster is read, or while the store is away, all are answered 503."""
        self.roster.start()
        self._begin(self._store_uses(), "uses of API keys")
        if self._settings.bootstrap_username is not None:
            self._begin(self._ensure_admin(), "first admin")

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self._tasks.append(asyncio.get_running_loop().create_task(work, name=name))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self.api_keys.store_uses()
        await self.roster.stop()
        self.passwords.close()

    async def check(self) -> None:
        """For readiness: StoreError `accounts_unconfirmed` while nobody, or not the first admin, can be let
        in.
        """
        if self._awaits_admin or not self.roster.is_confirmed:
            raise StoreError("accounts_unconfirmed")

    def require_known_password(self, username: str) -> None:
        """Before a password is called wrong. RelayError `accounts_unconfirmed` for the first admin's, until
        there is one with the password of the settings.
        """
        if self._awaits_admin and username == self._settings.bootstrap_username:
            raise RelayError("accounts_unconfirmed")

    async def sign_in(self, user: User, hint: str = PASSWORD_LOGIN) -> SignedIn:
        """For who has just proved to be this user, with a refresh token of its own. RelayError as
        `Sessions.open`.
        """
        refresh = await self.sessions.open(user, hint, is_spare=True)
        return SignedIn(self.tokens.issue(user), refresh)

    async def refresh(self, text: str) -> SignedIn:
        """An access token, and the refresh token that takes the place of this one. RelayError as
        `Sessions.refresh`.
        """
        user, refresh = await self.sessions.refresh(text)
        return SignedIn(self.tokens.issue(user), refresh)

    async def sign_out(self, principal: Principal) -> None:
        """End the access token, or do nothing for who came with a key. Refresh tokens stay. Raises
        StoreError.
        """
        if principal.token is not None:
            await self.denied.deny(principal.token, self._now())

    def require_access(self, principal: Principal | None, action: str, owner_id: str, topic: str) -> None:
        """RelayError unless the principal, None for who has not signed in, may do it; a topic that is not
        theirs, and one that there is not, are refused alike.
        """
        self.roster.require_confirmed()
        code = access.refusal(principal, action, owner_id, topic, self.grants.known(owner_id, topic))
        if code == "permission_required" and principal is not None:
            principal.require(action)
        if code is not None:
            raise RelayError(code)

    async def _ensure_admin(self) -> None:
        settings = self._settings
        username, password = settings.bootstrap_username, settings.bootstrap_password
        assert username is not None
        assert password is not None
        is_waiting = False
        while True:
            try:
                await ensure_admin(self.users, username, password, settings.bootstrap_email)
            except (StoreError, RelayError) as error:
                if not is_waiting:
                    logger.warning("accounts: the first admin must wait (%s), trying again", error.code)
                is_waiting = True
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self._awaits_admin = False
                return

    async def _store_uses(self) -> None:
        while True:
            await asyncio.sleep(USES_SECONDS)
            await self.api_keys.store_uses()
