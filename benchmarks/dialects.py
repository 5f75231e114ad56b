"""What each target is told, as bytes: requests made before the clock runs, with a gap for the number.

A dialect is sent to the processes that make the load, so it holds plain values only. What a target cannot do,
its dialect has no method for, and the target says so in `cannot`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.messages import Template, filled_length

HOST = b"Host: 127.0.0.1\r\n"
UPGRADE = (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


@dataclass(frozen=True, slots=True)
class Subscription:
    """How a connection that receives begins: a request, and for a WebSocket a frame after its answer."""

    request: bytes
    frame: bytes = b""
    confirmation: bytes = b"\r\n\r\n"
    """Once this was received, what is published from now on will be delivered."""


def post(path: str, body: bytes, headers: bytes = b"", content_type: str = "application/json") -> bytes:
    """A request's template. `body` and `headers` may hold `%d`."""
    return (
        b"POST %b HTTP/1.1\r\n%bContent-Type: %b\r\nContent-Length: %d\r\n"
        % (
            path.encode(),
            HOST,
            content_type.encode(),
            filled_length(body),
        )
        + headers
        + b"\r\n"
        + body
    )


def text_frame(text: bytes) -> bytes:
    """A client's WebSocket frame; its mask is 0, which leaves the text as it is. `text` may hold `%d`."""
    length = filled_length(text)
    if length < 126:
        return struct.pack("!BB", 0x81, 0x80 | length) + b"\0\0\0\0" + text
    return struct.pack("!BBH", 0x81, 0xFE, length) + b"\0\0\0\0" + text


@dataclass(frozen=True, slots=True)
class RelayDialect:
    """What this relay, its predecessor and the bare server understand."""

    login: bytes = b""
    """Headers that every request needs."""
    subprotocols: str = ""
    client_id: str = ""
    """What the predecessor's WebSockets must say, and it does nothing with."""
    page_messages: int = 1000
    """Most messages in one poll's answer; 0: the target decides, and has no such field."""

    def publish(self, topic: str, payload: bytes, key: str = "") -> Template:
        """One message a request; with `key`, each under an Idempotency-Key of its own that begins with it."""
        headers = self.login
        if key:
            headers += b"Idempotency-Key: %b-" % key.encode() + b"%d\r\n"
        return Template(post("/api/v1/messages", _message(topic, payload), headers))

    def bulk(self, topic: str, payload: bytes, messages: int) -> Template:
        body = b'{"messages":[' + b",".join([_message(topic, payload)] * messages) + b"]}"
        return Template(post("/api/v1/messages/bulk", body, self.login), messages)

    def ndjson(self, topic: str, payload: bytes, messages: int) -> Template:
        body = (_message(topic, payload) + b"\n") * messages
        request = post("/api/v1/messages/bulk", body, self.login, "application/x-ndjson")
        return Template(request, messages)

    def publish_frame(self, topic: str, payload: bytes) -> Template:
        text = b'{"type":"publish","topic":"' + topic.encode() + b'","payload":' + payload + b',"ref":%d}'
        return Template(text_frame(text))

    def websocket(self, topics: Sequence[str], since: str = "latest") -> Subscription:
        frame: dict[str, object] = {"type": "subscribe", "topics": list(topics), "offset": since}
        if self.client_id:
            frame["client_id"] = self.client_id
        text = json.dumps(frame, separators=(",", ":")).encode()
        return Subscription(self.open_websocket(), text_frame(text), b'"subscribed"')

    def open_websocket(self) -> bytes:
        offered = f"Sec-WebSocket-Protocol: {self.subprotocols}\r\n" if self.subprotocols else ""
        return b"GET /ws HTTP/1.1\r\n" + HOST + UPGRADE + offered.encode() + b"\r\n"

    def sse(self, topics: Sequence[str], since: str = "latest") -> Subscription:
        path = f"/api/v1/stream?topics={','.join(topics)}&since={since}"
        head = b"GET %b HTTP/1.1\r\n" % path.encode() + HOST + self.login
        return Subscription(head + b"Accept: text/event-stream\r\n\r\n", b"", b"event: subscribed")

    def poll(self, topic: str, answer: bytes) -> bytes:
        """The poll after `answer`, the one before; without one, from the oldest message."""
        start = answer.rfind(b'"message_id":"') + len(b'"message_id":"')
        cursor = answer[start : answer.index(b'"', start)].decode() if answer else ""
        request: dict[str, object] = {"topics": [topic], "since": {topic: cursor}, "timeout": 10}
        if self.page_messages:
            request["limit"] = self.page_messages
        return post("/messages/poll", json.dumps(request).encode(), self.login)


def _message(topic: str, payload: bytes) -> bytes:
    return b'{"topic":"%b","payload":%b}' % (topic.encode(), payload)


@dataclass(frozen=True, slots=True)
class NchanDialect:
    """What the locations of `targets/nchan.conf` understand: a message is the body as it is."""

    def publish(self, topic: str, payload: bytes, key: str = "") -> Template:
        return Template(post(f"/publish?id={topic}", payload))

    def websocket(self, topics: Sequence[str], since: str = "latest") -> Subscription:
        return Subscription(self._subscribe(topics, since) + UPGRADE + b"\r\n")

    def sse(self, topics: Sequence[str], since: str = "latest") -> Subscription:
        return Subscription(self._subscribe(topics, since) + b"Accept: text/event-stream\r\n\r\n")

    def poll(self, topic: str, answer: bytes) -> bytes:
        since = b""
        if answer:
            since = b"If-Modified-Since: %b\r\nIf-None-Match: %b\r\n" % (
                _header(answer, b"\r\nLast-Modified: "),
                _header(answer, b"\r\nEtag: "),
            )
        return b"GET /oldest?id=%b HTTP/1.1\r\n" % topic.encode() + HOST + since + b"\r\n"

    def _subscribe(self, topics: Sequence[str], since: str) -> bytes:
        (topic,) = topics
        place = "oldest" if since == "earliest" else "newest"
        return b"GET /%b?id=%b HTTP/1.1\r\n" % (place.encode(), topic.encode()) + HOST


def _header(answer: bytes, name: bytes) -> bytes:
    start = answer.index(name) + len(name)
    return answer[start : answer.index(b"\r\n", start)]


Dialect = RelayDialect | NchanDialect
