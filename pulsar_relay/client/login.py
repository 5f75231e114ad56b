"""Login: one person's login at one relay, kept in a file, renewed when it is about to end."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from urllib.parse import urlencode

import msgspec

from pulsar_relay.client.address import Address
from pulsar_relay.client.credentials import NOTHING
from pulsar_relay.client.errors import ClientError, RefusedError
from pulsar_relay.client.http import Answer, HttpClient
from pulsar_relay.client.login_file import KeptLogin, LoginFile

REQUEST_SECONDS = 30.0
EARLY_SECONDS = 60.0
"""So long before its end an access token is not begun with any more; half its life, if that is shorter."""
FORM = "application/x-www-form-urlencoded"


class _Tokens(msgspec.Struct):
    access_token: str
    expires_in: float
    refresh_token: str


class Login:
    """Credentials from `file`. `now` is the clock on the wall, in Unix seconds."""

    def __init__(self, address: Address, file: LoginFile, now: Callable[[], float] = time.time) -> None:
        # What is asked here is asked without credentials: these are what it is about.
        self._address = replace(address, credentials=NOTHING)
        self._file = file
        self._now = now

    async def shown(self) -> str | None:
        kept = self._kept()
        if kept is None:
            return None
        if self._now() < kept.renew_at:
            return kept.access_token
        return await self._renew(kept.access_token)

    async def renewed(self, refused: str) -> bool:
        return self._kept() is not None and await self._renew(refused) not in (None, refused)

    def _kept(self) -> KeptLogin | None:
        return self._file.read().get(self._address.base)

    async def _renew(self, old: str) -> str | None:
        async with self._file.locked():
            kept = self._kept()
            if kept is None or kept.access_token != old:
                # Somebody else was first, to log out or to renew it.
                return None if kept is None else kept.access_token
            body = msgspec.json.encode({"refresh_token": kept.refresh_token})
            try:
                answer = await self._ask("/auth/token/refresh", body)
            except RefusedError as error:
                if error.code != "invalid_refresh_token":
                    raise
                self._file.write(self._address.base, None)
                raise RefusedError(
                    "login_over", f"the login at {self._address.shown} is over.", is_retryable=False
                ) from None
            return self._keep(kept.username, answer).access_token

    async def begin(self, username: str, password: str) -> None:
        """Log in, and keep that in place of what was kept. Raises ClientError."""
        form = urlencode({"username": username, "password": password, "grant_type": "password"})
        async with self._file.locked():
            former = self._kept()
            answer = await self._ask("/auth/login", form.encode(), {"Content-Type": FORM})
            self._keep(username, answer)
            if former is not None:
                # It ends by itself, too.
                with suppress(ClientError):
                    await self._revoke(former)

    async def end(self) -> str | None:
        """Log out, here and at the relay; who was logged in. Raises ClientError, and is logged in still."""
        async with self._file.locked():
            kept = self._kept()
            if kept is None:
                return None
            await self._revoke(kept)
            try:
                await self._ask("/auth/logout", b"", {"Authorization": f"Bearer {kept.access_token}"})
            except RefusedError as error:
                # What is not good any more need not be ended.
                if error.is_retryable:
                    raise
            self._file.write(self._address.base, None)
            return kept.username

    async def _revoke(self, kept: KeptLogin) -> None:
        body = msgspec.json.encode({"refresh_token": kept.refresh_token, "revoke_chain": True})
        await self._ask("/auth/token/revoke", body)

    def _keep(self, username: str, answer: Answer) -> KeptLogin:
        tokens = answer.read(_Tokens)
        renew_at = self._now() + tokens.expires_in - min(EARLY_SECONDS, tokens.expires_in / 2)
        kept = KeptLogin(username, tokens.access_token, renew_at, tokens.refresh_token)
        self._file.write(self._address.base, kept)
        return kept

    async def _ask(self, path: str, body: bytes, headers: dict[str, str] | None = None) -> Answer:
        http = HttpClient(self._address)
        try:
            return await http.request(
                "POST", self._address.url(path), timeout_seconds=REQUEST_SECONDS, body=body, headers=headers
            )
        finally:
            http.close()


def needs_login(error: ClientError) -> bool:
    """Whether somebody who logs in could do it."""
    return error.code in {
        *("unauthenticated", "login_required", "login_over"),
        *("invalid_token", "token_expired", "token_revoked", "user_unknown"),
    }
