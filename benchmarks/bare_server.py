"""A server that does what a relay must do at the least: the same answers, the same bytes to the same sockets.

    python -m benchmarks.bare_server PORT

It stores nothing, checks nothing, promises nothing, and believes that each read is one whole request of
this harness. What it reaches is the physical limit for a relay in Python on one core, and shows that the load
can go at least that fast.
"""

from __future__ import annotations

import asyncio
import gc
import re
import struct
import sys
from typing import Any

import uvloop

TOPIC = re.compile(rb'"topic":"([^"]*)"')
MESSAGE = re.compile(rb'\{"topic":"([^"]*)","payload":(\{[^}]*\})')
SUBSCRIBED_TOPICS = re.compile(rb'"topics":\s*\["([^"]*)"')
SINCE = re.compile(rb'"since": \{"[^"]*": "(?:1700000000000-(\d+))?"')
OFFSET = re.compile(rb'"offset":"(earliest|1700000000000-(\d+))"')
REF = re.compile(rb'"ref":(\d+)')
TIME = b"2026-01-01T00:00:00.000000Z"
ITEM = (
    b'{"type":"message","message_id":"1700000000000-%d","topic":"%b","payload":%b,'
    b'"timestamp":"%b","metadata":null}'
)
CREATED = b'{"message_id":"1700000000000-%d","topic":"%b","timestamp":"%b"}'
RESULT = b'{"message_id":"1700000000000-%d","topic":"%b","status":"accepted","error":null,"code":null}'
HEAD = (
    b"HTTP/1.1 %b\r\nServer: bare\r\nContent-Type: application/json\r\n"
    b"Date: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Length: %d\r\n\r\n%b"
)
UPGRADED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
STREAM = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"1b\r\nevent: subscribed\ndata: {}\n\n\r\n"
)
PAGE_MESSAGES = 1000


class Topic:
    """Its messages as ready items, and who receives them, at most once a turn of the loop."""

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.items: list[bytes] = []
        self.sockets: set[Connection] = set()
        self.streams: set[Connection] = set()
        self.pollers: dict[Connection, int] = {}
        self._sent = 0
        self._is_due = False

    def add(self, payload: bytes) -> int:
        self.items.append(ITEM % (len(self.items), self.name, payload, TIME))
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._send)
        return len(self.items) - 1

    def _send(self) -> None:
        self._is_due = False
        fresh = self.items[self._sent :]
        self._sent = len(self.items)
        for connections, encode in ((self.sockets, frames), (self.streams, events)):
            if connections:
                data = encode(fresh)
                for connection in connections:
                    connection.write(data)
        pollers, self.pollers = self.pollers, {}
        pages: dict[int, bytes] = {}
        for connection, position in pollers.items():
            if position not in pages:
                pages[position] = self.page(position)
            connection.write(pages[position])

    def page(self, position: int) -> bytes:
        items = self.items[position : position + PAGE_MESSAGES]
        body = b'{"messages":[%b],"has_more":false,"cursors":{"%b":"1700000000000-%d"}}'
        return answer(b"200 OK", body % (b",".join(items), self.name, position + len(items) - 1))


def answer(status: bytes, body: bytes) -> bytes:
    return HEAD % (status, len(body), body)


def frames(items: list[bytes]) -> bytes:
    return b"".join([frame(item) for item in items])


def frame(text: bytes) -> bytes:
    if len(text) < 126:
        return bytes((0x81, len(text))) + text
    return b"\x81\x7e" + struct.pack("!H", len(text)) + text


def events(items: list[bytes]) -> bytes:
    data = b"".join([b"id: 1700000000000-1\nevent: message\ndata: %b\n\n" % item for item in items])
    return b"%x\r\n%b\r\n" % (len(data), data)


class Connection(asyncio.Protocol):
    """One client, a socket or a sequence of requests."""

    __slots__ = ("_is_socket", "_joined", "_rest", "_topics", "write")

    def __init__(self, topics: dict[bytes, Topic]) -> None:
        self._topics = topics
        self._is_socket = False
        self._joined: set[Connection] | None = None
        self._rest = b""

    def connection_made(self, transport: Any) -> None:
        self.write = transport.write

    def connection_lost(self, error: Exception | None) -> None:
        if self._joined is not None:
            self._joined.discard(self)

    def data_received(self, data: bytes) -> None:
        if self._is_socket:
            self._frames(self._rest + data)
        elif data.startswith(b"POST /api/v1/messages "):
            self._publish(data)
        elif data.startswith(b"POST /messages/poll "):
            self._poll(data)
        elif data.startswith(b"GET /ws "):
            self._is_socket = True
            self.write(UPGRADED)
        elif data.startswith(b"GET /api/v1/stream"):
            name = data[data.index(b"topics=") + 7 : data.index(b"&")]
            self.write(STREAM)
            self._join(self._topic(name).streams)
        else:
            self._bulk(self._rest + data)

    def _topic(self, name: bytes) -> Topic:
        topic = self._topics.get(name)
        if topic is None:
            topic = self._topics[name] = Topic(name)
        return topic

    def _join(self, connections: set[Connection]) -> None:
        connections.add(self)
        self._joined = connections

    def _publish(self, data: bytes) -> None:
        start = data.index(b'"topic":"') + 9
        name = data[start : data.index(b'"', start)]
        number = self._topic(name).add(data[data.index(b'"payload":', start) + 10 : -1])
        self.write(answer(b"201 Created", CREATED % (number, name, TIME)))

    def _bulk(self, data: bytes) -> None:
        head_end = data.find(b"\r\n\r\n") + 4
        length_at = data.find(b"Content-Length: ") + 16
        if head_end < 4 or len(data) < head_end + int(data[length_at : data.index(b"\r", length_at)]):
            self._rest = data
            return
        self._rest = b""
        results = []
        for name, payload in MESSAGE.findall(data, head_end):
            results.append(RESULT % (self._topic(name).add(payload), name))
        summary = b'{"results":[%b],"summary":{"total":%d,"accepted":%d,"rejected":0}}'
        body = summary % (b",".join(results), len(results), len(results))
        self.write(answer(b"207 Multi-Status", body))

    def _poll(self, data: bytes) -> None:
        name = SUBSCRIBED_TOPICS.search(data)[1]  # type: ignore[index]
        since = SINCE.search(data)[1]  # type: ignore[index]
        topic = self._topic(name)
        position = 0 if since is None else int(since) + 1
        if position < len(topic.items):
            self.write(topic.page(position))
        else:
            topic.pollers[self] = position

    def _frames(self, data: bytes) -> None:
        """Of this harness: masked with zeros, and whole in the end."""
        replies: list[bytes] = []
        at = 0
        while len(data) - at >= 6:
            length, start = data[at + 1] & 0x7F, at + 6
            if length == 126:
                length, start = int.from_bytes(data[at + 2 : at + 4], "big"), at + 8
            if len(data) < start + length:
                break
            self._frame(data[start : start + length], replies)
            at = start + length
        self._rest = data[at:]
        if replies:
            self.write(b"".join(replies))

    def _frame(self, text: bytes, replies: list[bytes]) -> None:
        if text.startswith(b'{"type":"subscribe"'):
            topic = self._topic(SUBSCRIBED_TOPICS.search(text)[1])  # type: ignore[index]
            replies.append(frame(b'{"type":"subscribed"}'))
            if offset := OFFSET.search(text):
                replies.append(frames(topic.items[0 if offset[2] is None else int(offset[2]) + 1 :]))
            self._join(topic.sockets)
        elif text.startswith(b'{"type":"publish"'):
            name = TOPIC.search(text)[1]  # type: ignore[index]
            number = self._topic(name).add(text[text.index(b'"payload":') + 10 : text.rindex(b',"ref"')])
            told = (int(REF.search(text)[1]), number, name, TIME)  # type: ignore[index]
            replies.append(
                frame(
                    b'{"type":"published","ref":%d,"message_id":"1700000000000-%d","topic":"%b","timestamp":"%b"}'
                    % told
                )
            )


async def serve(port: int) -> None:
    topics: dict[bytes, Topic] = {}
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(topics), "127.0.0.1", port, backlog=4096
    )
    gc.freeze()
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
