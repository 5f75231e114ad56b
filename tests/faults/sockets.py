"""WebSocket clients below any library: one that never reads, and one that reads as fast as bytes come.

What a subscriber costs the relay is measured with clients that cost next to nothing themselves.
"""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import struct
from typing import Any

from tests.conditions import WAIT_SECONDS

MESSAGE_ID = re.compile(rb'"message_id":"([0-9]+)-([0-9]+)"')


def open_socket(port: int, *, receive_buffer_bytes: int | None = None) -> socket.socket:
    """A socket on `/ws` after the handshake, blocking; nothing of its frames has been read."""
    connection = socket.socket()
    if receive_buffer_bytes is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    connection.settimeout(WAIT_SECONDS)
    connection.connect(("127.0.0.1", port))
    key = base64.b64encode(os.urandom(16)).decode()
    head = (
        "GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    connection.sendall(head.encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        received = connection.recv(1)
        assert received, answer
        answer += received
    assert answer.startswith(b"HTTP/1.1 101 "), answer
    return connection


def send_frame(connection: socket.socket, value: Any) -> None:
    """One masked text frame; its mask is 0, which leaves the text as it is."""
    text = json.dumps(value).encode()
    length = struct.pack("!BB", 0x81, 0xFE) + struct.pack("!H", len(text))
    if len(text) < 126:
        length = struct.pack("!BB", 0x81, 0x80 | len(text))
    connection.sendall(length + b"\0\0\0\0" + text)


class Skimmer:
    """Reads a subscription's frames without parsing them: the numbers in the message ids, in their order."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.numbers: list[int] = []
        self._rest = b""

    def read(self) -> bool:
        """Take what is there; False when the relay has closed."""
        data = self.connection.recv(1 << 18)
        text = self._rest + data
        end = 0
        for found in MESSAGE_ID.finditer(text):
            self.numbers.append(int(found[2]))
            end = found.end()
        # An id may be cut in two.
        self._rest = text[max(end, len(text) - 80) :]
        return bool(data)
