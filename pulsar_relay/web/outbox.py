"""Outbox: what one connection was handed and the kernel has not taken yet, between its high and its low mark.

Bytes go to Tornado's stream as they are: one write a batch, the same bytes object for every subscriber that
shares it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tornado.iostream import IOStream


class Outbox:
    """Counts a stream's unsent bytes.

    Above `high_bytes` `write` says so; at `low_bytes` or below `on_drained` is called, once for each time it
    was above. If it stays above for `stall_seconds` without a byte going out, `on_stalled` is called.

    Tornado keeps the counts itself (bytes written, bytes taken, a future for each write), but shows them to
    nobody. They are read here and nowhere else; a test holds them to what they are taken for.
    """

    __slots__ = (
        "_drained",
        "_high_bytes",
        "_is_closed",
        "_low_bytes",
        "_on_drained",
        "_on_stalled",
        "_stall_seconds",
        "_stall_timer",
        "_stream",
        "_taken_at_check",
        "is_full",
    )

    def __init__(
        self,
        stream: IOStream,
        *,
        high_bytes: int,
        low_bytes: int,
        stall_seconds: float,
        on_drained: Callable[[], None],
        on_stalled: Callable[[], None],
    ) -> None:
        self._stream = stream
        self._high_bytes = high_bytes
        self._low_bytes = low_bytes
        self._stall_seconds = stall_seconds
        self._on_drained = on_drained
        self._on_stalled = on_stalled
        self.is_full = False
        """Above the high mark, and not down to the low one since."""
        self._is_closed = False
        self._drained: asyncio.Future[None] | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._taken_at_check = 0

    @property
    def size_bytes(self) -> int:
        """Bytes written here that the kernel has not taken."""
        stream = self._stream
        return stream._total_write_index - stream._total_write_done_index

    @property
    def taken_bytes(self) -> int:
        """Bytes of this stream that the kernel ever took."""
        return self._stream._total_write_done_index

    def write(self, data: bytes) -> bool:
        """Hand `data` to the stream. True: the outbox is full. Once closed, here or by the peer, it swallows
        it.
        """
        stream = self._stream
        if self._is_closed or stream.closed():
            return False
        if stream._total_write_index == stream._total_write_done_index:
            data = data[self._send(data) :]
            if not data:
                return False
        stream.write(data)
        if self.is_full:
            return True
        if stream._total_write_index - stream._total_write_done_index <= self._high_bytes:
            return False
        self.is_full = True
        self._taken_at_check = stream._total_write_done_index
        self._stall_timer = asyncio.get_running_loop().call_later(self._stall_seconds, self._check_stall)
        self._await_low_mark()
        return True

    def _send(self, data: bytes) -> int:
        """Offer `data` to the kernel at once, as nothing waits before it; returns how much was taken.

        Tornado's way makes a future of each write and lets the loop resolve it, which costs as much again as
        sending. Nobody waits for these.
        """
        stream = self._stream
        try:
            taken = stream.socket.send(data)
        except OSError:
            # Full, or broken. Tornado meets the same, and knows what to do.
            return 0
        stream._total_write_index += taken
        stream._total_write_done_index += taken
        return taken

    async def drained(self) -> None:
        """Wait until the outbox is not full, or closed."""
        if self.is_full and not self._is_closed:
            if self._drained is None:
                self._drained = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._drained)

    def close(self) -> None:
        """Take nothing more. What was written before still goes out, as long as the stream is open."""
        self._is_closed = True
        self._end_wait()

    def _await_low_mark(self) -> None:
        stream = self._stream
        enough = stream._total_write_index - self._low_bytes
        for end_index, future in stream._write_futures:
            if end_index >= enough:
                future.add_done_callback(self._on_taken)
                return

    def _on_taken(self, future: asyncio.Future[None]) -> None:
        if self._is_closed or future.cancelled() or future.exception() is not None:
            return
        if self.size_bytes > self._low_bytes:
            self._await_low_mark()
            return
        self.is_full = False
        self._end_wait()
        self._on_drained()

    def _end_wait(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
        if self._drained is not None:
            if not self._drained.done():
                self._drained.set_result(None)
            self._drained = None

    def _check_stall(self) -> None:
        self._stall_timer = None
        taken = self.taken_bytes
        if taken == self._taken_at_check:
            self._on_stalled()
            return
        self._taken_at_check = taken
        self._stall_timer = asyncio.get_running_loop().call_later(self._stall_seconds, self._check_stall)
