"""LoginFile: the logins of one person on this machine, by relay, which several processes share.

A file of its owner's alone, replaced as a whole; who changes it holds the lock beside it meanwhile. A refresh
token is good once: so whoever uses one holds the lock until its successor is in the file.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec

from pulsar_relay.client.errors import ClientError

LOCK_SECONDS = 60.0
"""No longer than a refresh takes that is answered at the last moment."""
LOOK_SECONDS = 0.05


class KeptLogin(msgspec.Struct, frozen=True):
    """`renew_at`: when the access token is about to end, Unix seconds."""

    username: str
    access_token: str
    renew_at: float
    refresh_token: str


class LoginFileError(ClientError):
    def __init__(self, message: str) -> None:
        super().__init__("login_file", message, is_retryable=False)


def default_path(environment: Mapping[str, str]) -> Path:
    """As XDG has it: state, which is neither configuration nor to be had again."""
    base = environment.get("XDG_STATE_HOME", "")
    # XDG: a path that is relative is to be ignored.
    directory = Path(base) if base.startswith("/") else Path.home() / ".local" / "state"
    return directory / "pulsar-relay" / "logins.json"


class LoginFile:
    """By a relay's base URL. Everything raises LoginFileError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Mapping[str, KeptLogin]:
        """What is there now; a file is replaced at once, so it is always whole."""
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=dict[str, KeptLogin])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.DecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is damaged"
            raise LoginFileError(f"{self.path} cannot be read: {reason}.") from None

    def write(self, base: str, login: KeptLogin | None) -> None:
        """Keep this login, or none, for the relay. The lock must be held."""
        logins = {**self.read()}
        logins.pop(base, None)
        if login is not None:
            logins[base] = login
        part = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}")
        try:
            file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with open(file, "wb") as stream:
                    stream.write(msgspec.json.encode(logins))
                    stream.flush()
                    # A successor that is lost by a power cut would be a login that is lost.
                    os.fsync(stream.fileno())
                part.replace(self.path)
            except BaseException:
                with suppress(OSError):
                    part.unlink()
                raise
        except OSError as error:
            raise LoginFileError(f"{self.path} cannot be written: {error.strerror}.") from None

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        """Of processes and tasks one at a time. The kernel takes it from who is killed."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LoginFileError(f"{self.path} cannot be locked: {error.strerror}.") from None
        try:
            await self._take(lock)
            yield
        finally:
            os.close(lock)

    async def _take(self, lock: int) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(LOCK_SECONDS):
                while True:
                    try:
                        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        await asyncio.sleep(LOOK_SECONDS)
                    else:
                        return
        raise LoginFileError(f"{self.path} is locked by another process for too long.")
