"""OpenID providers, as the configuration names them: where people sign in who then are the relay's users."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_ENDPOINTS = ("issuer", "authorization_endpoint", "token_endpoint", "jwks_uri")
_ADDRESSES = (*_ENDPOINTS, "discovery_url", "userinfo_endpoint")
_HIDDEN = "********"


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityProvider:
    """One provider. Either `discovery_url` is set, or `issuer`, both endpoints and `jwks_uri` are.

    The claims are those of its ID token from which a user's name, address and lasting identity are taken. The
    name, where the token has none, is asked for at `userinfo_endpoint`, or where discovery finds it.
    """

    name: str
    display_name: str
    client_id: str
    client_secret: str = dataclasses.field(repr=False)
    scopes: tuple[str, ...] = ("openid", "email", "profile")
    discovery_url: str | None = None
    issuer: str | None = None
    authorization_endpoint: str | None = None
    token_endpoint: str | None = None
    userinfo_endpoint: str | None = None
    jwks_uri: str | None = None
    claim_username: str = "email"
    claim_email: str = "email"
    claim_sub: str = "sub"


PROVIDER_FIELDS = tuple(field.name for field in dataclasses.fields(IdentityProvider) if field.name != "name")
_REQUIRED = ("display_name", "client_id", "client_secret")


@dataclass(frozen=True, slots=True)
class IdentityProviders:
    """A kind of setting: providers by name; a tuple of them in the order they are named."""

    form: str = (
        "a mapping of names (a-z, 0-9, - and _) to providers, in a variable or flag as a JSON object; each "
        "with display_name, client_id, client_secret and discovery_url"
    )
    null_words: frozenset[str] = frozenset()
    takes_structure: bool = True

    def parse(self, text: str) -> tuple[IdentityProvider, ...]:
        try:
            providers = json.loads(text)
        except ValueError:
            raise ValueError("is not a JSON object") from None
        if not isinstance(providers, dict):
            raise ValueError("is not a mapping of names to providers")
        return tuple(_provider(name.lower(), fields) for name, fields in providers.items())

    def show(self, value: object) -> str:
        return self._text(value, is_masked=False)

    def masked(self, value: object) -> str:
        """As it may be shown to anybody."""
        return self._text(value, is_masked=True)

    def secrets(self, value: object) -> Iterator[str]:
        assert isinstance(value, tuple)
        return (provider.client_secret for provider in value)

    def _text(self, value: object, *, is_masked: bool) -> str:
        assert isinstance(value, tuple)
        return json.dumps({provider.name: _fields(provider, is_masked) for provider in value})


def is_safe_address(address: str) -> bool:
    """Whether secrets may go there: by TLS, or to this machine itself."""
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    if not host or parts.username is not None:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and host in {"localhost", "127.0.0.1", "::1"})


def _fields(provider: IdentityProvider, is_masked: bool) -> dict[str, Any]:
    fields = {name: getattr(provider, name) for name in PROVIDER_FIELDS}
    if is_masked:
        fields["client_secret"] = _HIDDEN
    return {name: value for name, value in fields.items() if value is not None}


def _provider(name: str, fields: object) -> IdentityProvider:
    """ValueError, in words that complete "oidc.providers: the value ..."."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"names a provider {name!r}")
    where = f"for provider {name!r}"
    if not isinstance(fields, Mapping):
        raise ValueError(f"has no fields {where}")
    # A template of somebody's leaves what it has no value for empty.
    given = {key: value for key, value in fields.items() if value not in (None, "")}
    for key in given:
        if key not in PROVIDER_FIELDS:
            near = difflib.get_close_matches(key, PROVIDER_FIELDS, n=1)
            raise ValueError(
                f"has an unknown field {key!r} {where}" + (f" ({near[0]!r} is meant?)" if near else "")
            )
    scopes = given.pop("scopes", None)
    if scopes is not None:
        given["scopes"] = _scopes(scopes, where)
    if any(not isinstance(value, str) for key, value in given.items() if key != "scopes"):
        raise ValueError(f"has a field that is not text {where}")
    missing = [key for key in _REQUIRED if key not in given]
    if "discovery_url" not in given:
        missing += [key for key in _ENDPOINTS if key not in given]
    if missing:
        raise ValueError(f"lacks {', '.join(missing)} {where}")
    for key in _ADDRESSES:
        if key in given and not is_safe_address(given[key]):
            raise ValueError(f"has a {key} {where} that is no https address")
    return IdentityProvider(name=name, **given)


def _scopes(value: object, where: str) -> tuple[str, ...]:
    words = value.split() if isinstance(value, str) else value
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        raise ValueError(f"has scopes {where} that are no list of words")
    if "openid" not in words:
        raise ValueError(f"has scopes {where} without 'openid'")
    return tuple(words)
