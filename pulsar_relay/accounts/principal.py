"""Principal: who is asking, and by what they have shown it."""

from __future__ import annotations

from dataclasses import dataclass

from pulsar_relay.accounts.access_tokens import AccessToken
from pulsar_relay.accounts.api_key import ApiKey
from pulsar_relay.accounts.user import User
from pulsar_relay.errors import RelayError


@dataclass(frozen=True, slots=True)
class Principal:
    """A user as known when this was made, and either a token or a key."""

    user: User
    permissions: frozenset[str]
    """What the user may, as far as the key is for it."""
    token: AccessToken | None = None
    key: ApiKey | None = None

    @classmethod
    def of_token(cls, user: User, token: AccessToken) -> Principal:
        return cls(user, frozenset(user.permissions), token=token)

    @classmethod
    def of_key(cls, user: User, key: ApiKey) -> Principal:
        return cls(user, frozenset(user.permissions).intersection(key.actions), key=key)

    @property
    def expires_at(self) -> float | None:
        """Unix seconds; None if it does not."""
        if self.token is not None:
            return self.token.expires_at
        if self.key is not None and self.key.expires_at_ms is not None:
            return self.key.expires_at_ms / 1000
        return None

    def require(self, permission: str) -> None:
        """RelayError `permission_required` unless the principal has it."""
        if permission not in self.permissions:
            former = f"Permission '{permission}' required"
            raise RelayError("permission_required", f"{former}.", former=former)
