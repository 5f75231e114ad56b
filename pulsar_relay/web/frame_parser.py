"""FrameParser: the bytes of a WebSocket client, taken apart into messages and control frames (RFC 6455)."""

from __future__ import annotations

from tornado.util import _websocket_mask as unmasked

from pulsar_relay.errors import ERRORS

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

PROTOCOL_ERROR = 1002
TOO_LARGE = ERRORS["frame_too_large"].close_code or 1009

_FIN, _RESERVED, _OPCODE, _CONTROL = 0x80, 0x70, 0x0F, 0x8
_MASKED, _LENGTH = 0x80, 0x7F
_WHOLE_TEXT = _FIN | TEXT
_OPCODES = frozenset({CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG})


class FramingError(Exception):
    """The peer sends what no client may, or too much of it. `close_code` and the text are what it is told."""

    def __init__(self, close_code: int, reason: str) -> None:
        super().__init__(reason)
        self.close_code = close_code


class FrameParser:
    """Given bytes as they come, it returns each message whole, whatever frames it came in, and the control
    frames that came in between. A text is not yet known to be UTF-8.

    What is not yet returned it keeps: at most what was fed last and one message of `max_bytes`.
    """

    __slots__ = ("_at", "_data", "_max_bytes", "_message", "_opcode")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._data: bytes | bytearray = b""
        self._at = 0
        self._message: bytearray | None = None
        """What has come of a message in fragments, whose kind is `_opcode`."""
        self._opcode = 0

    def feed(self, data: bytes) -> None:
        if not self._data:
            self._data = data
            return
        # A buffer, which grows without being copied for each piece of a large frame.
        if isinstance(self._data, bytearray):
            del self._data[: self._at]
        else:
            self._data = bytearray(self._data[self._at :])
        self._at = 0
        self._data += data

    def next(self) -> tuple[int, bytes] | None:
        """The next message or control frame, as opcode and payload; None as long as it is not complete.

        Raises FramingError; what comes after that has no meaning any more.
        """
        while True:
            data, at = self._data, self._at
            available = len(data) - at
            if available < 2:
                if not available:
                    self._data, self._at = b"", 0
                return None
            first, second = data[at], data[at + 1]
            if first != _WHOLE_TEXT or second < _MASKED or self._message is not None:
                self._refuse_impossible(first, second)
            length = second & _LENGTH
            start = at + 6
            if length > 125:
                extended = 2 if length == 126 else 8
                if available < 2 + extended:
                    return None
                length = int.from_bytes(data[at + 2 : at + 2 + extended], "big")
                start += extended
            if length > self._max_bytes or self._message is not None:
                self._refuse_large(first, length)
            end = start + length
            if end > len(data):
                return None
            self._at = end
            payload = unmasked(bytes(data[start - 4 : start]), bytes(data[start:end]))
            if first == _WHOLE_TEXT:
                return TEXT, payload
            opcode = first & _OPCODE
            if opcode >= _CONTROL:
                return opcode, payload
            if opcode != CONTINUATION:
                if first & _FIN:
                    return opcode, payload
                self._opcode = opcode
                self._message = bytearray(payload)
                continue
            assert self._message is not None
            self._message += payload
            if first & _FIN:
                whole, self._message = bytes(self._message), None
                return self._opcode, whole

    def _refuse_impossible(self, first: int, second: int) -> None:
        opcode = first & _OPCODE
        is_control = opcode >= _CONTROL
        if (
            first & _RESERVED  # an extension that was not agreed to
            or opcode not in _OPCODES
            or second < _MASKED
            or (is_control and (not first & _FIN or second & _LENGTH > 125))
            or (not is_control and (opcode == CONTINUATION) != (self._message is not None))
        ):
            raise FramingError(PROTOCOL_ERROR, "protocol_error")

    def _refuse_large(self, first: int, length: int) -> None:
        if first & _OPCODE < _CONTROL and length + len(self._message or b"") > self._max_bytes:
            raise FramingError(TOO_LARGE, "frame_too_large")


def is_proper_close(payload: bytes) -> bool:
    """Whether a close frame has a code that may be sent and a reason in UTF-8, or is empty."""
    if not payload:
        return True
    code = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else 0
    try:
        payload[2:].decode("utf-8")
    except UnicodeDecodeError:
        return False
    return (1000 <= code <= 1014 and code not in (1004, 1005, 1006)) or 3000 <= code <= 4999


def close_frame(close_code: int, reason: str = "") -> bytes:
    return control_frame(CLOSE, close_code.to_bytes(2, "big") + reason.encode()[:123])


def control_frame(opcode: int, payload: bytes = b"") -> bytes:
    """As a server sends it: unmasked. `payload` is at most 125 bytes."""
    return bytes((_FIN | opcode, len(payload))) + payload
