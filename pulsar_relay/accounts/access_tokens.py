"""Access tokens: JWTs that say who somebody is for ten minutes, signed with the relay's secret.

    header  {"alg": "HS256", "typ": "JWT"}
    claims  sub, username, permissions, iat, exp, jti   as today's clients know them
            iss "pulsar-relay", aud "access"            nothing else that is signed here can be taken for one
            gen                                         the user's generation when it was made

Of a token that is presented nothing is believed before its signature, the algorithm is ours and not its own
to choose, and a claim of another type than this is no claim. What it says of permissions and of the name is
for its bearer to read: what a user may do is looked up.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jwt

from pulsar_relay.accounts.user import PERMISSIONS, User
from pulsar_relay.errors import RelayError

ISSUER, AUDIENCE = "pulsar-relay", "access"
ALGORITHM = "HS256"
LONGEST = 4096
"""Characters of a token; ours have some 500."""
CLOCKS_SECONDS = 10
"""How far the clock of another host that signs may be ahead. The end of a token has no leeway."""

_REQUIRED = ("sub", "username", "permissions", "iat", "exp", "jti", "iss", "aud", "gen")
_JTI = re.compile(r"[0-9a-f]{32}")
# PyJWT drops padding, and what base64 does not know.
_SHAPE = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class AccessToken:
    """What a token says, in Unix seconds; `text` is the token."""

    text: str
    user_id: str
    jti: str
    generation: int
    issued_at: int
    expires_at: int


class AccessTokens:
    """`now` is the clock on the wall, in Unix seconds. The first of the secrets signs, all of them verify."""

    def __init__(self, secrets: Sequence[str], lifetime_seconds: float, now: Callable[[], float]) -> None:
        self._keys = [secret.encode() for secret in secrets]
        self._now = now
        self.lifetime_seconds = int(lifetime_seconds)

    def issue(self, user: User) -> AccessToken:
        issued_at = int(self._now())
        expires_at = issued_at + self.lifetime_seconds
        jti = uuid.uuid4().hex
        claims = {
            "sub": user.user_id,
            "username": user.username,
            "permissions": list(user.permissions),
            "iat": issued_at,
            "exp": expires_at,
            "jti": jti,
            "iss": ISSUER,
            "aud": AUDIENCE,
            "gen": user.generation,
        }
        text = jwt.encode(claims, self._keys[0], ALGORITHM)
        return AccessToken(text, user.user_id, jti, user.generation, issued_at, expires_at)

    def verify(self, text: str) -> AccessToken:
        """RelayError `invalid_token`, or `token_expired` for one that was valid."""
        if len(text) > LONGEST or not _SHAPE.fullmatch(text):
            raise RelayError("invalid_token")
        claims = self._signed_claims(text)
        if not _are_ours(claims) or claims["iat"] > self._now() + CLOCKS_SECONDS:
            raise RelayError("invalid_token")
        if claims["exp"] <= self._now():
            raise RelayError("token_expired")
        return AccessToken(text, claims["sub"], claims["jti"], claims["gen"], claims["iat"], claims["exp"])

    def _signed_claims(self, text: str) -> Mapping[str, Any]:
        for key in self._keys:
            try:
                return jwt.decode(
                    text,
                    key,
                    algorithms=[ALGORITHM],
                    issuer=ISSUER,
                    audience=AUDIENCE,
                    # Times are looked at where their types are: PyJWT takes a text for a number.
                    options={
                        "require": list(_REQUIRED),
                        "strict_aud": True,
                        "verify_exp": False,
                        "verify_iat": False,
                    },
                )
            except jwt.InvalidSignatureError:
                continue
            except (jwt.InvalidTokenError, ValueError, TypeError, RecursionError):
                break
        raise RelayError("invalid_token")


def _are_ours(claims: Mapping[str, Any]) -> bool:
    permissions, jti = claims["permissions"], claims["jti"]
    return (
        isinstance(claims["sub"], str)
        and 0 < len(claims["sub"]) <= 255
        and isinstance(claims["username"], str)
        and isinstance(permissions, list)
        and all(isinstance(one, str) and one in PERMISSIONS for one in permissions)
        and isinstance(jti, str)
        and _JTI.fullmatch(jti) is not None
        # A bool is an int to isinstance.
        and all(type(claims[name]) is int for name in ("iat", "exp", "gen"))
        and claims["gen"] >= 0
        and 0 < claims["iat"] < claims["exp"] < 2**53
    )
