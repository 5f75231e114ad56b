"""ID tokens: what a provider says of somebody who signed in, believed once all of it is checked. Pure.

The key comes first: from the provider's own set, of the kind that the algorithm needs. Which algorithms there
are is for us to say: none without a key, and none whose key is a secret that both sides have.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

SKEW_SECONDS = 60
LONGEST = 16 * 1024
MOST_KEYS = 100
"""Of a set; looked at until one fits, so that a token costs no more signatures than this."""
RSA_LEAST_BITS = 2048
SUBJECT_MOST = 255

_KEY_KINDS: Final[Mapping[str, tuple[str, Sequence[str | None]]]] = {
    "RS256": ("RSA", (None,)),
    "RS384": ("RSA", (None,)),
    "RS512": ("RSA", (None,)),
    "ES256": ("EC", ("P-256",)),
    "ES384": ("EC", ("P-384",)),
    "ES512": ("EC", ("P-521",)),
    "EdDSA": ("OKP", ("Ed25519", "Ed448")),
}
_PUBLIC_PARTS = ("kty", "n", "e", "crv", "x", "y")
_SHAPE = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")


class IdTokenError(ValueError):
    """Why it is not believed; in words of ours, with nothing of what it says."""


class NoKeyError(IdTokenError):
    """None of the keys has signed it. The provider may have others by now."""


@dataclass(frozen=True, slots=True)
class Expected:
    issuer: str
    client_id: str
    nonce: str


def verify(text: str, keys: Sequence[object], expected: Expected, now: float) -> Mapping[str, Any]:
    """Its claims. `keys` are the members of the provider's set; `now` is in Unix seconds. IdTokenError."""
    if len(text) > LONGEST or not _SHAPE.fullmatch(text):
        raise IdTokenError("The ID token is no JWT.")
    claims = _signed_claims(text, keys)
    if claims.get("iss") != expected.issuer:
        raise IdTokenError("The ID token is of another issuer.")
    _check_audience(claims, expected.client_id)
    _check_times(claims, now)
    nonce, subject = claims.get("nonce"), claims.get("sub")
    if not isinstance(nonce, str) or not hmac.compare_digest(_bytes(nonce), _bytes(expected.nonce)):
        raise IdTokenError("The ID token is of another sign-in.")
    if not is_subject(subject):
        raise IdTokenError("The ID token names nobody.")
    return claims


def is_subject(value: object) -> bool:
    """Whether a provider may call somebody so."""
    return isinstance(value, str) and 0 < len(value) <= SUBJECT_MOST and value.isprintable()


def _signed_claims(text: str, keys: Sequence[object]) -> Mapping[str, Any]:
    try:
        header = jwt.get_unverified_header(text)
    except (jwt.InvalidTokenError, ValueError, RecursionError):
        raise IdTokenError("The ID token is no JWT.") from None
    algorithm, key_id = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in _KEY_KINDS or "crit" in header:
        raise IdTokenError("The ID token is not signed as it should be.")
    for key in _fitting(keys[:MOST_KEYS], algorithm, key_id):
        try:
            return jwt.decode(
                text,
                key,
                algorithms=[algorithm],
                # Each claim is looked at where its type is: PyJWT takes a text for a number.
                options={
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                    "verify_aud": False,
                    "verify_iss": False,
                    "verify_sub": False,
                    "verify_jti": False,
                },
            )
        except jwt.InvalidSignatureError:
            continue
        except (jwt.InvalidTokenError, jwt.InvalidKeyError, ValueError, TypeError, RecursionError):
            break
    raise NoKeyError("No key of the provider's has signed the ID token.")


def _fitting(keys: Sequence[object], algorithm: str, key_id: object) -> Iterator[jwt.PyJWK]:
    kind, curves = _KEY_KINDS[algorithm]
    for key in keys:
        if not isinstance(key, dict) or key.get("kty") != kind or key.get("crv") not in curves:
            continue
        is_for_this = key.get("use", "sig") == "sig" and key.get("alg", algorithm) == algorithm
        if not is_for_this or (key_id is not None and key.get("kid", key_id) != key_id):
            continue
        try:
            made = jwt.PyJWK({part: key[part] for part in _PUBLIC_PARTS if part in key}, algorithm)
        except (jwt.PyJWKError, jwt.InvalidKeyError, ValueError, TypeError):
            continue
        if isinstance(made.key, RSAPublicKey) and made.key.key_size < RSA_LEAST_BITS:
            continue
        yield made


def _check_audience(claims: Mapping[str, Any], client_id: str) -> None:
    audience, authorized = claims.get("aud"), claims.get("azp")
    audiences = [audience] if isinstance(audience, str) else audience
    if not isinstance(audiences, list) or client_id not in audiences:
        raise IdTokenError("The ID token is for somebody else.")
    # One that is for several says who asked for it.
    if authorized != client_id and (authorized is not None or len(audiences) > 1):
        raise IdTokenError("The ID token was given to somebody else.")


def _check_times(claims: Mapping[str, Any], now: float) -> None:
    expires_at, issued_at = claims.get("exp"), claims.get("iat")
    not_before = claims.get("nbf", 0)
    if not (_is_time(expires_at) and _is_time(issued_at) and _is_time(not_before)):
        raise IdTokenError("The ID token does not say when it is good.")
    if now >= expires_at + SKEW_SECONDS:
        raise IdTokenError("The ID token has expired.")
    if max(issued_at, not_before) > now + SKEW_SECONDS:
        raise IdTokenError("The ID token is not good yet.")


def _is_time(value: object) -> TypeGuard[float]:
    # A bool is an int to isinstance.
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    # As a float it may be infinite, and as an integer too large to be one.
    return -(2**53) < value < 2**53


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
