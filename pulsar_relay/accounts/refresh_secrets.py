"""The secrets of refresh tokens, which are derived and not drawn, so that one can be told again.

    <jti>.<base64 of: number, 4 bytes, and the first 28 of HMAC-SHA-256(key, jti and number)>

All tokens of a session have its jti, and are numbered: with each use comes the next. Valkey keeps the SHA-256
of two, the current one and the one before. Which is enough: of any older one the number is in the token, and
the HMAC proves that it was ours, so its use is known for a replay however long ago it was made. The key is
derived from the relay's secret, so that nothing signed with one can be taken for the other.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence

_PURPOSE = b"pulsar-relay refresh tokens"
_NUMBER_BYTES, _MAC_BYTES = 4, 28
TEXT_LENGTH = 43


def digest(secret: str) -> str:
    """What is kept of a secret: SHA-256 in hexadecimal digits. It has 224 random bits, nobody guesses."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


class RefreshSecrets:
    """`secrets` as for access tokens: the first makes new ones, all know theirs again."""

    def __init__(self, secrets: Sequence[str]) -> None:
        self._keys = [hmac.digest(secret.encode(), _PURPOSE, "sha256") for secret in secrets]

    def make(self, jti: str, number: int) -> str:
        return _made(self._keys[0], jti, number)

    def again(self, jti: str, number: int, kept_digest: str) -> str | None:
        """The secret of this number whose digest was kept; None if its key is not known any more."""
        for key in self._keys:
            made = _made(key, jti, number)
            if hmac.compare_digest(digest(made), kept_digest):
                return made
        return None

    def number_of(self, jti: str, secret: str) -> int | None:
        """Which number it has, if it was made here; None for all else, also for what was imported."""
        if len(secret) != TEXT_LENGTH or not secret.isascii():
            return None
        try:
            data = base64.b64decode(secret + "=", altchars=b"-_", validate=True)
        except ValueError:
            return None
        number = int.from_bytes(data[:_NUMBER_BYTES])
        candidates = [_made(key, jti, number) for key in self._keys]
        return number if any(hmac.compare_digest(one, secret) for one in candidates) else None


def _made(key: bytes, jti: str, number: int) -> str:
    counted = number.to_bytes(_NUMBER_BYTES)
    mac = hmac.digest(key, counted + jti.encode("utf-8", "surrogatepass"), "sha256")[:_MAC_BYTES]
    return base64.urlsafe_b64encode(counted + mac).rstrip(b"=").decode()
