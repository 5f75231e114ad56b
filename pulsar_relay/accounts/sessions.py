"""Sessions: what somebody has who signed in, a chain of refresh tokens of which one is good at a time.

    open ──▶ 0 ──use──▶ 1 ──use──▶ 2 ...     each makes the next, and is good no more
             │          │
             │          └─ the one before the current, used again within the grace: the current once more
             └─ any older, or after the grace: stolen, by this user or that. The session ends

A session is over when it is not among its user's sessions any more, whatever else is left of it: so a user's
sessions all end by one key, in the script that closes the account.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pulsar_relay.accounts import schema
from pulsar_relay.accounts.refresh_secrets import RefreshSecrets, digest
from pulsar_relay.accounts.user import User
from pulsar_relay.accounts.users import Users
from pulsar_relay.errors import RelayError
from pulsar_relay.settings import AuthSettings
from pulsar_relay.store.client import Client, Script
from pulsar_relay.store.link import Word

ATTEMPTS = 20
LISTED = 1000
HINT_LENGTH = 200
LONGEST = 300
"""Characters of a refresh token; ours have 80."""
SECONDARY = "-secondary"


@dataclass(frozen=True, slots=True)
class Session:
    """As its user may see it; times are Unix milliseconds."""

    jti: str
    issued_at_ms: int
    used_at_ms: int | None
    expires_at_ms: int
    hint: str


@dataclass(frozen=True, slots=True)
class FormerToken:
    """A refresh token of another server's that was rotated there; `digest` is the SHA-256 of its secret."""

    jti: str
    digest: str
    expires_at_ms: int


@dataclass(frozen=True, slots=True)
class ForeignSession:
    """A chain of refresh tokens of another server's: the one that is good, and those before it."""

    user_id: str
    current: FormerToken
    issued_at_ms: int
    hint: str
    is_spare: bool
    """Whether it is of a password login, and nothing was rotated yet."""
    former: Sequence[FormerToken] = ()


class ReplayError(RelayError):
    """A refresh token was used again: somebody else may have it. The session is over; its bearer is told no
    more than of any token that is worth nothing.
    """

    def __init__(self, jti: str) -> None:
        super().__init__("invalid_refresh_token")
        self.jti = jti


class Sessions:
    """Raises StoreError, and RelayError where the docstring says so. `now_ms` is the clock on the wall."""

    def __init__(
        self,
        client: Client,
        users: Users,
        secrets: RefreshSecrets,
        settings: AuthSettings,
        now_ms: Callable[[], int],
    ) -> None:
        self._client = client
        self._users = users
        self._secrets = secrets
        self._settings = settings
        self._now_ms = now_ms
        self._open = Script("open_session", "pulsar_relay.accounts")
        self._rotate = Script("rotate", "pulsar_relay.accounts")

    @property
    def _lifetime_ms(self) -> int:
        return int(self._settings.refresh_token_ttl_seconds * 1000)

    async def open(self, user: User, hint: str, *, is_spare: bool = False) -> str:
        """A refresh token for who has just proved to be this user. `is_spare` for a password login, which can
        be repeated: of these only some are kept.

        RelayError `token_revoked` if the account was changed since in a way that ends sessions,
        `user_inactive`, `user_unknown`.
        """
        jti, now_ms = str(uuid.uuid4()), self._now_ms()
        secret = self._secrets.make(jti, 0)
        fields: list[Word] = ["user", user.user_id, "number", 0, "digest", digest(secret)]
        fields += ["issued_at", now_ms, "hint", _shown(hint)]
        expires_at_ms = now_ms + self._lifetime_ms
        reply = await self._store(
            user.user_id, str(user.generation), jti, expires_at_ms, fields, is_spare=is_spare
        )
        refusals = {b"no user": "user_unknown", b"inactive": "user_inactive", b"changed": "token_revoked"}
        if reply in refusals:
            raise RelayError(refusals[reply])
        return f"{jti}.{secret}"

    async def open_pair(self, user: User, hint: str) -> tuple[str, str]:
        """Two refresh tokens that know nothing of each other: a replay of one ends one. As `open`."""
        return await self.open(user, hint), await self.open(user, _shown(hint) + SECONDARY)

    async def refresh(self, text: str) -> tuple[User, str]:
        """The user, and the token that takes the place of this one. RelayError `invalid_refresh_token`.

        ReplayError, a RelayError of the same code, where it was used before and so the session is over.
        Who is not told, because the answer is lost, asks again within the grace and is told the same.
        """
        jti, shown = _halves(text, "invalid_refresh_token")
        for _ in range(ATTEMPTS):
            kept = await self._client.command(
                "HMGET", schema.session(jti), "user", "number", "chain", "digest"
            )
            user_id, number, chain, kept_digest = [None if one is None else one.decode() for one in kept]
            if chain is not None and kept_digest == digest(shown):
                await self._end_chain(chain)
                raise ReplayError(chain)
            if user_id is None or number is None:
                break
            # Before the session is looked at: of an account that is changed after that, the access token is
            # of the generation before, and worth nothing.
            user = await self._users.find(user_id)
            if user is None or not user.is_active:
                break
            what, *current = await self._use(jti, shown, user_id, int(number))
            if what == b"changed":
                continue
            if what in (b"rotated", b"again"):
                secret = self._secrets.again(jti, int(current[0]), current[1].decode())
                if secret is not None:
                    return user, f"{jti}.{secret}"
            if what == b"ended":
                raise ReplayError(jti)
            break
        raise RelayError("invalid_refresh_token")

    async def _use(self, jti: str, shown: str, user_id: str, number: int) -> Sequence[bytes]:
        """The reply of rotate.lua."""
        known = self._secrets.number_of(jti, shown)
        origin = "" if known is None or known == number else "older" if known < number else "ahead"
        successor = max(number, known or 0) + 1
        now_ms = self._now_ms()
        args: list[Word] = [jti, digest(shown), digest(self._secrets.make(jti, successor)), number, successor]
        args += [now_ms, now_ms + self._lifetime_ms, int(self._settings.refresh_grace_seconds * 1000), origin]
        keys = [schema.session(jti), schema.sessions(user_id), schema.spare(user_id)]
        reply: Sequence[bytes] = await self._rotate.run_as_append(self._client, keys, args)
        return reply

    # Ending

    async def revoke(self, text: str, *, whole_chain: bool) -> None:
        """End the session of this token, if it is the current one, or, with `whole_chain`, was one; of a
        token that never was nothing happens. RelayError `malformed_refresh_token`.
        """
        jti, shown = _halves(text, "malformed_refresh_token")
        kept = await self._client.command("HMGET", schema.session(jti), "user", "digest", "before", "chain")
        user_id, current, before, chain = [None if one is None else one.decode() for one in kept]
        is_current = current == digest(shown)
        if chain is not None:
            if is_current and whole_chain:
                await self._end_chain(chain)
        elif user_id is not None:
            was_good = before == digest(shown) or self._secrets.number_of(jti, shown) is not None
            if is_current or (whole_chain and was_good):
                await self._end(user_id, jti)

    async def end(self, user_id: str, jti: str) -> None:
        """End this session of the user's; one that is over may be ended again. RelayError `session_not_found`
        for one that is unknown, or somebody else's.
        """
        owner = await self._client.command("HGET", schema.session(jti), "user")
        if owner is None or owner.decode() != user_id:
            raise RelayError("session_not_found")
        await self._end(user_id, jti)

    async def _end(self, user_id: str, jti: str) -> None:
        await asyncio.gather(
            self._client.appends.call("ZREM", schema.sessions(user_id), jti),
            self._client.appends.call("ZREM", schema.spare(user_id), jti),
        )

    async def _end_chain(self, jti: str) -> None:
        user_id = await self._client.command("HGET", schema.session(jti), "user")
        if user_id is not None:
            await self._end(user_id.decode(), jti)

    async def list(self, user_id: str) -> Sequence[Session]:
        """Those that go on, the one used last first, at most a thousand."""
        now = f"({self._now_ms()}"
        words = ("ZRANGE", schema.sessions(user_id), "+inf", now, "BYSCORE", "REV", "LIMIT", 0, LISTED)
        ids = [jti.decode() for jti in await self._client.command(*words)]
        fields = ("issued_at", "used_at", "hint")
        found = await asyncio.gather(
            *[self._client.command("HMGET", schema.session(jti), *fields) for jti in ids],
            *[self._client.command("ZSCORE", schema.sessions(user_id), jti) for jti in ids],
        )
        sessions = []
        for jti, kept, expires_at_ms in zip(ids, found[: len(ids)], found[len(ids) :], strict=True):
            issued_at, used_at, hint = kept
            # It may have expired, or ended, since the list was read.
            if issued_at is not None and expires_at_ms is not None:
                used_at_ms = None if used_at is None else int(used_at)
                times = int(issued_at), used_at_ms, int(float(expires_at_ms))
                sessions.append(Session(jti, *times, hint.decode("utf-8", "replace")))
        return sessions

    # Taking over

    async def take_over(self, foreign: ForeignSession) -> str:
        """Go on with a chain of another server's: its tokens stay good, or a sign of theft. Idempotent: one
        that was taken over before is left as it is now, also if that is ended. What became of it: `opened`,
        `before`, or why not: `no user`, `inactive`, `expired`.
        """
        current, now_ms = foreign.current, self._now_ms()
        if current.expires_at_ms <= now_ms:
            return "expired"
        fields: list[Word] = ["user", foreign.user_id, "number", 0, "digest", current.digest]
        fields += ["issued_at", foreign.issued_at_ms, "hint", _shown(foreign.hint)]
        # Those before it first: without them the import could not be repeated.
        for former in foreign.former:
            if former.expires_at_ms > now_ms:
                key = schema.session(former.jti)
                await self._client.command("HSET", key, "chain", current.jti, "digest", former.digest)
                await self._client.command("PEXPIREAT", key, former.expires_at_ms)
        mark = f"session:{current.jti}"
        reply = await self._store(
            foreign.user_id,
            "",
            current.jti,
            current.expires_at_ms,
            fields,
            is_spare=foreign.is_spare,
            mark=mark,
        )
        return reply.decode()

    async def _store(
        self,
        user_id: str,
        generation: str,
        jti: str,
        expires_at_ms: int,
        fields: Sequence[Word],
        *,
        is_spare: bool,
        mark: str = "",
    ) -> bytes:
        """The reply of open_session.lua."""
        settings = self._settings
        keys = [schema.session(jti), schema.sessions(user_id), schema.spare(user_id)]
        keys += [schema.USERS, schema.IMPORTED]
        most_spare = settings.max_spare_sessions_per_user if is_spare else ""
        args: list[Word] = [user_id, generation, jti, self._now_ms(), expires_at_ms]
        args += [settings.max_sessions_per_user, most_spare, mark, *fields]
        reply: bytes = await self._open.run_as_append(self._client, keys, args)
        return reply


def _halves(text: str, code: str) -> tuple[str, str]:
    jti, dot, secret = text.partition(".")
    if not (jti and dot and secret) or len(text) > LONGEST or not text.isascii():
        raise RelayError(code)
    return jti, secret


def _shown(hint: str) -> str:
    """As much of what a client says of itself as is kept and shown."""
    cut = hint[:HINT_LENGTH]
    return "".join(character if character.isprintable() else "?" for character in cut)
