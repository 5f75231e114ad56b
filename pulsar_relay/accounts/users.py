"""Users: who has an account, in Valkey. Whatever changes one is a script: all of it happens, or nothing.

A change says what it was made from, and is made again if that is no longer what is there. So two that come at
the same time both hold, and what was read a while ago is never written back.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import msgspec

from actors.ports import StoreError
from pulsar_relay.accounts import schema
from pulsar_relay.accounts.passwords import Passwords
from pulsar_relay.accounts.user import UNSET, FederatedIdentity, NewUser, User, UserPatch, wrong_password
from pulsar_relay.errors import RelayError
from pulsar_relay.store.client import Client, Script
from pulsar_relay.store.link import Word

logger = logging.getLogger(__name__)

ATTEMPTS = 20
"""How often a change is made again; each time somebody else's was made."""
PACKAGE = "pulsar_relay.accounts"


@dataclass(frozen=True, slots=True)
class UserPage:
    """`next_after` is where the next page begins; None if there is none."""

    users: Sequence[User]
    next_after: str | None


class Users:
    """Raises StoreError, and RelayError where the docstring says so.

    `settle` is awaited after each change: it returns when this worker goes by it.
    """

    def __init__(
        self,
        client: Client,
        passwords: Passwords,
        now_ms: Callable[[], int],
        settle: Callable[[], Awaitable[None]],
    ) -> None:
        self._client = client
        self._passwords = passwords
        self._now_ms = now_ms
        self._settle = settle
        self._create = Script("create_user", PACKAGE)
        self._change = Script("change_user", PACKAGE)
        self._delete = Script("delete_user", PACKAGE)

    # Finding

    async def find(self, user_id: str) -> User | None:
        text = await self._client.command("HGET", schema.USERS, user_id)
        return None if text is None else _decoded(text)

    async def find_by_name(self, username: str) -> User | None:
        """Names are compared as they are written."""
        return await self._indexed(schema.NAMES, username)

    async def find_federated(self, identity: FederatedIdentity) -> User | None:
        return await self._indexed(schema.FEDERATED, identity.key)

    async def count(self) -> int:
        return int(await self._client.command("HLEN", schema.USERS))

    async def page(self, after: str = "", limit: int = 100) -> UserPage:
        """Users whose names come after `after`, in the order of their names' bytes. A user that is made or
        deleted meanwhile may be in it or not.
        """
        first = b"(" + after.encode() if after else b"-"
        words = ("ZRANGE", schema.NAME_ORDER, first, "+", "BYLEX", "LIMIT", 0, limit + 1)
        names = await self._client.command(*words)
        listed = names[:limit]
        if not listed:
            return UserPage((), None)
        ids = [one for one in await self._client.command("HMGET", schema.NAMES, *listed) if one is not None]
        texts = await self._client.command("HMGET", schema.USERS, *ids) if ids else []
        users = [_decoded(text) for text in texts if text is not None]
        return UserPage(users, listed[-1].decode() if len(names) > limit else None)

    async def _indexed(self, index: str, name: str) -> User | None:
        try:
            user_id = await self._client.command("HGET", index, name.encode())
        except UnicodeEncodeError:
            return None  # nobody can have such a name
        return None if user_id is None else await self.find(user_id.decode())

    # Making, changing, deleting

    async def create(self, new: NewUser, password: str | None = None) -> User:
        """RelayError `user_exists` where the name, or the federated identity, is somebody's: of several that
        want it at the same time one gets it.
        """
        encoded = ""
        if password is not None:
            _check_password(password)
            encoded = await self._passwords.hash(password)
        user = new.user(self._now_ms())
        if await self.add(user, encoded) != "made":
            raise RelayError("user_exists")
        await self._settle()
        return user

    async def add(self, user: User, encoded: str, *, is_import: bool = False) -> str:
        """Store a user with an id of its own; the reply of create_user.lua."""
        keys = [
            *(schema.USERS, schema.PASSWORDS, schema.NAMES, schema.NAME_ORDER, schema.FEDERATED),
            *(schema.IMPORTED, schema.CHANGES),
        ]
        args: list[Word] = [
            *(user.user_id, user.encode(), user.username, _identity(user), encoded, int(is_import)),
            *(schema.CHANGED, secrets.token_hex(8)),
        ]
        reply: bytes = await self._create.run_as_append(self._client, keys, args)
        return reply.decode()

    async def patch(self, user_id: str, patch: UserPatch) -> User:
        """The user as it is then. RelayError `user_not_found`."""
        encoded = "" if patch.password is UNSET else await self._passwords.hash(patch.password)

        async def attempt(user: User, text: bytes) -> User | None:
            changed = patch.applied_to(user)
            ends = patch.ends_sessions_of(user)
            return changed if await self._write(user, text, changed, encoded, ends_sessions=ends) else None

        changed = await self._until_done(user_id, attempt)
        await self._settle()
        return changed

    async def end_all(self, user_id: str) -> User:
        """End all the user has open: sessions, access tokens, connections. RelayError `user_not_found`."""

        async def attempt(user: User, text: bytes) -> User | None:
            changed = msgspec.structs.replace(user, generation=user.generation + 1)
            return changed if await self._write(user, text, changed, "", ends_sessions=True) else None

        changed = await self._until_done(user_id, attempt)
        await self._settle()
        return changed

    async def delete(self, user_id: str) -> User:
        """With password, sessions, API keys and grants. RelayError `user_not_found`."""

        async def attempt(user: User, text: bytes) -> User | None:
            keys = [
                *(schema.USERS, schema.PASSWORDS, schema.NAMES, schema.NAME_ORDER, schema.FEDERATED),
                *(schema.sessions(user_id), schema.spare(user_id), schema.API_KEYS, schema.API_KEY_USES),
                *(schema.api_keys_of(user_id), schema.GRANTS, schema.grants_of(user_id), schema.CHANGES),
            ]
            args: list[Word] = [
                *(user_id, text, user.username, _identity(user)),
                *(schema.CHANGED, secrets.token_hex(8)),
            ]
            return user if await self._delete.run_as_append(self._client, keys, args) else None

        deleted = await self._until_done(user_id, attempt)
        await self._settle()
        return deleted

    async def _until_done(
        self, user_id: str, attempt: Callable[[User, bytes], Awaitable[User | None]]
    ) -> User:
        for _ in range(ATTEMPTS):
            text = await self._client.command("HGET", schema.USERS, user_id)
            if text is None:
                raise RelayError("user_not_found")
            done = await attempt(_decoded(text), text)
            if done is not None:
                return done
        raise RelayError("overloaded", "This user is changed too often at the same time.")

    async def _write(
        self, user: User, text: bytes, changed: User, encoded: str, *, ends_sessions: bool
    ) -> bool:
        user_id = user.user_id
        keys = [
            *(schema.USERS, schema.PASSWORDS),
            *(schema.sessions(user_id), schema.spare(user_id), schema.CHANGES),
        ]
        args: list[Word] = [
            *(user_id, text, text if changed == user else changed.encode(), encoded, int(ends_sessions)),
            *(schema.CHANGED, secrets.token_hex(8)),
        ]
        return bool(await self._change.run_as_append(self._client, keys, args))

    # Signing in

    async def check_password(self, username: str, password: str) -> User:
        """The user of this name, if that is the password. RelayError `wrong_password` if it is not,
        `overloaded` where too many ask, `user_inactive` for the right one of an account that is closed.

        Takes as long for a name that is nobody's, or that has no password.
        """
        name = username.encode("utf-8", "surrogatepass")
        # Of nobody the same is asked as of somebody.
        user_id = await self._client.command("HGET", schema.NAMES, name) or b"nobody"
        # The user before the password: who changes that changes both, and notices if the user is another.
        text = await self._client.command("HGET", schema.USERS, user_id)
        encoded = await self._client.command("HGET", schema.PASSWORDS, user_id)
        encoded_text = None if encoded is None else encoded.decode()
        matches = await self._passwords.verify(encoded_text, password)
        if not matches or text is None or encoded_text is None:
            raise RelayError("wrong_password")
        user = _decoded(text)
        if not user.is_active:
            raise RelayError("user_inactive")
        if self._passwords.is_outdated(encoded_text):
            await self._hash_anew(user, text, password)
        return user

    async def _hash_anew(self, user: User, text: bytes, password: str) -> None:
        """Where it cannot be done now, the next login does it."""
        try:
            encoded = await self._passwords.hash(password)
            await self._write(user, text, user, encoded, ends_sessions=False)
        except (RelayError, StoreError) as error:
            logger.info("accounts: a password is not hashed anew yet (%s)", error.code)


def _check_password(password: str) -> None:
    wrong = list(wrong_password(password))
    if wrong:
        raise RelayError("invalid_request", errors=wrong)


def _identity(user: User) -> str:
    return "" if user.federated is None else user.federated.key


def _decoded(text: bytes) -> User:
    try:
        return User.decode(text)
    except msgspec.DecodeError as error:
        raise StoreError("store_damaged", "a user cannot be read") from error
