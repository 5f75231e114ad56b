"""Server-Sent Events: the bytes of a response that does not end, cut into frames."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing

from tornado.http1connection import HTTP1Connection, HTTP1ConnectionParameters
from tornado.httputil import HTTPHeaders, HTTPMessageDelegate, RequestStartLine, ResponseStartLine
from tornado.iostream import IOStream, StreamClosedError
from tornado.tcpclient import TCPClient

from pulsar_relay.client.address import Address
from pulsar_relay.client.errors import LostError, NotARelayError
from pulsar_relay.client.frames import Frame, read_frame
from pulsar_relay.client.http import CONNECT_SECONDS, USER_AGENT, bearing, failure, refusal

SILENCE_SECONDS = 90.0
"""A stream without so much as a comment for this long is dead."""
CHUNKS_AHEAD = 4
ERROR_BYTES = 64 * 1024
ENDLESS_BYTES = 1 << 62
"""Tornado bounds a response; this one goes on for as long as there is something to say."""


class EventParser:
    """Feed it chunks cut anywhere; it yields the data of each event once that is complete."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        *complete, rest = chunk.split(b"\n")
        for end in complete:
            self._line += end
            line = bytes(self._line.removesuffix(b"\r"))
            self._line.clear()
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                data, self._data = b"\n".join(self._data), []
                yield data
        self._line += rest


class EventTransport:
    """GET /api/v1/stream. Tornado's HTTP client cannot leave a response half read, its connection can."""

    def __init__(
        self, address: Address, client_id: str | None = None, silence_seconds: float = SILENCE_SECONDS
    ) -> None:
        self._address = address
        self._client_id = client_id
        self._silence_seconds = silence_seconds

    async def frames(self, cursors: Mapping[str, str], epochs: Mapping[str, str]) -> AsyncGenerator[Frame]:
        since = ",".join(f"{topic}:{cursor}" for topic, cursor in cursors.items())
        query = {"topics": ",".join(cursors), "since": since}
        if self._client_id is not None:
            query["client_id"] = self._client_id
        target = self._address.target("/api/v1/stream", query)
        parser = EventParser()
        stream = await self._connect()
        try:
            async with aclosing(self._chunks(stream, target)) as chunks:
                async for chunk in chunks:
                    for data in parser.feed(chunk):
                        frame = read_frame(data)
                        if frame is not None:
                            yield frame
        finally:
            stream.close()

    async def _connect(self) -> IOStream:
        host, port = self._address.host_and_port
        context = ssl.create_default_context() if self._address.is_secure else None
        try:
            return await TCPClient().connect(host, port, ssl_options=context, timeout=CONNECT_SECONDS)
        except OSError as error:
            raise failure(self._address, error) from error

    async def _chunks(self, stream: IOStream, target: str) -> AsyncGenerator[bytes]:
        response = _Response()
        shown = bearing(await self._address.credentials.shown())
        reading = asyncio.create_task(self._exchange(stream, target, shown, response))
        try:
            while True:
                async with asyncio.timeout(self._silence_seconds):
                    chunk = await response.chunks.get()
                if chunk is None or len(response.error_body) > ERROR_BYTES:
                    break
                if response.is_stream:
                    yield chunk
                else:
                    response.error_body += chunk
        except TimeoutError:
            raise LostError(f"nothing was heard for {self._silence_seconds:g} s.") from None
        finally:
            reading.cancel()
        if response.status not in (0, 200):
            raise refusal(self._address, response.status, response.headers, bytes(response.error_body))
        if response.status and not response.is_stream:
            raise NotARelayError("what came is no stream of events.")
        raise LostError("the stream of events ended.")

    async def _exchange(
        self, stream: IOStream, target: str, shown: Mapping[str, str], response: _Response
    ) -> None:
        """Ask, then read to the end; the end is a None among the chunks."""
        host, port = self._address.host_and_port
        connection = HTTP1Connection(
            stream, True, HTTP1ConnectionParameters(no_keep_alive=True, max_body_size=ENDLESS_BYTES)
        )
        headers = HTTPHeaders(
            {"Host": f"{host}:{port}", "Accept": "text/event-stream", "User-Agent": USER_AGENT, **shown}
        )
        try:
            await connection.write_headers(RequestStartLine("GET", target, "HTTP/1.1"), headers)
            connection.finish()
            await connection.read_response(response)
        except StreamClosedError:
            pass
        finally:
            await response.chunks.put(None)


class _Response(HTTPMessageDelegate):
    """What has come of the response. A full queue makes Tornado read no further."""

    def __init__(self) -> None:
        self.status = 0
        self.headers = HTTPHeaders()
        self.error_body = bytearray()
        self.chunks: asyncio.Queue[bytes | None] = asyncio.Queue(CHUNKS_AHEAD)

    @property
    def is_stream(self) -> bool:
        kind = self.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        return self.status == 200 and kind == "text/event-stream"

    async def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> None:
        assert isinstance(start_line, ResponseStartLine)
        self.status, self.headers = start_line.code, headers

    async def data_received(self, chunk: bytes) -> None:
        await self.chunks.put(chunk)
