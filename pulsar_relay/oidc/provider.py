"""Provider: one OpenID provider as the relay deals with it: where it is, its keys, what it says of people.

All addresses are from the configuration, or from the document that the configuration names.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit

from pulsar_relay.errors import RelayError
from pulsar_relay.identity_providers import IdentityProvider, is_safe_address
from pulsar_relay.oidc import id_token
from pulsar_relay.oidc.id_token import Expected, IdTokenError, NoKeyError, is_subject
from pulsar_relay.oidc.kept_document import KeptDocument
from pulsar_relay.oidc.provider_calls import Fetched, ProviderCalls

logger = logging.getLogger(__name__)

_WELL_KNOWN = "/.well-known/openid-configuration"
_LONGEST_ADDRESS = 2048


@dataclass(frozen=True, slots=True)
class Addresses:
    """`issuer` is what the provider calls itself; the others are where it is asked."""

    issuer: str
    authorization: str
    token: str
    keys: str
    userinfo: str | None


class Provider:
    """Raises RelayError `provider_unavailable`, and `sign_in_invalid` where the docstring says so. `clock` is
    monotonic, `now` the clock on the wall; both in seconds.
    """

    def __init__(
        self,
        settings: IdentityProvider,
        calls: ProviderCalls,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self._calls = calls
        self._now = now
        self._discovery = KeptDocument(self._discover, clock)
        self._keys = KeptDocument(self._fetch_keys, clock)

    async def addresses(self) -> Addresses:
        """What the configuration says goes before what the provider says of itself."""
        settings = self.settings
        told = {} if settings.discovery_url is None else await self._discovery.read()
        found = Addresses(
            settings.issuer or told.get("issuer", ""),
            settings.authorization_endpoint or told.get("authorization_endpoint", ""),
            settings.token_endpoint or told.get("token_endpoint", ""),
            settings.jwks_uri or told.get("jwks_uri", ""),
            settings.userinfo_endpoint or told.get("userinfo_endpoint"),
        )
        if not _are_usable(found) or not _speaks_for(found.issuer, settings.discovery_url, told):
            logger.warning("openid: what provider %s says of itself cannot be used", settings.name)
            raise RelayError("provider_unavailable")
        return found

    async def authorization_url(self, parameters: Mapping[str, str]) -> str:
        parts = urlsplit((await self.addresses()).authorization)
        query = "&".join(filter(None, (parts.query, urlencode(parameters))))
        return urlunsplit(parts._replace(query=query, fragment=""))

    async def redeem(
        self, code: str, verifier: str, redirect_uri: str, nonce: str
    ) -> tuple[Mapping[str, Any], str | None]:
        """The claims of the ID token that the code is good for, and an access token if there is one.

        RelayError `sign_in_invalid` if the provider refuses the code, or its ID token is not to be believed.
        """
        settings, addresses = self.settings, await self.addresses()
        fields = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "client_id": settings.client_id,
            "code_verifier": verifier,
        }
        answer = await self._calls.post_form(
            addresses.token, fields, settings.client_id, settings.client_secret
        )
        token = None if answer is None else answer.get("id_token")
        if answer is None or not isinstance(token, str):
            raise RelayError("sign_in_invalid", "The provider did not redeem the code.")
        claims = await self._verified(token, Expected(addresses.issuer, settings.client_id, nonce))
        access_token = answer.get("access_token")
        return claims, access_token if isinstance(access_token, str) else None

    async def complete(self, claims: Mapping[str, Any], access_token: str | None) -> Mapping[str, Any]:
        """The claims with those that the provider tells only where it is asked for them. RelayError
        `sign_in_invalid` if that answer is about somebody else.
        """
        userinfo = (await self.addresses()).userinfo
        if userinfo is None or access_token is None or not _is_header_value(access_token):
            return claims
        told = (await self._calls.get(userinfo, bearer=access_token)).document
        if told.get("sub") != claims["sub"]:
            raise RelayError("sign_in_invalid", "The provider told of somebody else.")
        return {**told, **claims}

    def subject(self, claims: Mapping[str, Any]) -> str:
        """What the provider calls this person, for ever. RelayError `sign_in_invalid` if it does not say."""
        subject = claims.get(self.settings.claim_sub)
        if not is_subject(subject):
            raise RelayError("sign_in_invalid", "The ID token names nobody.")
        return str(subject)

    async def _verified(self, token: str, expected: Expected) -> Mapping[str, Any]:
        try:
            try:
                return id_token.verify(token, await self._read_keys(), expected, self._now())
            except NoKeyError:
                # A key may be newer than what is kept.
                return id_token.verify(token, await self._read_keys(anew=True), expected, self._now())
        except IdTokenError as error:
            raise RelayError("sign_in_invalid", str(error)) from error

    async def _read_keys(self, *, anew: bool = False) -> Sequence[object]:
        keys = (await self._keys.read(anew=anew)).get("keys")
        return keys if isinstance(keys, list) else ()

    async def _discover(self) -> Fetched:
        assert self.settings.discovery_url is not None
        return await self._calls.get(self.settings.discovery_url)

    async def _fetch_keys(self) -> Fetched:
        return await self._calls.get((await self.addresses()).keys)


def _are_usable(found: Addresses) -> bool:
    known: list[object] = [found.issuer, found.authorization, found.token, found.keys]
    known += [] if found.userinfo is None else [found.userinfo]
    if not all(isinstance(one, str) and 0 < len(one) <= _LONGEST_ADDRESS for one in known):
        return False
    issuer, *addresses = map(str, known)
    return "|" not in issuer and all(map(is_safe_address, addresses))


def _speaks_for(issuer: str, discovery_url: str | None, told: Mapping[str, object]) -> bool:
    # A document at the place of one issuer speaks for no other (OpenID Connect Discovery, 4.3).
    place, well_known, _ = (discovery_url or "").partition(_WELL_KNOWN)
    return told.get("issuer", issuer) == issuer and (
        not well_known or issuer.rstrip("/") == place.rstrip("/")
    )


def _is_header_value(text: str) -> bool:
    return text.isascii() and text.isprintable()
