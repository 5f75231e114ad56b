"""RelyingParty: how somebody signs in at a provider, and comes back as somebody it vouches for.

    begin ──▶ the browser goes to the provider ──▶ finish

What must be the same on the way back stands behind a ticket, the `state`: which provider it was, the nonce,
the secret half of PKCE, the browser, and the device that is to be let in, if one is.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from pulsar_relay.accounts.tickets import Tickets
from pulsar_relay.errors import RelayError
from pulsar_relay.oidc.provider import Provider

SECRET_BYTES = 32
CODE_LONGEST = 4096


class SignIn(msgspec.Struct, frozen=True):
    """A sign-in under way. `browser` is the digest of what its browser has to show."""

    provider: str
    nonce: str
    verifier: str
    redirect_uri: str
    browser: str
    user_code: str | None


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody a provider vouches for."""

    provider: Provider
    issuer: str
    subject: str
    claims: Mapping[str, Any]
    access_token: str | None


class RelyingParty:
    """Raises StoreError, and RelayError where the docstring says so."""

    def __init__(self, providers: Sequence[Provider], sign_ins: Tickets[SignIn]) -> None:
        self.providers = {provider.settings.name: provider for provider in providers}
        self._sign_ins = sign_ins

    def provider(self, name: str) -> Provider:
        """RelayError `oidc_disabled`, `provider_not_found`."""
        if not self.providers:
            raise RelayError("oidc_disabled")
        if name not in self.providers:
            raise RelayError("provider_not_found")
        return self.providers[name]

    async def begin(self, name: str, redirect_uri: str, browser: str, user_code: str | None) -> str:
        """Where the browser has to go. RelayError as `provider`, and `provider_unavailable`."""
        provider = self.provider(name)
        nonce, verifier = secrets.token_urlsafe(SECRET_BYTES), secrets.token_urlsafe(SECRET_BYTES)
        # Before anything is kept: a provider that is away leaves nothing behind.
        await provider.addresses()
        state = await self._sign_ins.issue(SignIn(name, nonce, verifier, redirect_uri, browser, user_code))
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        return await provider.authorization_url(
            {
                "response_type": "code",
                "client_id": provider.settings.client_id,
                "redirect_uri": redirect_uri,
                "scope": " ".join(provider.settings.scopes),
                "state": state,
                "nonce": nonce,
                "code_challenge": challenge,
                "code_challenge_method": "S256",
            }
        )

    async def come_back(self, name: str, state: str, browser: str | None) -> SignIn:
        """The sign-in that this state stands for, once. RelayError as `provider`, and `sign_in_expired`, also
        where another browser or another provider comes back than went.
        """
        self.provider(name)
        sign_in = await self._sign_ins.redeem(state)
        if (
            sign_in is None
            or sign_in.provider != name
            or browser is None
            or not hmac.compare_digest(sign_in.browser, browser)
        ):
            raise RelayError("sign_in_expired")
        return sign_in

    async def give_up(self, state: str) -> None:
        """Nobody comes back with this state any more."""
        await self._sign_ins.redeem(state)

    async def finish(self, sign_in: SignIn, code: str, issuer: str | None) -> Person:
        """Who it is that the provider gave this code for. `issuer` is what came with the code, if it did.
        RelayError as `Provider.redeem`.
        """
        provider = self.provider(sign_in.provider)
        addresses = await provider.addresses()
        if issuer is not None and issuer != addresses.issuer:
            raise RelayError("sign_in_invalid", "The answer is another provider's.")
        if not 0 < len(code) <= CODE_LONGEST:
            raise RelayError("sign_in_invalid", "The provider sent no code.")
        claims, access_token = await provider.redeem(
            code, sign_in.verifier, sign_in.redirect_uri, sign_in.nonce
        )
        return Person(provider, addresses.issuer, provider.subject(claims), claims, access_token)
