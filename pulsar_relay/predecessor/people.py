"""People: the predecessor's users, and what they have open, made into ours. Pure, but for `PeopleMigration`.

A session is a chain of refresh tokens there, of which one is good at most. Those whose chain was ended stay
ended; what is spent of the others still tells of a theft here.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pulsar_relay.accounts import schema
from pulsar_relay.accounts.denied_tokens import KEPT_SECONDS
from pulsar_relay.accounts.imports import Imports
from pulsar_relay.accounts.sessions import ForeignSession, FormerToken
from pulsar_relay.accounts.user import PERMISSIONS, FederatedIdentity, User
from pulsar_relay.predecessor.migration import LeftOut
from pulsar_relay.predecessor.source import Source
from pulsar_relay.store.client import Client, Script
from pulsar_relay.store.link import Word

PASSWORD_LOGIN = "password-login"  # noqa: S105 - it is what a login by password is called
BEFORE = frozenset({"before"})
NOT_TAKEN = {
    "name": "its name is somebody else's here: delete that user, and repeat this",
    "identity": "it signs in as somebody else does here",
    "no user": "its user is not here",
    "inactive": "its user's account is closed",
    "expired": "has expired",
}
Record = Mapping[str, str]


@dataclass(slots=True)
class People:
    """`passwords` are hashes by user id; of `denied` the value is how many more milliseconds."""

    users: list[User] = field(default_factory=list)
    passwords: dict[str, str] = field(default_factory=dict)
    sessions: list[ForeignSession] = field(default_factory=list)
    denied: dict[str, int] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)


@dataclass(slots=True)
class Taken:
    """How many were taken over now, and how many were before."""

    users: int = 0
    sessions: int = 0
    denied: int = 0
    before: int = 0
    left_out: list[LeftOut] = field(default_factory=list)
    made: list[User] = field(default_factory=list)
    """The users that were taken over now."""


class PeopleMigration:
    """From `source` by `imports` to the store of `target`. Raises StoreError."""

    def __init__(self, source: Source, imports: Imports, target: Client) -> None:
        self._source = source
        self._imports = imports
        self._target = target
        self._deny = Script("deny", "pulsar_relay.accounts")

    async def plan(self) -> People:
        people = People()
        for user_id, record in (await self._source.users()).items():
            try:
                user, others = user_of(user_id, record)
            except (KeyError, ValueError):
                people.left_out.append(LeftOut(f"user {user_id}", "cannot be read"))
                continue
            people.users.append(user)
            people.left_out += [
                LeftOut(f"user {user.username}", f"signs in by {one} no more") for one in others
            ]
            if record.get("hashed_password"):
                people.passwords[user_id] = record["hashed_password"]
        ids = {user.user_id for user in people.users}
        sessions = sessions_of((await self._source.refresh_tokens()).items())
        people.sessions = [session for session in sessions if session.user_id in ids]
        people.denied = dict(await self._source.denied_tokens())
        return people

    async def conflicts(self, people: People) -> list[LeftOut]:
        """Whom `run` would leave out, as their names are others' here."""
        found = []
        for user in people.users:
            holder = await self._target.command("HGET", schema.NAMES, user.username)
            mark = f"user:{user.user_id}"
            if holder is None or holder.decode() == user.user_id:
                continue
            if not await self._target.command("SISMEMBER", schema.IMPORTED, mark):
                found.append(LeftOut(f"user {user.username}", NOT_TAKEN["name"]))
        return found

    async def run(self, people: People, now: float) -> Taken:
        """May be repeated: who was taken over is left as they are now. `now` in Unix seconds."""
        taken = Taken()
        for user in people.users:
            try:
                outcome = await self._imports.user(user, people.passwords.get(user.user_id))
            except ValueError as error:
                taken.left_out.append(LeftOut(f"user {user.username}", str(error)))
                continue
            if self._counted(taken, outcome, "made", f"user {user.username}"):
                taken.users += 1
                taken.made.append(user)
        for session in people.sessions:
            outcome = await self._imports.session(session)
            taken.sessions += self._counted(taken, outcome, "opened", f"session {session.current.jti}")
        for jti, milliseconds in people.denied.items():
            await self._deny_token(jti, now + milliseconds / 1000, now)
            taken.denied += 1
        return taken

    @staticmethod
    def _counted(taken: Taken, outcome: str, done: str, what: str) -> bool:
        if outcome in NOT_TAKEN:
            taken.left_out.append(LeftOut(what, NOT_TAKEN[outcome]))
        taken.before += outcome in BEFORE
        return outcome == done

    async def _deny_token(self, jti: str, expires_at: float, now: float) -> None:
        args: list[Word] = [jti, int(expires_at) + 1, int(now) - KEPT_SECONDS, schema.CHANGED]
        await self._deny.run(self._target, [schema.DENIED, schema.CHANGES], [*args, secrets.token_hex(8)])


def user_of(user_id: str, record: Record) -> tuple[User, Sequence[str]]:
    """The user, and by which issuers they cannot sign in any more, as one is all there can be here. KeyError
    or ValueError for a record that cannot be read.
    """
    permissions = json.loads(record.get("permissions") or "[]")
    identities = json.loads(record.get("federated_identities") or "[]")
    if not isinstance(permissions, list) or not isinstance(identities, list) or not user_id:
        raise ValueError("is no user")
    federated = [FederatedIdentity(str(one["issuer"]), str(one["sub"])) for one in identities]
    user = User(
        user_id=user_id,
        username=record["username"],
        email=record.get("email") or None,
        permissions=tuple(one for one in PERMISSIONS if one in permissions),
        # Whatever cannot be read as open is closed.
        is_active=record.get("is_active", "").lower() == "true",
        created_at_ms=milliseconds(record["created_at"]),
        federated=federated[0] if federated else None,
    )
    return user, [one.issuer for one in federated[1:]]


def sessions_of(records: Iterable[tuple[str, Record]]) -> list[ForeignSession]:
    """The chains that have a token which is good, those that were issued first before the others."""
    tokens = {jti: record for jti, record in records if _is_whole(record)}
    sessions = []
    for jti, record in tokens.items():
        if record.get("revoked") == "1":
            continue
        former: list[FormerToken] = []
        parent = record.get("parent_jti", "")
        # The chain up to its root; a record that names itself as its parent ends it.
        while parent in tokens and parent not in {jti, *(one.jti for one in former)}:
            former.append(_former(parent, tokens[parent]))
            parent = tokens[parent].get("parent_jti", "")
        hint = record.get("client_hint", "")
        sessions.append(
            ForeignSession(
                user_id=record["user_id"],
                current=_former(jti, record),
                issued_at_ms=milliseconds(record["issued_at"]),
                hint=hint,
                is_spare=hint == PASSWORD_LOGIN and not record.get("parent_jti"),
                former=tuple(former),
            )
        )
    return sorted(sessions, key=lambda session: (session.issued_at_ms, session.current.jti))


def _is_whole(record: Record) -> bool:
    try:
        return bool(
            record["user_id"]
            and record["secret_hash"]
            and milliseconds(record["issued_at"])
            and milliseconds(record["expires_at"])
        )
    except (KeyError, ValueError):
        return False


def _former(jti: str, record: Record) -> FormerToken:
    return FormerToken(jti, record["secret_hash"], milliseconds(record["expires_at"]))


def milliseconds(text: str) -> int:
    """Unix milliseconds of a time as it is written there; some have no zone, and mean UTC. ValueError."""
    when = datetime.fromisoformat(text)
    return round((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000)
