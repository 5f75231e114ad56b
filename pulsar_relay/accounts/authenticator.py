"""Authenticator: from what a request shows to who is asking, without a question to Valkey.

The first time a token is verified; after that it is recalled, and what can have changed is compared with the
roster: the user, by being the very object that was known then, the token, by not being denied. An answer is
given only while the roster is confirmed.
"""

from __future__ import annotations

from collections.abc import Callable

from actors.ports import StoreError
from pulsar_relay.accounts import api_key
from pulsar_relay.accounts.access_tokens import AccessToken, AccessTokens
from pulsar_relay.accounts.principal import Principal
from pulsar_relay.accounts.roster import Roster
from pulsar_relay.errors import RelayError

RECALLED = 20_000
"""Most tokens and keys that are recalled, some 2 KB each. Beyond, the one verified longest ago is forgotten.
"""
YOUNG_SECONDS = 60


class Authenticator:
    """`now` is the clock on the wall, in Unix seconds; `on_key_used` is called with the ids of API keys."""

    def __init__(
        self,
        tokens: AccessTokens,
        roster: Roster,
        now: Callable[[], float],
        on_key_used: Callable[[str], None],
        most_recalled: int = RECALLED,
    ) -> None:
        self._tokens = tokens
        self._roster = roster
        self._now = now
        self._on_key_used = on_key_used
        self._most = most_recalled
        self._recalled: dict[str, Principal] = {}

    @property
    def recalled(self) -> int:
        return len(self._recalled)

    async def authenticate(self, shown: str) -> Principal:
        """The principal that shows this access token or API key. RelayError says why there is none: a 401,
        403 for an account that is closed, or `accounts_unconfirmed`.
        """
        principal = self.recall(shown)
        if principal is not None:
            return principal
        self._roster.require_confirmed()
        self._recalled.pop(shown, None)
        if shown.startswith(api_key.PREFIX):
            principal = self._of_key(shown)
        else:
            token = self._tokens.verify(shown)
            if self._is_ahead(token):
                # It was made a moment ago, by a worker that knows more than this one.
                await self._catch_up()
            principal = self._of_token(token)
        self._remember(shown, principal)
        return principal

    def recall(self, shown: str) -> Principal | None:
        """The same at once for what was shown before and of which nothing has changed; None for all else."""
        principal = self._recalled.get(shown)
        return principal if principal is not None and self.vouches(principal) else None

    def vouches(self, principal: Principal) -> bool:
        """Whether what this principal has shown before would be taken again: nothing of it has changed."""
        roster, user, token, key = self._roster, principal.user, principal.token, principal.key
        if roster.users.get(user.user_id) is not user or not roster.is_confirmed:
            return False
        if token is not None:
            return token.jti not in roster.denied and token.expires_at > self._now()
        if key is None or roster.api_keys.get(key.key_id) is not key or not _lasts(key, self._now()):
            return False
        self._on_key_used(key.key_id)
        return True

    def standing(self, principal: Principal) -> str | None:
        """Why what this principal has open must end, a row of the error table; None while it may go on.

        Goes by the copy there is, also one that is not confirmed: a store that is away closes nothing.
        """
        roster = self._roster
        user = roster.users.get(principal.user.user_id)
        if user is None:
            return "user_unknown"
        if not user.is_active:
            return "user_inactive"
        key, token = principal.key, principal.token
        if key is not None:
            if roster.api_keys.get(key.key_id) != key:
                return "token_revoked"
            return None if _lasts(key, self._now()) else "token_expired"
        if user.generation != principal.user.generation or (token and token.jti in roster.denied):
            return "token_revoked"
        return "token_expired" if token and token.expires_at <= self._now() else None

    def _of_token(self, token: AccessToken) -> Principal:
        user = self._roster.users.get(token.user_id)
        if user is None:
            raise RelayError("user_unknown")
        if token.jti in self._roster.denied:
            raise RelayError("token_revoked")
        if not user.is_active:
            raise RelayError("user_inactive")
        if token.generation != user.generation:
            raise RelayError("token_revoked")
        return Principal.of_token(user, token)

    def _of_key(self, shown: str) -> Principal:
        parts = api_key.split(shown)
        key = None if parts is None else self._roster.api_keys.get(parts[0])
        if parts is None or key is None or not key.opens_with(parts[1]):
            raise RelayError("invalid_token")
        if not _lasts(key, self._now()):
            raise RelayError("token_expired")
        user = self._roster.users.get(key.user_id)
        if user is None:
            raise RelayError("user_unknown")
        if not user.is_active:
            raise RelayError("user_inactive")
        self._on_key_used(key.key_id)
        return Principal.of_key(user, key)

    def _is_ahead(self, token: AccessToken) -> bool:
        """Whether the token knows what the roster does not; of an old one that proves nothing."""
        if token.issued_at < self._now() - YOUNG_SECONDS:
            return False
        user = self._roster.users.get(token.user_id)
        return user is None or user.generation < token.generation

    async def _catch_up(self) -> None:
        try:
            await self._roster.refresh()
        except StoreError:
            raise RelayError("accounts_unconfirmed") from None

    def _remember(self, shown: str, principal: Principal) -> None:
        while len(self._recalled) >= self._most:
            del self._recalled[next(iter(self._recalled))]
        self._recalled[shown] = principal


def _lasts(key: api_key.ApiKey, now: float) -> bool:
    return key.expires_at_ms is None or key.expires_at_ms > now * 1000
