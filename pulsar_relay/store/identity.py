"""StoreIdentity: whether Valkey still holds the store this relay knows.

That Valkey answers does not mean that our data is there: a lost manifest, a wrong directory, FLUSHALL or an
address that leads elsewhere all look like a healthy, empty server. So a store has an id, made with its first
relay, and a relay remembers the id of the first store it met. Each connection is asked for it before
anything else is sent, and a store that cannot be the same is refused: nothing is read from it or written.

    remembered   found in the store                  the connection is
    nothing      an id, or none: then one is made    admitted, the id remembered
    X            X                                   admitted
    X            Y, and that it succeeds X           admitted, Y remembered: an operator has accepted it
    X            Y, or none                          refused: store_foreign, store_empty
"""

from __future__ import annotations

import logging
import os
import re
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol
from weakref import WeakSet

from actors.ports import StoreError
from pulsar_relay.config import ConfigError
from pulsar_relay.store import schema
from pulsar_relay.store.refusals import STORE_EMPTY, STORE_FOREIGN

logger = logging.getLogger(__name__)

ID_BYTES = 12
ID_FORM = re.compile(r"[0-9a-f]{24}")

Ask = Callable[..., Awaitable[object]]
"""Sends one command and returns its reply; raises StoreError."""


class Severable(Protocol):
    def sever(self) -> None:
        """End the connection; who waits on it is told that it was lost."""


class Admission(Protocol):
    """Who decides whether a connection is to the right store."""

    async def admit(self, ask: Ask) -> None:
        """Raises StoreError if it is not."""

    async def check(self, ask: Ask) -> None:
        """The same for a store that was admitted before."""

    def watch(self, link: Severable) -> None:
        """The link was admitted; it is severed should that change."""


class StoreIdentity:
    """`file`, if there is one, keeps what is remembered over the relay's own restarts. Raises ConfigError if
    it cannot be used.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self.remembered = _read(file) if file is not None else None
        self._admitted: WeakSet[Severable] = WeakSet()
        self._told: str | None = None
        self.on_succeeded: Callable[[], None] = lambda: None
        """Called when another store, or part of one, has taken the place of the one remembered."""

    def start(self, on_succeeded: Callable[[], None]) -> None:
        """`on_succeeded` is called when another store has taken the place of the one remembered."""
        self.on_succeeded = on_succeeded

    async def admit(self, ask: Ask) -> None:
        """Ask a store who it is. Raises StoreError if it is not ours, or does not say."""
        if self.remembered is None:
            # A store that takes no writes now is given its id later; there is nothing to protect yet.
            with suppress(StoreError):
                await ask("HSETNX", schema.IDENTITY, schema.IDENTITY_ID, new_id())
        self.judge(await identity_of(ask))

    def watch(self, link: Severable) -> None:
        """The link was admitted; it is severed should its store become another one meanwhile."""
        self._admitted.add(link)

    async def check(self, ask: Ask) -> None:
        """As `admit`, for a store that was admitted before: FLUSHALL ends no connection."""
        try:
            await self.admit(ask)
        except StoreError as error:
            if error.code in (STORE_EMPTY, STORE_FOREIGN):
                for link in list(self._admitted):
                    link.sever()
            raise

    def judge(self, found: Identity) -> None:
        """Remember the store, or raise StoreError if it is not the one remembered."""
        known = self.remembered
        if known is None:
            if found.id:
                self._remember(found.id)
        elif found.id != known:
            if not found.id or known not in found.succeeds:
                raise self._refusal(known, found.id)
            self._remember(found.id)
            logger.warning("store: %s has taken the place of %s, as its operator accepted", found.id, known)
            self._told = None
            self.on_succeeded()
        elif self._told:
            logger.info("store: %s is back", known)
            self._told = None

    def _refusal(self, known: str, found: str) -> StoreError:
        code = STORE_FOREIGN if found else STORE_EMPTY
        if self._told != code + found:
            self._told = code + found
            logger.critical(
                "store: %s: Valkey holds %s, not the store %s that this relay knows. Nothing is read from it "
                "or written. Bring that store back, or go on with this one, without the messages it "
                "lacks: pulsar-relay store accept %s",
                code,
                f"the store {found}" if found else "a store without identity: it has lost its data",
                known,
                known,
            )
        return StoreError(code)

    def _remember(self, known: str) -> None:
        self.remembered = known
        if self._file is not None:
            try:
                _write(self._file, known)
            except OSError:
                logger.exception("store: its identity cannot be kept in %s", self._file)


class Identity:
    """What a store says of itself; `id` is empty if it has none."""

    def __init__(self, fields: dict[str, str]) -> None:
        self.id = fields.get(schema.IDENTITY_ID, "")
        prefix = schema.IDENTITY_SUCCEEDS
        self.succeeds = {
            name.removeprefix(prefix): value for name, value in fields.items() if name.startswith(prefix)
        }
        """The ids whose place it has taken, and since when."""
        self.is_marked = schema.IDENTITY_MARKED in fields
        """Whether all shards of the cluster were given their marks."""


async def identity_of(ask: Ask) -> Identity:
    words = await ask("HGETALL", schema.IDENTITY)
    assert isinstance(words, list)
    texts = [word.decode("utf-8", "replace") for word in words]
    return Identity(dict(zip(texts[::2], texts[1::2], strict=True)))


async def accept(ask: Ask, known: str) -> str:
    """Have the store take the place of `known`, for all relays that remember that; returns its own id.

    ValueError if it is the very store. The relays go on by themselves.
    """
    await ask("HSETNX", schema.IDENTITY, schema.IDENTITY_ID, new_id())
    found = (await identity_of(ask)).id
    if found == known:
        raise ValueError(f"this is the store {known}: there is nothing to accept")
    since = datetime.now(UTC).isoformat(timespec="seconds")
    await ask("HSET", schema.IDENTITY, schema.IDENTITY_SUCCEEDS + known, since)
    return found


def new_id() -> str:
    return secrets.token_hex(ID_BYTES)


def _read(file: Path) -> str | None:
    cure = "correct `storage.identity_file`, or remove the file to begin with whatever store is there"
    try:
        text = file.read_text("utf-8").strip()
    except FileNotFoundError:
        if not file.parent.is_dir():
            raise ConfigError([f"{file}: its directory does not exist; make it"]) from None
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{file} cannot be read ({error}); {cure}"]) from error
    if not ID_FORM.fullmatch(text):
        raise ConfigError([f"{file} does not hold the identity of a store; {cure}"])
    return text


def _write(file: Path, text: str) -> None:
    """All or nothing, also when the power goes."""
    # Several workers may write the same file at the same time.
    draft = file.with_name(f"{file.name}.{os.getpid()}.new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(descriptor, f"{text}\n".encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    draft.replace(file)
