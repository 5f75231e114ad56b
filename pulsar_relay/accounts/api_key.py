"""ApiKey: what a producer that cannot log in shows instead. Pure values.

    prk_<key id>_<43 characters of secret>

The secret is 32 random bytes, of which SHA-256 is kept. Argon2 would protect nothing more: it makes guessing
dear, and among 2**256 there is nothing to guess; but it would take 20 ms of each first request.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from typing import Final, Self

import msgspec

from pulsar_relay.accounts.user import READ, WRITE
from pulsar_relay.errors import FieldError, RelayError

PREFIX = "prk_"
ACTIONS: Final = (READ, WRITE)
"""What a key can be for. Never for what an admin does."""
PATTERNS_MOST, NAME_MOST = 50, 100

_PATTERN = re.compile(r"(?:[A-Za-z0-9_-]{1,255}/)?(?:[A-Za-z0-9_-]{1,255}\*?|\*)")
_TEXT = re.compile(r"prk_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")


class ApiKey(msgspec.Struct, frozen=True):
    """`topics` are patterns: `jobs`, `jobs_*` or `*` for the user's own topics, `<owner id>/jobs*` for those
    of another who has granted them. Times are Unix milliseconds.
    """

    key_id: str
    user_id: str
    name: str
    digest: str
    """SHA-256 of the secret, in hexadecimal digits."""
    actions: tuple[str, ...]
    topics: tuple[str, ...]
    created_at_ms: int
    expires_at_ms: int | None = None

    @classmethod
    def decode(cls, text: bytes) -> Self:
        return msgspec.json.decode(text, type=cls)

    def encode(self) -> bytes:
        return msgspec.json.encode(self)

    @classmethod
    def make(
        cls,
        user_id: str,
        name: str,
        actions: Sequence[str],
        topics: Sequence[str],
        now_ms: int,
        expires_at_ms: int | None = None,
    ) -> tuple[Self, str]:
        """A key, and the text that its bearer shows, which is not to be had again. RelayError
        `invalid_request` if there can be no such key.
        """
        _refuse_wrong(name, actions, topics, now_ms, expires_at_ms)
        key_id, secret = secrets.token_hex(8), _base64(secrets.token_bytes(32))
        key = cls(
            key_id=key_id,
            user_id=user_id,
            name=name,
            digest=_digest(secret),
            actions=tuple(dict.fromkeys(actions)),
            topics=tuple(dict.fromkeys(topics)),
            created_at_ms=now_ms,
            expires_at_ms=expires_at_ms,
        )
        return key, f"{PREFIX}{key_id}_{secret}"

    def opens_with(self, secret: str) -> bool:
        """In a time that tells nothing of the difference."""
        return hmac.compare_digest(self.digest, _digest(secret))

    def covers(self, owner_id: str, topic: str) -> bool:
        """Whether the key is for this topic; who may use it is another question."""
        return any(self._matches(pattern, owner_id, topic) for pattern in self.topics)

    def _matches(self, pattern: str, owner_id: str, topic: str) -> bool:
        owner, slash, name = pattern.rpartition("/")
        if owner_id != (owner if slash else self.user_id):
            return False
        return topic.startswith(name[:-1]) if name.endswith("*") else topic == name


def split(text: str) -> tuple[str, str] | None:
    """Key id and secret; None if it is no API key."""
    match = _TEXT.fullmatch(text)
    return None if match is None else (match[1], match[2])


def _refuse_wrong(
    name: object,
    actions: Sequence[object],
    topics: Sequence[object],
    now_ms: int,
    expires_at_ms: int | None,
) -> None:
    wrong: list[FieldError] = []
    if not isinstance(name, str) or not 0 < len(name) <= NAME_MOST or not name.isprintable():
        wrong.append(FieldError(("body", "name"), f"must be a text of 1 to {NAME_MOST} characters"))
    if isinstance(actions, str) or not actions or not all(one in ACTIONS for one in actions):
        wrong.append(FieldError(("body", "actions"), f"must be a list of some of {', '.join(ACTIONS)}"))
    are_patterns = not isinstance(topics, str) and 0 < len(topics) <= PATTERNS_MOST
    if not are_patterns or not all(isinstance(one, str) and _PATTERN.fullmatch(one) for one in topics):
        message = f"must be a list of 1 to {PATTERNS_MOST} topics; a name may end in `*`"
        wrong.append(FieldError(("body", "topics"), message))
    if expires_at_ms is not None and expires_at_ms <= now_ms:
        wrong.append(FieldError(("body", "expires_at"), "must be in the future"))
    if wrong:
        raise RelayError("invalid_request", errors=wrong)


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
