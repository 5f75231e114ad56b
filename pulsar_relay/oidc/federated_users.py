"""Federated users: which user somebody is whom a provider vouches for, and what a new one is called.

Whom a provider knows is known by issuer and subject, and by nothing else: a name or an address that a
provider tells makes nobody the owner of an account that is there already.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pulsar_relay.accounts.user import (
    EMAIL_MOST,
    USERNAME_LEAST,
    USERNAME_MOST,
    FederatedIdentity,
    NewUser,
    User,
)
from pulsar_relay.accounts.users import Users
from pulsar_relay.errors import RelayError
from pulsar_relay.identity_providers import IdentityProvider
from pulsar_relay.oidc.relying_party import Person

EMAIL = "email"
DRAWS = 5
_STRANGE = re.compile(r"[^A-Za-z0-9._@+-]")


class FederatedUsers:
    """Raises StoreError, and RelayError where the docstring says so. A new user has these `permissions`."""

    def __init__(self, users: Users, permissions: Sequence[str]) -> None:
        self._users = users
        self._permissions = permissions

    async def user_of(self, person: Person) -> User:
        """The user this person is, made if there is none yet. RelayError `user_inactive`, `name_is_local` if
        the name is that of somebody with a password here, and as `Provider.complete`.
        """
        identity = FederatedIdentity(person.issuer, person.subject)
        user = await self._users.find_federated(identity) or await self._make(person, identity)
        if not user.is_active:
            raise RelayError("user_inactive")
        return user

    async def _make(self, person: Person, identity: FederatedIdentity) -> User:
        settings, claims = person.provider.settings, person.claims
        if _claimed_name(settings.claim_username, settings, claims) is None:
            claims = await person.provider.complete(claims, person.access_token)
        email = claims.get(settings.claim_email) if _is_verified(claims) else None
        if not isinstance(email, str) or len(email) > EMAIL_MOST or not email.isprintable():
            email = None
        names = username_candidates(settings, claims, person.subject)
        for attempt, name in enumerate(names):
            holder = await self._users.find_by_name(name)
            if holder is not None:
                if attempt == 0 and holder.federated is None:
                    raise RelayError("name_is_local")
                continue
            try:
                return await self._users.create(NewUser(name, email, self._permissions, identity))
            except RelayError as error:
                if error.code != "user_exists":
                    raise
                # Somebody has been quicker: the same person, or another of this name.
                user = await self._users.find_federated(identity)
                if user is not None:
                    return user
        raise RelayError("overloaded", "No name is free for this account.")


def username_candidates(settings: IdentityProvider, claims: Mapping[str, Any], subject: str) -> Iterator[str]:
    """Names for a new user, the best first; each of 3 to 50 characters that mean themselves everywhere."""
    told = (
        _claimed_name(claim, settings, claims)
        for claim in (settings.claim_username, "preferred_username", EMAIL)
    )
    base = next((name for name in told if name), None) or _plain(subject)
    if len(base) < USERNAME_LEAST:
        base = f"{base}-{settings.name}".ljust(USERNAME_LEAST, "-")
    yield base[:USERNAME_MOST]
    yield _with_suffix(base, settings.name)
    yield _with_suffix(base, f"{settings.name}-{_plain(subject)[:8]}")
    for _ in range(DRAWS):
        yield _with_suffix(base, f"{settings.name}-{secrets.token_hex(4)}")


def _claimed_name(claim: str, settings: IdentityProvider, claims: Mapping[str, Any]) -> str | None:
    value = claims.get(claim)
    if not isinstance(value, str) or not value.strip():
        return None
    # Whoever may type an address that nobody has verified may take anybody's.
    if claim in (EMAIL, settings.claim_email) and not _is_verified(claims):
        return None
    return _plain(value)


def _is_verified(claims: Mapping[str, Any]) -> bool:
    return claims.get("email_verified") is True


def _plain(text: str) -> str:
    return _STRANGE.sub("-", text)


def _with_suffix(base: str, suffix: str) -> str:
    return f"{base[: USERNAME_MOST - len(suffix) - 1]}-{suffix}"
