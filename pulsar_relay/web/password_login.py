"""PasswordLogin: somebody proves with a password who they are, wherever it is typed: as often as the rate of
logins and the back-off allow, and on record.
"""

from __future__ import annotations

from collections.abc import Mapping

from pulsar_relay.accounts.accounts import Accounts
from pulsar_relay.accounts.audit import Actor, AuditRecord, Deed, Kind
from pulsar_relay.accounts.user import User
from pulsar_relay.errors import RelayError
from pulsar_relay.limits import limiter
from pulsar_relay.limits.limiter import Limiter


class PasswordLogin:
    def __init__(self, accounts: Accounts, limits: Limiter) -> None:
        self._accounts = accounts
        self._limits = limits

    async def check(self, username: str, password: str, address: str) -> tuple[User, Mapping[str, str]]:
        """The user, and what the rate tells in headers, which an error has, too. `address` is the client's.

        Raises StoreError, and RelayError `rate_limited`, `login_backoff`, and as
        `Accounts.require_known_password` and `Users.check_password`.
        """
        verdict = await self._limits.admit("login", limiter.address(address))
        headers = {} if verdict is None else verdict.headers
        try:
            await self._admit(username, address)
            user = await self._check(username, password, address)
        except RelayError as error:
            raise error.with_headers(headers) from None
        return user, headers

    async def _admit(self, username: str, address: str) -> None:
        try:
            await self._limits.admit_password(username, address)
        except RelayError as error:
            self._write(self._id_of(username), address, error.code)
            raise

    async def _check(self, username: str, password: str, address: str) -> User:
        try:
            user = await self._accounts.users.check_password(username, password)
        except RelayError as error:
            if error.code == "wrong_password":
                self._accounts.require_known_password(username)
            self._write(self._id_of(username), address, error.code)
            if error.code == "wrong_password":
                await self._limits.note_password(username, address, is_right=False)
            raise
        self._write(user.user_id, address)
        await self._limits.note_password(username, address, is_right=True)
        return user

    def _id_of(self, username: str) -> str | None:
        # Through all of them in any case: how long it takes tells nothing of who there is.
        users = self._accounts.roster.users.values()
        ids = [user.user_id for user in users if user.username == username]
        return ids[0] if ids else None

    def _write(self, user_id: str | None, address: str, error: str | None = None) -> None:
        actor = Actor(user_id if error is None else None, address=address)
        kind = None if user_id is None else Kind.USER
        record = AuditRecord(deed=Deed.SIGN_IN, actor=actor, kind=kind, target=user_id, error=error)
        self._accounts.audit.write(record)
