"""Roster: a worker's own complete copy of what decides who may do what, so that no request asks Valkey.

    changes.lua ──▶ _apply ──▶ users, denied, api_keys, grants ──▶ Authenticator
       ▲  each second, and at once when another worker gives the hint
       │  nil: what lies between cannot be told ──▶ everything is read anew

The stream of changes is the truth, the hint over the feed only makes it quick. Each answer confirms the copy
as it was when the question left. A copy that was not confirmed for five seconds is not gone by: somebody may
have been shut out meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import msgspec

from actors.ports import StoreError
from pulsar_relay.accounts import schema
from pulsar_relay.accounts.access import Grant
from pulsar_relay.accounts.api_key import ApiKey
from pulsar_relay.accounts.user import User
from pulsar_relay.errors import RelayError
from pulsar_relay.store.client import Client, Script
from pulsar_relay.store.link import Word

logger = logging.getLogger(__name__)

T = TypeVar("T")

CONFIRM_SECONDS, RETRY_SECONDS = 1.0, 0.2
CONFIRMED_SECONDS = 5.0
CHANGES_AT_ONCE = 200
READ_AT_ONCE = 500
FORGET_SECONDS = 60.0

_KEYS: Final = (schema.CHANGES, schema.USERS, schema.DENIED, schema.API_KEYS, schema.GRANTS)
_BEGINNING: Final = (b"0-0", b"")


class Roster:
    """`clock` is monotonic, `now` the clock on the wall; both in seconds. All belong to one loop."""

    def __init__(self, client: Client, clock: Callable[[], float], now: Callable[[], float]) -> None:
        self._client = client
        self._clock = clock
        self._now = now
        self._changes = Script("changes", "pulsar_relay.accounts")
        self.users: dict[str, User] = {}
        self.denied: dict[str, float] = {}
        """By jti, when the token expires, Unix seconds."""
        self.api_keys: dict[str, ApiKey] = {}
        self.grants: dict[str, Grant] = {}
        """By `<owner id>/<topic>`."""
        self._position: tuple[bytes, bytes] | None = None
        self._confirmed_at = self._asked_at = float("-inf")
        self._forgotten_at = float("-inf")
        self._turn = asyncio.Lock()
        self._hinted = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []
        self._task: asyncio.Task[None] | None = None
        self._is_failing = False

    @property
    def is_confirmed(self) -> bool:
        """Whether it is what it was in Valkey at some moment of the last five seconds."""
        return self._clock() - self._confirmed_at <= CONFIRMED_SECONDS

    def require_confirmed(self) -> None:
        """RelayError `accounts_unconfirmed` unless it is."""
        if not self.is_confirmed:
            raise RelayError("accounts_unconfirmed")

    def listen(self, on_change: Callable[[], None]) -> None:
        """`on_change` is called whenever something is different; it must not raise."""
        self._listeners.append(on_change)

    def start(self) -> None:
        """Read everything, and go on with what changes. Returns at once."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="roster")

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def hint(self, _: bytes = b"") -> None:
        """Something has changed. May be said too often."""
        self._hinted.set()

    async def settle(self) -> None:
        """As `refresh`, where what was changed is stored, and this worker may learn it a little later."""
        with contextlib.suppress(StoreError):
            await self.refresh()

    async def refresh(self) -> None:
        """Returns when everything that was changed before the call is in the copy. Raises StoreError."""
        called_at = self._clock()
        async with self._turn:
            if self._confirmed_at > called_at:
                return  # a question that left after the call was answered while it waited for its turn
            if self._position is None or not await self._follow():
                await self._read_anew()
                while not await self._follow():
                    await self._read_anew()
            self._confirmed_at = self._asked_at

    async def _run(self) -> None:
        while True:
            self._hinted.clear()
            try:
                await self.refresh()
            except StoreError as error:
                self._note_failure(error)
            else:
                self._is_failing = False
            self._forget_expired()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_SECONDS if self._is_failing else CONFIRM_SECONDS):
                    await self._hinted.wait()

    def _note_failure(self, error: StoreError) -> None:
        if not self._is_failing:
            logger.warning("accounts: what changes cannot be followed (%s), trying again", error.code)
        self._is_failing = True

    # What has changed

    async def _follow(self) -> bool:
        """False if it must be read anew."""
        assert self._position is not None
        while True:
            self._asked_at = self._clock()
            args: list[Word] = [*self._position, CHANGES_AT_ONCE]
            reply = await self._changes.run(self._client, _KEYS, args)
            if reply is None:
                return False
            last, token, count, told = reply
            for kind, name, value in zip(told[::3], told[1::3], told[2::3], strict=True):
                self._apply(kind.decode(), name.decode(), value)
            self._position = last, token
            if told:
                self._tell()
            if count < CHANGES_AT_ONCE:
                return True

    def _apply(self, kind: str, name: str, value: bytes | None) -> None:
        match kind:
            case "user":
                _put(self.users, name, _decoded(User.decode, name, value))
            case "denied":
                _put(self.denied, name, None if value is None else float(value))
            case "api-key":
                _put(self.api_keys, name, _decoded(ApiKey.decode, name, value))
            case "grant":
                _put(self.grants, name, _decoded(Grant.decode, name, value))
            case _:
                # Of a later version of the relay, which runs beside this one.
                logger.warning("accounts: a change of an unknown kind: %s", kind)

    # Everything

    async def _read_anew(self) -> None:
        """What changes meanwhile is told afterwards, so it need not be of one moment."""
        latest = await self._client.command("XREVRANGE", schema.CHANGES, "+", "-", "COUNT", 1)
        position = (latest[0][0], latest[0][1][5]) if latest else _BEGINNING
        users = await self._read_hash(schema.USERS, User.decode)
        api_keys = await self._read_hash(schema.API_KEYS, ApiKey.decode)
        grants = await self._read_hash(schema.GRANTS, Grant.decode)
        denied = {name: float(score) async for name, score in self._scan("ZSCAN", schema.DENIED)}
        # What is equal stays the same object: who goes by one need not look it up again.
        self.users = _kept(self.users, users)
        self.api_keys = _kept(self.api_keys, api_keys)
        # Who was shut out stays it, also where the store has lost that.
        self.grants, self.denied, self._position = grants, self.denied | denied, position
        logger.info("accounts: read all of %d users", len(users))
        self._tell()

    async def _read_hash(self, key: str, decode: Callable[[bytes], T]) -> dict[str, T]:
        found: dict[str, T] = {}
        async for name, value in self._scan("HSCAN", key):
            decoded = _decoded(decode, name, value)
            if decoded is not None:
                found[name] = decoded
        return found

    async def _scan(self, word: str, key: str) -> Any:
        cursor: Any = 0
        while True:
            cursor, flat = await self._client.command(word, key, cursor, "COUNT", READ_AT_ONCE)
            for name, value in zip(flat[::2], flat[1::2], strict=True):
                yield name.decode(), value
            if not int(cursor):
                return

    def _forget_expired(self) -> None:
        if self._clock() - self._forgotten_at >= FORGET_SECONDS:
            self._forgotten_at = self._clock()
            now = self._now()
            self.denied = {jti: expires_at for jti, expires_at in self.denied.items() if expires_at > now}

    def _tell(self) -> None:
        for on_change in self._listeners:
            on_change()


def _decoded(decode: Callable[[bytes], T], name: str, value: bytes | None) -> T | None:
    """None also for what cannot be read: nobody can be that user, and nothing is granted by it."""
    try:
        return None if value is None else decode(value)
    except msgspec.DecodeError:
        logger.error("accounts: what is kept of %s cannot be read", name)  # noqa: TRY400
        return None


def _put(copy: dict[str, T], name: str, value: T | None) -> None:
    if value is None:
        copy.pop(name, None)
    else:
        copy[name] = value


def _kept(before: Mapping[str, T], found: Mapping[str, T]) -> dict[str, T]:
    return {name: before[name] if before.get(name) == value else value for name, value in found.items()}
