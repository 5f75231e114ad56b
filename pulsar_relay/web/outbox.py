"""Outbox: what one connection was handed and the kernel has not taken yet, between its high and its low mark.

Bytes go to the connection's transport as they are: the same bytes object for every subscriber that shares it.
Small replies, of which many come at once, are gathered until the end of the loop's turn.
"""

from __future__ import annotations

import asyncio
from typing import Protocol


class OutboxOwner(Protocol):
    """The connection whose outbox it is."""

    def on_drained(self) -> None:
        """The outbox was full, and is down to its low mark now; once for each time."""

    def on_stalled(self) -> None:
        """It was full for `stall_seconds` in which not a byte went out; once."""


class Outbox:
    """Writes to a transport, and watches what of it does not go out.

    The transport keeps the marks: its protocol, the owner, passes `pause_writing` and `resume_writing` on.
    """

    __slots__ = (
        "_added_bytes",
        "_gathered",
        "_is_counting",
        "_owner",
        "_progress_at_check",
        "_stall_seconds",
        "_stall_timer",
        "_transport",
        "is_full",
    )

    def __init__(
        self,
        transport: asyncio.WriteTransport,
        owner: OutboxOwner,
        *,
        high_bytes: int,
        low_bytes: int,
        stall_seconds: float,
    ) -> None:
        transport.set_write_buffer_limits(high_bytes, low_bytes)
        self._transport = transport
        self._owner: OutboxOwner | None = owner
        """None once it is closed."""
        self._stall_seconds = stall_seconds
        self.is_full = False
        """Above the high mark, and not down to the low one since."""
        self._gathered: list[bytes] | None = None
        self._is_counting = False
        self._added_bytes = 0
        self._progress_at_check = 0
        self._stall_timer: asyncio.TimerHandle | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes that the kernel has not taken."""
        return self._transport.get_write_buffer_size()

    def write(self, data: bytes) -> bool:
        """Hand `data` to the transport. True: the outbox is full. Once closed it swallows it."""
        if self._owner is None:
            return False
        if self._gathered is not None:
            self._write_gathered()
        if self._is_counting:
            self._added_bytes += len(data)
        self._transport.write(data)
        return self.is_full

    def write_soon(self, data: bytes) -> None:
        """Write `data`, in its order, at latest in the next turn of the loop: what comes until then is
        written with it, in one system call.
        """
        if self._owner is None:
            return
        if self._gathered is None:
            self._gathered = [data]
            asyncio.get_running_loop().call_soon(self._write_gathered)
        else:
            self._gathered.append(data)

    def _write_gathered(self) -> None:
        gathered, self._gathered = self._gathered, None
        if gathered is not None and not self._transport.is_closing():
            data = b"".join(gathered)
            if self._is_counting:
                self._added_bytes += len(data)
            self._transport.write(data)

    def progress(self) -> int:
        """Something that is another, from one call to the next, if the kernel took anything in between."""
        self._is_counting = True
        return self._added_bytes - self.size_bytes

    def close(self) -> None:
        """Take nothing more. What was written before still goes out, as long as the transport is open. May be
        called again.
        """
        self._write_gathered()
        self._owner = None
        self._watch_no_longer()

    # What the transport tells its protocol

    def pause_writing(self) -> None:
        self.is_full = True
        if self._owner is not None:
            self._progress_at_check = self.progress()
            self._check_later()

    def resume_writing(self) -> None:
        self.is_full = False
        self._watch_no_longer()
        if self._owner is not None:
            self._owner.on_drained()

    # Who takes nothing

    def _check_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._stall_timer = loop.call_later(self._stall_seconds, self._check_stall)

    def _check_stall(self) -> None:
        self._stall_timer = None
        progress = self.progress()
        if progress != self._progress_at_check:
            self._progress_at_check = progress
            self._check_later()
        elif self._owner is not None:
            self._owner.on_stalled()

    def _watch_no_longer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
