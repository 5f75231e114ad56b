"""One client on a WebSocket, for tests: frames as Python values, and the raw bytes where it matters."""

from __future__ import annotations

import json
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.conditions import WAIT_SECONDS


class Talk:
    """Speaks with a relay's `/ws`; options are those of `websockets.sync.client.connect`."""

    def __init__(self, url: str, **options: Any) -> None:
        usual = {"max_size": None, "close_timeout": 1, "ping_interval": None, "compression": None}
        self._open = ExitStack()
        self.socket = self._open.enter_context(connect(url, **(usual | options)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._open.close()

    def say(self, kind: str, **fields: Any) -> None:
        self.socket.send(json.dumps({"type": kind, **fields}))

    def say_raw(self, text: str | bytes) -> None:
        """One text frame, of bytes as they are."""
        self.socket.send(text, text=True)

    def hear_raw(self, seconds: float = WAIT_SECONDS) -> bytes:
        frame = self.socket.recv(seconds, decode=False)
        assert isinstance(frame, bytes)
        return frame

    def hear(self, kind: str | None = None, seconds: float = WAIT_SECONDS) -> dict[str, Any]:
        """The next frame, which must be a `kind`."""
        frame: dict[str, Any] = json.loads(self.hear_raw(seconds))
        assert kind is None or frame["type"] == kind, frame
        return frame

    def ask(self, kind: str, answer: str, **fields: Any) -> dict[str, Any]:
        """Say something and hear the answer, which is the next frame."""
        self.say(kind, **fields)
        return self.hear(answer)

    def subscribe(self, *topics: str, **fields: Any) -> dict[str, Any]:
        return self.ask("subscribe", "subscribed", topics=list(topics), **fields)

    def messages(self, count: int) -> list[Any]:
        """The payloads of the next `count` frames, all messages."""
        return [self.hear("message")["payload"] for _ in range(count)]

    def close_code(self) -> int:
        """Read until the relay closes; the code it gives."""
        return self.closing()[0]

    def closing(self) -> tuple[int, str]:
        with pytest.raises(ConnectionClosed) as ended:  # noqa: PT012  # whatever comes before does not matter
            while True:
                self.socket.recv(WAIT_SECONDS)
        close = ended.value.rcvd
        assert close is not None, "cut off without a close frame"
        return close.code, close.reason
