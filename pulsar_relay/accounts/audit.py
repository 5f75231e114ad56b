"""Audit: who did what to accounts, sessions, keys, grants and topics, when and from where.

A record is made of ids, words of our own and names of fields, never of what somebody typed or sent: so no
password, token or secret can get into one, also not one that was typed in the wrong place. A sign-in that
failed names a user only where there is one.
"""

from __future__ import annotations

import enum
import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from pulsar_relay.accounts.principal import Principal
from pulsar_relay.accounts.user import PERMISSIONS
from pulsar_relay.errors import ERRORS

logger = logging.getLogger(__name__)

FIELDS = frozenset({"email", "password", "permissions", "is_active", "description", "limits"})
"""What of a thing can have been changed."""


class Deed(enum.StrEnum):
    """What was done, or tried."""

    SIGN_IN = "sign_in"
    SIGN_OUT = "sign_out"
    REFRESH = "refresh"
    REPLAY = "replay"
    """A refresh token was used a second time, and its session has ended."""
    END_SESSION = "end_session"
    END_ALL_SESSIONS = "end_all_sessions"
    APPROVE_DEVICE = "approve_device"
    DENY_DEVICE = "deny_device"
    MAKE_USER = "make_user"
    CHANGE_USER = "change_user"
    RECOVER_USER = "recover_user"
    """By an operator with access to Valkey, past all relays."""
    DELETE_USER = "delete_user"
    IMPORT_USER = "import_user"
    MAKE_KEY = "make_key"
    REVOKE_KEY = "revoke_key"
    GRANT = "grant"
    TAKE_BACK = "take_back"
    MAKE_TOPIC = "make_topic"
    CHANGE_TOPIC = "change_topic"
    DELETE_TOPIC = "delete_topic"


class Kind(enum.StrEnum):
    """What a target is."""

    USER = "user"
    SESSION = "session"
    KEY = "key"
    TOPIC = "topic"


_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_USER = re.compile(_UUID)
_JTI = re.compile(r"[0-9a-f]{32}")
_KEY = re.compile(r"[0-9a-f]{16}")
_GRANTEE = re.compile(rf"{_UUID}|public|users")
# What ids look like. No token and no secret looks like one.
_TARGETS = {
    Kind.USER: _USER,
    Kind.SESSION: re.compile(_UUID),
    Kind.KEY: _KEY,
    Kind.TOPIC: re.compile(rf"{_UUID}/[A-Za-z0-9_-]{{1,255}}"),
}


@dataclass(frozen=True, slots=True)
class Actor:
    """Who did it, and from where; all None for somebody nobody knows, or the relay itself."""

    user_id: str | None = None
    key_id: str | None = None
    jti: str | None = None
    """Of the access token it was done with."""
    address: str | None = None

    @classmethod
    def of(cls, principal: Principal | None, address: str | None) -> Actor:
        if principal is None:
            return cls(address=address)
        key_id = None if principal.key is None else principal.key.key_id
        jti = None if principal.token is None else principal.token.jti
        return cls(principal.user.user_id, key_id, jti, address)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """ValueError where it holds anything that is not an id or a word of ours."""

    deed: Deed
    actor: Actor
    kind: Kind | None = None
    target: str | None = None
    """The id of what it was done to; `<owner id>/<topic>` of a topic."""
    error: str | None = None
    """The row of the error table that refused it; None if it was done."""
    fields: Sequence[str] = ()
    """What was changed, by name."""
    permissions: Sequence[str] = ()
    """What was given, or is left."""
    grantee: str | None = None
    """The id of who was granted something, or `public`, or `users`."""

    def __post_init__(self) -> None:
        if (self.kind is None) != (self.target is None):
            raise ValueError("an audit record holds a target with its kind")
        actor = self.actor
        ids = [(_USER, actor.user_id), (_KEY, actor.key_id), (_JTI, actor.jti), (_GRANTEE, self.grantee)]
        if self.kind is not None:
            ids.append((_TARGETS[self.kind], self.target))
        if not all(one is None or form.fullmatch(one) for form, one in ids):
            raise ValueError("an audit record holds ids only")
        if not FIELDS.issuperset(self.fields) or not set(PERMISSIONS).issuperset(self.permissions):
            raise ValueError("an audit record holds names of fields and permissions only")
        if self.error is not None and self.error not in ERRORS:
            raise ValueError("an audit record holds codes of errors only")

    def as_fields(self, at_ms: int) -> dict[str, str | int]:
        """What there is to say, flat, each a short text; without what there is not."""
        told: dict[str, str | int | None] = {
            "at_ms": at_ms,
            "deed": self.deed.value,
            "outcome": "done" if self.error is None else "refused",
            "error": self.error,
            "user_id": self.actor.user_id,
            "key_id": self.actor.key_id,
            "jti": self.actor.jti,
            "address": self.actor.address,
            "kind": self.kind and self.kind.value,
            "target": self.target,
            "fields": ",".join(self.fields) or None,
            "permissions": ",".join(self.permissions) or None,
            "grantee": self.grantee,
        }
        return {name: value for name, value in told.items() if value is not None}


class AuditTopic(Protocol):
    """Where records can be subscribed to."""

    def add(self, payload: bytes) -> None:
        """Publish the record, a JSON object, some time soon. Returns at once, and raises nothing: what cannot
        be published is in the log.
        """


class AuditLog:
    """The one writer of audit records: to the log, whatever its level, and to a topic if there is one. Counts
    what was done and what was refused, by deed.
    """

    def __init__(self, now_ms: Callable[[], int], topic: AuditTopic | None = None) -> None:
        self._now_ms = now_ms
        self._topic = topic
        # From 0: a series that begins with its first refusal has no rate that an alert could see.
        self.done: Counter[str] = Counter(dict.fromkeys(map(str, Deed), 0))
        self.refused: Counter[str] = Counter(dict.fromkeys(map(str, Deed), 0))

    def write(self, record: AuditRecord) -> None:
        fields = record.as_fields(self._now_ms())
        (self.done if record.error is None else self.refused)[record.deed.value] += 1
        logger.info("audit: %s %s", fields["deed"], fields["outcome"], extra={"audit": True, **fields})
        if self._topic is not None:
            self._topic.add(msgspec.json.encode(fields))
