"""Outbox: what one connection was handed and the kernel has not taken yet, between its high and its low mark.

Bytes go to Tornado's stream as they are: one write a batch, the same bytes object for every subscriber that shares it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tornado.ioloop import IOLoop
from tornado.iostream import IOStream


class Outbox:
    """Counts a stream's unsent bytes. Above `high_bytes` `write` says so; at `low_bytes` or below `on_drained` is called, once for each time
    it was above. If it stays above for `stall_seconds` without a byte going out, `on_stalled` is called.

    Tornado keeps the count itself (total written, total taken), and a future for each write; neither is public. They are read here and
    nowhere else.
    """

    __slots__ = (
        "_high_bytes",
        "_is_full",
        "_low_bytes",
        "_on_drained",
        "_on_stalled",
        "_stall_seconds",
        "_stall_timer",
        "_stream",
        "_taken_at_check",
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
        self._is_full = False
        self._stall_timer: Any = None
        self._taken_at_check = 0

    @property
    def size_bytes(self) -> int:
        """Bytes written here that the kernel has not taken."""
        stream: Any = self._stream
        return int(stream._total_write_index - stream._total_write_done_index)

    def write(self, data: bytes) -> bool:
        """Hand `data` to the stream. True: the outbox is above its high mark. A closed stream swallows it."""
        stream = self._stream
        if stream.closed():
            return False
        # The future is for those who wait for one write; here the marks do.
        stream.write(data).add_done_callback(_ignore_closed)
        if self.size_bytes <= self._high_bytes:
            return False
        if not self._is_full:
            self._is_full = True
            self._watch()
        return True

    def close(self) -> None:
        if self._stall_timer is not None:
            IOLoop.current().remove_timeout(self._stall_timer)
            self._stall_timer = None

    def _watch(self) -> None:
        stream: Any = self._stream
        self._taken_at_check = stream._total_write_done_index
        self._stall_timer = IOLoop.current().call_later(self._stall_seconds, self._check_stall)
        self._await_low_mark()

    def _await_low_mark(self) -> None:
        stream: Any = self._stream
        enough = stream._total_write_index - self._low_bytes
        for end_index, future in stream._write_futures:
            if end_index >= enough:
                future.add_done_callback(self._on_taken)
                return

    def _on_taken(self, future: asyncio.Future[None]) -> None:
        if future.cancelled() or future.exception() is not None or not self._is_full:
            return
        if self.size_bytes > self._low_bytes:
            self._await_low_mark()
            return
        self._is_full = False
        self.close()
        self._on_drained()

    def _check_stall(self) -> None:
        stream: Any = self._stream
        self._stall_timer = None
        if not self._is_full or stream.closed():
            return
        if stream._total_write_done_index == self._taken_at_check:
            self._on_stalled()
            return
        self._taken_at_check = stream._total_write_done_index
        self._stall_timer = IOLoop.current().call_later(self._stall_seconds, self._check_stall)


def _ignore_closed(future: asyncio.Future[None]) -> None:
    if not future.cancelled():
        future.exception()
