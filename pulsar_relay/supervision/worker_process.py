"""A worker's process: how it is started, spoken to, and ended."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from pulsar_relay.supervision.channel import Channel

MODULE = "pulsar_relay.supervision.member"


class WorkerProcess:
    """Made by `spawn`. It has to be waited for, or a zombie is left."""

    def __init__(self, process: asyncio.subprocess.Process, channel: Channel) -> None:
        self._process = process
        self.channel = channel

    @classmethod
    async def spawn(cls, descriptors: Sequence[int]) -> Self:
        """A fresh process that inherits `descriptors` and this process's environment and directory, and has
        its settings still to be told. Raises OSError.

        Not a fork of this one, which has a loop, signal handlers and locks. In a session of its own, so that
        Ctrl-C in the terminal reaches the supervisor alone, which stops its workers in its turn.
        """
        ours, theirs = socket.socketpair()
        try:
            process = await asyncio.create_subprocess_exec(
                *_command(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), *descriptors),
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return cls(process, await Channel.over(ours))

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, number: signal.Signals) -> None:
        """Nothing happens if the process has ended."""
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def wait(self) -> str:
        """Return when it has ended: how, in words."""
        status = await self._process.wait()
        if status < 0:
            return f"killed by {signal.Signals(-status).name}"
        return f"exit status {status}"


def _command(descriptor: int) -> list[str]:
    # `-m` puts the current directory before everything else that is imported; where this process does not
    # import from there, its workers must not either.
    here = Path.cwd()
    is_imported_from = any(not place or Path(place) == here for place in sys.path)
    isolation = [] if is_imported_from and not sys.flags.safe_path else ["-P"]
    return [sys.executable, *isolation, "-m", MODULE, os.fsdecode(str(descriptor))]
