"""Access: who may read and write which topic. Pure: what is there is not asked, so an answer cannot tell of
it.

Of a topic that is not one's own, and not granted, one learns the same as of a topic that does not exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import msgspec

from pulsar_relay.accounts.principal import Principal
from pulsar_relay.accounts.user import ADMIN, READ

SYSTEM = "system"
"""Whose the relay's own topics are. No user has this id, and admins alone may read them."""


class Grant(msgspec.Struct, frozen=True):
    """What an owner lets others do with one topic: `read`, `write`, or both."""

    public: frozenset[str] = frozenset()
    """What everybody may, also who has not signed in."""
    signed_in: frozenset[str] = frozenset()
    users: Mapping[str, frozenset[str]] = {}
    """By user id."""

    @classmethod
    def decode(cls, text: bytes) -> Self:
        return msgspec.json.decode(text, type=cls)

    def encode(self) -> bytes:
        return msgspec.json.encode(self, order="deterministic")

    @property
    def is_empty(self) -> bool:
        return not (self.public or self.signed_in or self.users)


NOTHING = Grant()


def refusal(principal: Principal | None, action: str, owner_id: str, topic: str, grant: Grant) -> str | None:
    """Why not, a row of the error table; None if the principal may. `principal` is None for who has not
    signed in, `grant` what the topic's owner has granted, NOTHING for a topic that nobody has heard of.

    Being an admin permits neither reading nor writing, but for the relay's own topics, which admins that have
    signed in may read and nobody may write.
    """
    if owner_id == SYSTEM:
        return _system_refusal(principal, action)
    if principal is not None and principal.key is not None and not principal.key.covers(owner_id, topic):
        return "key_out_of_scope"
    if action in grant.public and (
        principal is None or principal.key is None or action in principal.key.actions
    ):
        return None
    if principal is None:
        return "unauthenticated"
    if action not in principal.permissions:
        return "permission_required"
    user_id = principal.user.user_id
    if user_id == owner_id or action in grant.signed_in or action in grant.users.get(user_id, ()):
        return None
    return "topic_not_found"


def _system_refusal(principal: Principal | None, action: str) -> str | None:
    if principal is None:
        return "unauthenticated"
    # No key has the permission, whoever's it is.
    return None if action == READ and ADMIN in principal.permissions else "topic_not_found"


def may(principal: Principal | None, action: str, owner_id: str, topic: str, grant: Grant) -> bool:
    return refusal(principal, action, owner_id, topic, grant) is None
