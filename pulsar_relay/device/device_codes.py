"""Device codes in Valkey: asked for, decided about by somebody with a browser, redeemed once.

    make ──▶ pending ──approve──▶ approved ──poll──▶ gone: its device has signed in
                │
                └──deny──▶ denied ──poll──▶ gone

Each arrow is a script, so of any number that decide or redeem at the same time one does. The device has a
code of 256 bits, of which the SHA-256 is kept; the person has a short one, which is worth nothing but to
decide.
"""

from __future__ import annotations

import enum
import hashlib
import secrets
from dataclasses import dataclass

from pulsar_relay.accounts import schema
from pulsar_relay.accounts.user import User
from pulsar_relay.device import user_code
from pulsar_relay.errors import RelayError
from pulsar_relay.settings import DeviceSettings
from pulsar_relay.store.client import Client, Script
from pulsar_relay.store.link import Word

PACKAGE = "pulsar_relay.device"
CODE_BYTES = 32
HINT_LENGTH = 200
DRAWS = 20
KNOWN_FACTOR = 2
"""Of its lifetime a code is known to have expired; later it is unknown."""
EARLY = 0.1
"""Of the interval a poll may come early: on its way to the relay one takes longer than the next."""


class Outcome(enum.Enum):
    """What a device is told that asks."""

    UNKNOWN = b"unknown"
    EXPIRED = b"expired"
    DENIED = b"denied"
    SLOW_DOWN = b"slow_down"
    PENDING = b"pending"
    APPROVED = b"approved"


@dataclass(frozen=True, slots=True)
class NewDevice:
    """The two codes of a device that has just asked for them."""

    device_code: str
    user_code: str


@dataclass(frozen=True, slots=True)
class PendingDevice:
    """A device that waits for a decision. `hint` is what it says of itself: anybody can say anything."""

    user_code: str
    digest: str
    hint: str


@dataclass(frozen=True, slots=True)
class Approval:
    """Who has let a device in, with the generation the account had then."""

    user_id: str
    generation: int
    hint: str
    is_pair: bool
    """Whether the device has asked for two sessions."""


class DeviceCodes:
    """Raises StoreError, and RelayError where the docstring says so."""

    def __init__(self, client: Client, settings: DeviceSettings) -> None:
        self._client = client
        self.settings = settings
        self._make = Script("make_device", PACKAGE)
        self._poll = Script("poll_device", PACKAGE)
        self._decide = Script("decide_device", PACKAGE)

    async def make(self, hint: str, *, is_pair: bool) -> NewDevice:
        """RelayError `overloaded` if all user codes that were drawn are in use."""
        device_code = secrets.token_urlsafe(CODE_BYTES)
        digest = _digest(device_code)
        lifetime_ms = round(self.settings.code_ttl_seconds * 1000)
        args: list[Word] = [digest, lifetime_ms, KNOWN_FACTOR * lifetime_ms]
        args += ["hint", _shown(hint), "pair", int(is_pair)]
        for _ in range(DRAWS):
            drawn = user_code.draw()
            keys = [schema.device(digest), schema.user_code(drawn)]
            if await self._make.run_as_append(self._client, keys, args):
                return NewDevice(device_code, drawn)
        raise RelayError("overloaded", "Too many devices are waiting.")

    async def find(self, typed: str) -> PendingDevice | None:
        """The device that waits with this user code, however it was typed."""
        code = user_code.read(typed)
        kept = None if code is None else await self._client.command("GET", schema.user_code(code))
        if code is None or kept is None:
            return None
        digest = kept.decode()
        hint = await self._client.command("HGET", schema.device(digest), "hint")
        return None if hint is None else PendingDevice(code, digest, hint.decode("utf-8", "replace"))

    async def approve(self, device: PendingDevice, user: User) -> bool:
        """False if there is nothing to decide any more."""
        return await self._decided(device, "approved", user.user_id, user.generation)

    async def deny(self, device: PendingDevice) -> bool:
        """False if there is nothing to decide any more."""
        return await self._decided(device, "denied", "", 0)

    async def _decided(self, device: PendingDevice, decision: str, user_id: str, generation: int) -> bool:
        keys = [schema.device(device.digest), schema.user_code(device.user_code)]
        args: list[Word] = [device.digest, decision, user_id, generation]
        return bool(await self._decide.run_as_append(self._client, keys, args))

    async def poll(self, device_code: str) -> tuple[Outcome, Approval | None]:
        """What has become of it; with an approval, which is told once, if it was approved."""
        least_ms = round(self.settings.poll_interval_seconds * (1 - EARLY) * 1000)
        keys = [schema.device(_digest(device_code))]
        what, *approved = await self._poll.run_as_append(self._client, keys, [least_ms])
        outcome = Outcome(what)
        if outcome is not Outcome.APPROVED:
            return outcome, None
        user_id, generation, hint, pair = approved
        told = hint.decode("utf-8", "replace")
        return outcome, Approval(user_id.decode(), int(generation), told, pair == b"1")


def _digest(device_code: str) -> str:
    return hashlib.sha256(device_code.encode("utf-8", "surrogatepass")).hexdigest()


def _shown(hint: str) -> str:
    """As much of what a device says of itself as is kept and shown, in one line."""
    return "".join(character if character.isprintable() else "?" for character in hint[:HINT_LENGTH])
