"""Reader: messages of some topics over any transport, across broken connections, each once and in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing

from pulsar_relay.client.backoff import Backoff
from pulsar_relay.client.errors import ClientError, UnreachableError
from pulsar_relay.client.frames import Frame, MessageFrame, NoticeFrame, PositionFrame
from pulsar_relay.client.transports import Transport

EARLIEST = "earliest"
LATEST = "latest"
ACKED = "acked"


class Reader:
    """Reads from `since` on: topic to message id, `earliest`, `latest` or, under a name, `acked`.

    `cursors` is where it stands.

    `on_interruption` is told of each broken connection and the seconds until the next try.
    """

    def __init__(
        self,
        transport: Transport,
        since: Mapping[str, str],
        *,
        backoff: Backoff,
        on_interruption: Callable[[ClientError, float], None],
    ) -> None:
        self._transport = transport
        self._backoff = backoff
        self._on_interruption = on_interruption
        self._has_connected = False
        self.is_connected = False
        self.cursors = dict(since)
        self._epochs: dict[str, str] = {}

    async def frames(self) -> AsyncGenerator[MessageFrame | NoticeFrame]:
        """Messages and notices, for ever. A message moves the cursor when the next one is asked for.

        Raises ClientError for what trying again does not cure, and UnreachableError if there never was a
        connection: then it is more often the address that is wrong.
        """
        while True:
            try:
                async with aclosing(self._transport.frames(dict(self.cursors), dict(self._epochs))) as frames:
                    async for frame in frames:
                        self._has_connected = self.is_connected = True
                        self._backoff.reset()
                        if isinstance(frame, PositionFrame):
                            self.cursors.update(frame.cursors)
                            self._epochs.update(frame.epochs)
                        elif self._is_news(frame):
                            yield frame
                            self._move_to(frame)
            except ClientError as error:
                self.is_connected = False
                is_hopeless = isinstance(error, UnreachableError) and not self._has_connected
                if is_hopeless or not error.is_retryable:
                    raise
                seconds = self._backoff.next(error.retry_after_seconds)
                self._on_interruption(error, seconds)
                await asyncio.sleep(seconds)

    def _is_news(self, frame: Frame) -> bool:
        """False for a message that came before: what an earlier connection sent and this one repeats."""
        if not isinstance(frame, MessageFrame):
            return True
        have = number(self.cursors.get(frame.topic, ""))
        new = number(frame.message_id)
        return have is None or new is None or new > have

    def _move_to(self, frame: MessageFrame | NoticeFrame) -> None:
        if isinstance(frame, MessageFrame):
            self.cursors[frame.topic] = frame.message_id
        elif frame.kind == "reset":
            # The old cursor is no part of this history: what comes may well have lower ids.
            self.cursors[frame.topic] = EARLIEST
            self._epochs.pop(frame.topic, None)


def number(message_id: str) -> tuple[int, int] | None:
    """An id as its two numbers, by which ids are ordered; None for `earliest`, and ids of other relays."""
    milliseconds, _, count = message_id.partition("-")
    try:
        return int(milliseconds), int(count)
    except ValueError:
        return None
