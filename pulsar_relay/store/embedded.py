"""The Valkey server a relay runs for itself when none is configured.

The server outlives a relay that is killed, so nothing acknowledged is lost with it; the next relay on the
same directory adopts it, or ends it and starts one of its own. Never do two servers write one directory: see
`data_directory`.

    start ──> server.lock free? ── yes ──────────────────────────> spawn ──> loads ──> runs
                    │ no                                             ^                  │
                    └──> started as we would, and answers? ── yes ──────> adopt ──────> │
                                  │ no                               │                  │
                                  └──> end it (SIGTERM, SIGKILL) ────┘ <──── dies ──────┘
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Self

from pulsar_relay.settings import Settings
from pulsar_relay.store.data_directory import (
    DataDirectory,
    DataDirectoryInUseError,
    EmbeddedValkeyError,
    ServerRecord,
)
from pulsar_relay.store.server_process import KILL_SECONDS, ServerProcess, find_binary, information

__all__ = ["DataDirectoryInUseError", "EmbeddedValkey", "EmbeddedValkeyError", "ServerEvent", "ServerLife"]

SETTINGS = (
    *("--port", "0"),  # no TCP: whoever may open the socket is this user
    *("--unixsocketperm", "700"),
    *("--daemonize", "no"),
    *("--appendonly", "yes"),
    # A snapshot would write everything a second time, next to an append-only file whose base already is one,
    # and a failed one must not stop appends. For a backup, copy `appendonlydir`, or ask for BGSAVE.
    *("--save", ""),
    *("--stop-writes-on-bgsave-error", "no"),
    *("--maxmemory-policy", "noeviction"),  # refuse an append rather than forget a topic
    # For the reasons that `valkey.conf` gives.
    *("--client-output-buffer-limit", "normal", "512mb", "256mb", "60", "pubsub", "32mb", "8mb", "60"),
)

APPENDFSYNC = {"memory": "everysec", "disk": "always"}
"""What backs each durability level that a single server can have."""
QUICK_DEATH_SECONDS = 10.0
"""A server that dies younger than this makes its next start wait; an older one is restarted at once."""
RETRY_STEP_SECONDS = 0.05
RETRY_MOST_SECONDS = 0.5
"""Waits double from the step to the most, so that a full disk that is freed is noticed within a second."""
LOG_LOOK_SECONDS = 3600.0
CHILD_SECONDS = 0.5

logger = logging.getLogger(__name__)


class ServerLife(Enum):
    """What can happen to the server; each is one log line and one call of `on_event`."""

    STARTED = "started"
    ADOPTED = "adopted"
    DIED = "died"
    RESTARTED = "restarted"
    RESTART_FAILED = "could not be restarted:"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """`pid` is None where there is no process: a restart that failed."""

    life: ServerLife
    pid: int | None
    text: str


class EmbeddedValkey:
    """A supervised Valkey server on a unix socket, with its data in `data_dir` (made if need be).

    `appendfsync` is `everysec` or `always`; `maxmemory_bytes` 0 is no limit. `start_timeout_seconds` bounds
    silence: loading takes as long as it takes while it makes progress. `stop_timeout_seconds` bounds an
    orderly stop, after which the server is killed; on a healthy disk that loses nothing acknowledged either.
    `on_event` is called in the loop, for each ServerEvent.

    All methods belong to one loop. `start` and `stop` may come in any order; concurrent calls take turns.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        appendfsync: str,
        maxmemory_bytes: int,
        start_timeout_seconds: float,
        stop_timeout_seconds: float = 10.0,
        on_event: Callable[[ServerEvent], None] | None = None,
    ) -> None:
        self._directory = DataDirectory(data_dir)
        self._settings = (
            *SETTINGS,
            *("--unixsocket", str(self._directory.socket_path)),
            *("--dir", str(self._directory.path)),
            *("--logfile", str(self._directory.log_path)),
            *("--appendfsync", appendfsync),
            *("--maxmemory", str(maxmemory_bytes)),
        )
        self._start_timeout_seconds = start_timeout_seconds
        self._stop_timeout_seconds = stop_timeout_seconds
        self._on_event = on_event
        self._turn = asyncio.Lock()
        self._process: ServerProcess | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._restarts = 0
        self._last_exit: str | None = None

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        """The server to run ourselves, None if one is configured."""
        if not settings.uses_embedded_server:
            return None
        embedded = settings.embedded
        return cls(
            embedded.data_dir,
            appendfsync=APPENDFSYNC[settings.storage.durability],
            maxmemory_bytes=embedded.maxmemory_bytes,
            start_timeout_seconds=embedded.start_timeout_seconds,
        )

    @property
    def socket_path(self) -> str:
        """Where the server listens; the same before, during and after its life."""
        return str(self._directory.socket_path)

    @property
    def identity_path(self) -> Path:
        """Where a relay remembers which store it has met here."""
        return self._directory.identity_path

    @property
    def is_running(self) -> bool:
        """Whether the process lives. Between two lives, and before `start`, it does not."""
        return self._process is not None and self._process.is_running

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    @property
    def restarts(self) -> int:
        """How often the server died and was brought back since this object was made."""
        return self._restarts

    @property
    def last_exit(self) -> str | None:
        """How the server died last, such as `killed by SIGKILL`; None if it never did."""
        return self._last_exit

    async def start(self) -> None:
        """Return when the server answers and has loaded its data; does nothing if already started.

        Raises DataDirectoryInUseError or EmbeddedValkeyError, and then owns nothing and has left no process.
        Cancelled, it first ends what it has started, within the stop timeout; what it has adopted is stopped
        as well.
        """
        async with self._turn:
            if self._supervisor is not None:
                return
            self._directory.own()
            try:
                began = time.monotonic()
                life = ServerLife.ADOPTED if await self._adopt() else ServerLife.STARTED
                if life is ServerLife.STARTED:
                    await self._launch()
                    self._record()
            except BaseException:
                await self._shut_down()
                raise
            self._tell(
                life, f"in {_milliseconds(began)} ms; look inside with: valkey-cli -s {self.socket_path}"
            )
            self._supervisor = asyncio.create_task(self._supervise(), name="embedded valkey supervisor")

    async def stop(self) -> None:
        """End the server in order, then give the directory up; does nothing if not started.

        Leaves no process, no socket and no lock. Cancelled, it gives the directory up at once and leaves the
        server to finish the stop it has begun; a next start waits for that.
        """
        async with self._turn:
            if self._supervisor is None:
                return
            supervisor, self._supervisor = self._supervisor, None
            began = time.monotonic()
            pid = self.pid
            try:
                supervisor.cancel()
                await asyncio.wait([supervisor])
            finally:
                await self._shut_down()
            self._tell(ServerLife.STOPPED, f"in {_milliseconds(began)} ms", pid=pid)

    async def _shut_down(self) -> None:
        try:
            if self._process is not None:
                await self._process.end(self._stop_timeout_seconds)
            lock = self._directory.lock_server()
            if lock is not None:
                self._directory.forget()
                os.close(lock)
        finally:
            self._let_go()
            self._directory.disown()

    async def _adopt(self) -> bool:
        """Take over the server that an earlier relay left running here, if we would have started the same."""
        lock = self._directory.lock_server()
        if lock is not None:
            os.close(lock)
            return False
        known = self._directory.recorded()
        binary, version = find_binary()
        if known is None or known.version != version or known.arguments != self._arguments(binary):
            logger.info(
                "embedded valkey: a server with other settings or of another version is still running"
            )
            return False
        process = ServerProcess.attach(known.pid, known.start_time)
        if process is None:
            return False
        self._process = process
        try:
            await self._until_ready(process, log_from=self._directory.log_size())
        except EmbeddedValkeyError as error:
            logger.warning("embedded valkey: the server that is still running cannot be adopted: %s", error)
            self._let_go()
            return False
        return True

    async def _launch(self) -> None:
        """Spawn a server and wait until it is ready. Raises EmbeddedValkeyError, and has then ended it."""
        binary, _ = find_binary()
        lock = await self._server_lock()
        try:
            self._directory.check_data()
            self._directory.make_socket_directory()
            self._directory.rotate_log()
            log_from = self._directory.log_size()
            process = ServerProcess.spawn(
                self._arguments(binary), lock=lock, log_path=self._directory.log_path
            )
        except OSError as error:
            raise EmbeddedValkeyError(
                f"the server {binary} cannot be started: {error}. Run a Valkey yourself and set `valkey.host`"
            ) from error
        finally:
            os.close(lock)
        self._process = process
        try:
            await self._until_ready(process, log_from=log_from)
        except EmbeddedValkeyError:
            await process.end(self._stop_timeout_seconds)
            self._let_go()
            raise

    async def _server_lock(self) -> int:
        """Return the server's lock, after ending every process that may still write here."""
        deadline = time.monotonic() + 2 * self._stop_timeout_seconds + KILL_SECONDS
        pids: list[int] = []
        while True:
            lock = self._directory.lock_server()
            leftovers = self._leftovers(is_locked=lock is None)
            if lock is not None:
                if not leftovers:
                    return lock
                os.close(lock)
            pids = [leftover.pid for leftover in leftovers] or pids
            try:
                for leftover in leftovers:
                    logger.info("embedded valkey pid %d: is still running here, ending it", leftover.pid)
                    await leftover.end(self._patience(leftover))
            finally:
                for leftover in leftovers:
                    leftover.close()
            if time.monotonic() > deadline:
                raise EmbeddedValkeyError(
                    f"a Valkey server is still running on {self._directory.path} and cannot be ended "
                    f"(pids {pids or 'unknown'}): end it by hand, or choose another `embedded.data_dir`"
                )
            if not leftovers:
                await asyncio.sleep(RETRY_STEP_SECONDS)

    def _patience(self, leftover: ServerProcess) -> float:
        """Seconds for an orderly end. A child that rewrites a dead server's data has nothing to put in order,
        and does not always heed SIGTERM."""
        known = self._directory.recorded()
        is_server = known is not None and known.pid == leftover.pid
        return self._stop_timeout_seconds if is_server else min(CHILD_SECONDS, self._stop_timeout_seconds)

    def _leftovers(self, *, is_locked: bool) -> list[ServerProcess]:
        """What holds the lock, and the recorded server: somebody may have removed the lock's file."""
        found = list(ServerProcess.holders(self._directory.server_lock_path)) if is_locked else []
        known = self._directory.recorded()
        if known is not None and known.pid not in [process.pid for process in found]:
            recorded = ServerProcess.attach(known.pid, known.start_time)
            if recorded is not None:
                found.append(recorded)
        return found

    def _record(self) -> None:
        assert self._process is not None
        binary, version = find_binary()
        self._directory.record(
            ServerRecord(self._process.pid, self._process.start_time, version, self._arguments(binary))
        )

    def _record_if_possible(self) -> None:
        # Without a record the next relay cannot adopt this server; that is no reason to have none now.
        try:
            self._record()
        except EmbeddedValkeyError as error:
            logger.warning("embedded valkey: %s", error)

    def _arguments(self, binary: Path) -> tuple[str, ...]:
        return (str(binary), *self._settings)

    async def _until_ready(self, process: ServerProcess, *, log_from: int) -> None:
        """Return when the data is loaded; raises EmbeddedValkeyError when it ends, or is silent too long."""
        silent_since = time.monotonic()
        loaded = ""
        pause = 0.002
        while True:
            patience = silent_since + self._start_timeout_seconds - time.monotonic()
            answer = await information(self.socket_path, patience)
            if not process.is_running:
                raise EmbeddedValkeyError(self._refusal(process, log_from))
            if answer.get("process_id") == str(process.pid):
                if answer.get("loading") == "0":
                    return
                if answer.get("loading_loaded_bytes", "") != loaded:
                    loaded = answer.get("loading_loaded_bytes", "")
                    silent_since = time.monotonic()
            if time.monotonic() - silent_since > self._start_timeout_seconds:
                raise EmbeddedValkeyError(
                    f"the server (pid {process.pid}) made no progress for {self._start_timeout_seconds:g} s "
                    f"(`embedded.start_timeout`). Its log: {self._directory.log_path}"
                )
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, RETRY_STEP_SECONDS)

    def _refusal(self, process: ServerProcess, log_from: int) -> str:
        words = self._directory.last_words(log_from)
        text = (
            f"the server refused to start ({process.exit_text}). "
            f"Its log, {self._directory.log_path}, ends with:\n{words}"
        )
        if "Bad file format" in words or "Unexpected end of file" in words:
            # The server is also the repair tool, when called by its name. Given the manifest, 9.1.2's fails.
            text += (
                f"\nKeep a copy of {self._directory.path}, then repair the file that the log names: "
                f"bash -c 'exec -a valkey-check-aof {find_binary()[0]} --fix FILE'; or restore a backup"
            )
        return text

    async def _supervise(self) -> None:
        """Bring the server back whenever it dies, for ever: a full disk is freed one day."""
        deaths = 0
        attempt_seconds = 0.0
        while True:
            process = self._process
            if process is not None:
                began = time.monotonic()
                await self._wait_and_rotate(process)
                deaths = 0 if time.monotonic() - began > QUICK_DEATH_SECONDS else deaths
                self._last_exit = process.exit_text
                words = self._directory.last_words(0, lines=1)
                self._tell(
                    ServerLife.DIED, f"({self._last_exit}); the end of its log: {words}", repeats=deaths
                )
                self._let_go()
            deaths += 1
            if deaths > 1:
                step = min(RETRY_STEP_SECONDS * 2 ** min(deaths - 2, 10), RETRY_MOST_SECONDS)
                # A start that reads gigabytes and fails must not keep the disk busy all the time.
                await asyncio.sleep(max(step, attempt_seconds))
            began = time.monotonic()
            try:
                await self._launch()
            except EmbeddedValkeyError as error:
                self._tell(ServerLife.RESTART_FAILED, str(error), repeats=deaths - 1)
            else:
                self._restarts += 1
                self._record_if_possible()
                self._tell(ServerLife.RESTARTED, f"in {_milliseconds(began)} ms", repeats=deaths - 1)
            attempt_seconds = time.monotonic() - began

    async def _wait_and_rotate(self, process: ServerProcess) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOG_LOOK_SECONDS):
                    await process.wait()
                    return
            self._directory.rotate_log()

    def _let_go(self) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None

    def _tell(self, life: ServerLife, text: str, *, pid: int | None = None, repeats: int = 0) -> None:
        """One log line an event, but fewer and fewer for one that repeats: a disk can be full for days."""
        event = ServerEvent(life, self.pid if pid is None else pid, text)
        if repeats & (repeats - 1) == 0:
            is_bad = life in (ServerLife.DIED, ServerLife.RESTART_FAILED)
            subject = "embedded valkey" if event.pid is None else f"embedded valkey pid {event.pid}"
            logger.log(logging.WARNING if is_bad else logging.INFO, "%s: %s %s", subject, life.value, text)
        if self._on_event is not None:
            try:
                self._on_event(event)
            except Exception:
                # A listener's bug must not end the supervision of the server.
                logger.exception("embedded valkey: on_event failed for %s", event)


def _milliseconds(since: float) -> int:
    return round((time.monotonic() - since) * 1000)
