"""The directory that holds the embedded Valkey server's data, and who may use it.

    relay.lock      locked by the relay that owns the directory, as long as it lives; holds its pid
    server.lock     locked by the server, as long as it or a child of it lives, also after the relay's death
    server.json     which process the server is and how it was started
    store-identity  which store the relay has met here
    valkey.log      the server's own log (and valkey.log.1, the one before)
    valkey.sock     where it listens, unless that path is too long for a socket
    appendonlydir   the data

Two servers that write one append-only file destroy it, so nobody starts a server without `server.lock`. Both
locks are `flock`s: the kernel drops them with their last holder, so there is no stale lock and none is ever
removed by hand. Nothing here starts, signals or waits for a process.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

SOCKET_PATH_BYTES = 103
"""Longest path a unix socket can have: 107 bytes on Linux, 103 on macOS."""

LOG_BYTES = 4 * 1024 * 1024
"""Size at which `valkey.log` becomes `valkey.log.1`."""

EMPTY_BASE_BYTES = 128
"""An append-only base with no key in it is about 90 bytes long; one message makes it longer than this."""

logger = logging.getLogger(__name__)


class EmbeddedValkeyError(Exception):
    """The embedded server cannot run. The text says why, and what to do about it."""


class DataDirectoryInUseError(EmbeddedValkeyError):
    """Another relay, still alive, owns the data directory."""


@dataclass(frozen=True, slots=True)
class ServerRecord:
    """Which process a server is, and how it was started.

    `start_time` tells it from a later process that has its pid.
    """

    pid: int
    start_time: str
    version: str
    arguments: tuple[str, ...]


class DataDirectory:
    """`path` need not exist before `own()`. Not for two threads at once; two instances exclude each other."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.server_lock_path = self.path / "server.lock"
        self.log_path = self.path / "valkey.log"
        self.socket_path = self.path / "valkey.sock"
        if len(os.fsencode(self.socket_path)) > SOCKET_PATH_BYTES:
            self.socket_path = self._short_socket_path()
        self.identity_path = self.path / "store-identity"
        self._record_path = self.path / "server.json"
        self._owner_lock: int | None = None

    def own(self) -> None:
        """Make the directory, private to this user, and own it until `disown()` or the end of this process.

        Raises DataDirectoryInUseError while another relay owns it, EmbeddedValkeyError if it cannot be used.
        """
        with self._refusals():
            self._make()
            lock = os.open(self.path / "relay.lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.pwrite(lock, f"{os.getpid():<20}\n".encode(), 0)
            except BlockingIOError:
                pid = os.pread(lock, 20, 0).decode(errors="replace").strip()
                os.close(lock)
                raise DataDirectoryInUseError(
                    f"data directory {self.path} is in use by pid {pid}: "
                    "stop that relay, or give this one another `embedded.data_dir`"
                ) from None
            except BaseException:
                os.close(lock)
                raise
        self._owner_lock = lock

    def disown(self) -> None:
        """Let another relay own the directory. Does nothing if it is not owned."""
        if self._owner_lock is not None:
            # A process forked from this one shares the lock, and closing alone would leave it locked.
            fcntl.flock(self._owner_lock, fcntl.LOCK_UN)
            os.close(self._owner_lock)
            self._owner_lock = None

    def lock_server(self) -> int | None:
        """Return a descriptor with the server's lock, for a server to inherit; None while another has it.

        The caller closes it; the lock stays with whoever inherited it. Only the owner of the directory may
        ask.
        """
        with self._refusals():
            lock = os.open(self.server_lock_path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                return None
            except BaseException:
                os.close(lock)
                raise
            return lock

    def record(self, record: ServerRecord) -> None:
        """Remember the server for the next owner; raises EmbeddedValkeyError, on a full disk for one."""
        with self._refusals():
            draft = self._record_path.with_suffix(".new")
            draft.write_text(json.dumps(asdict(record), indent=1) + "\n")
            draft.replace(self._record_path)

    def recorded(self) -> ServerRecord | None:
        """The server recorded last, perhaps long gone; None if there is none, or the file is damaged."""
        try:
            known = json.loads(self._record_path.read_text())
            return ServerRecord(
                int(known["pid"]), str(known["start_time"]), str(known["version"]), tuple(known["arguments"])
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def forget(self) -> None:
        """Remove what a stopped server leaves behind: its record, and after a kill its socket."""
        with suppress(OSError):
            self._record_path.unlink(missing_ok=True)
            self.socket_path.unlink(missing_ok=True)
            if self.socket_path.parent != self.path:
                self.socket_path.parent.rmdir()

    def check_data(self) -> None:
        """Make the data ready for a new server; only for who has the server's lock.

        Raises EmbeddedValkeyError where Valkey would silently start empty over existing data: without its
        manifest it overwrites the other append-only files. Nor does it read a snapshot while the append-only
        file is on: a `dump.rdb` that stands alone is a restored backup, and becomes the base of a new one.
        """
        with self._refusals():
            files = self.path / "appendonlydir"
            # Drafts of a server that was killed while it rewrote its data: nothing else removes them.
            for draft in (*self.path.glob("temp-*.rdb"), *self.path.glob("temp-rewriteaof-*.aof")):
                draft.unlink()
            parts = sorted(files.glob("appendonly.aof.*")) if files.is_dir() else []
            if any(part.name.endswith(".manifest") for part in parts):
                return
            if any(_has_data(part) for part in parts):
                raise EmbeddedValkeyError(
                    f"{files} has data but no appendonly.aof.manifest: Valkey would begin empty and "
                    "overwrite it. Restore the manifest from a backup, or move the directory away"
                )
            dump = self.path / "dump.rdb"
            # One single appendonly.aof is the layout of Redis 6 and older: Valkey converts it by itself.
            if dump.is_file() and not (self.path / "appendonly.aof").exists():
                self._restore(dump, files)

    def make_socket_directory(self) -> None:
        """Make the directory of a socket that is not in the data directory; it must be this user's alone."""
        directory = self.socket_path.parent
        if directory == self.path:
            return
        with self._refusals():
            directory.mkdir(mode=0o700, exist_ok=True)
            found = directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise EmbeddedValkeyError(
                f"{directory}, needed for the server's socket, is not a directory of this user alone: "
                "remove it, or choose a shorter `embedded.data_dir`"
            )

    def rotate_log(self) -> None:
        """Keep the log bounded. Safe at any time: Valkey opens its log anew for each line."""
        with suppress(OSError):
            if self.log_path.stat().st_size > LOG_BYTES:
                self.log_path.replace(self.log_path.with_name("valkey.log.1"))

    def log_size(self) -> int:
        try:
            return self.log_path.stat().st_size
        except OSError:
            return 0

    def last_words(self, since: int, *, lines: int = 8) -> str:
        """The end of what the server has logged after the log was `since` bytes long."""
        try:
            with open(self.log_path, "rb") as log:
                log.seek(max(since, self.log_size() - 8192))
                return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    def _make(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.mkdir(mode=0o700)
        except FileExistsError:
            found = self.path.stat()
            is_ours = found.st_uid == os.geteuid() and (
                (self.path / "relay.lock").exists() or not any(self.path.iterdir())
            )
            if is_ours and found.st_mode & 0o077:
                self.path.chmod(0o700)
            elif found.st_mode & 0o022:
                # Not closed to others without asking: somebody may have named a shared directory by mistake.
                raise EmbeddedValkeyError(
                    f"data directory {self.path} can be written by other users: `chmod 700` it, "
                    "or choose another `embedded.data_dir`"
                ) from None

    def _short_socket_path(self) -> Path:
        """The same for every start on this directory: the next relay must find the socket."""
        runtime = os.environ.get("XDG_RUNTIME_DIR", "")
        name = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16]
        for base in (runtime, tempfile.gettempdir(), "/tmp"):  # noqa: S108 - made private, see make_socket_directory
            path = Path(base) / f"pulsar-relay-{os.geteuid()}-{name}" / "valkey.sock"
            if (
                Path(base).is_absolute()
                and Path(base).is_dir()
                and len(os.fsencode(path)) <= SOCKET_PATH_BYTES
            ):
                return path
        return self.socket_path

    def _restore(self, dump: Path, files: Path) -> None:
        # The manifest comes last: without it, a restore that was cut off in the middle is seen as one.
        files.mkdir(mode=0o700, exist_ok=True)
        shutil.copyfile(dump, files / "appendonly.aof.1.base.rdb")
        (files / "appendonly.aof.manifest").write_text("file appendonly.aof.1.base.rdb seq 1 type b\n")
        logger.info("embedded valkey: restoring the snapshot %s, there is no append-only file", dump)

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """Turn what the file system refuses into a sentence with a cure."""
        try:
            yield
        except OSError as error:
            raise EmbeddedValkeyError(
                f"data directory {self.path} cannot be used: {error}. Make it a writable directory on a "
                "local disk with space left, or choose another `embedded.data_dir`"
            ) from error


def _has_data(part: Path) -> bool:
    # A server killed in the first milliseconds of its life leaves an empty base and no manifest: nothing is
    # lost there.
    return part.stat().st_size > (EMPTY_BASE_BYTES if part.name.endswith(".base.rdb") else 0)
