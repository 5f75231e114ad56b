"""A TCP proxy in front of a Valkey server, to lose, hold and cut what travels between them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from types import TracebackType
from typing import Self

_CHUNK_BYTES = 64 * 1024


class Proxy:
    """Listens on a free loopback port and forwards to a unix socket; runs in the loop of the test.

    The switches may be changed at any time, and concern connections that are open too.
    """

    def __init__(self, socket_path: str, *, tls: ssl.SSLContext | None = None) -> None:
        self.socket_path = socket_path
        """Where new connections go."""
        self._tls = tls
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.host = "127.0.0.1"
        self.port = 0
        self.connections = 0
        """How many were ever accepted."""
        self.request_chunks = 0
        """How many reads it took to receive all requests: those sent in one write mostly come in one."""
        self.replies_to_lose = 0
        """So many next replies do not arrive: the connection is reset in their place."""
        self.is_black_hole = False
        """Swallows everything in both directions, and keeps the connections open."""
        self.swallows_replies = False
        """Swallows what the server says, and keeps the connections open."""
        self.bytes_a_second: float | None = None
        """Speed limit of requests."""

    async def __aenter__(self) -> Self:
        listener = socket.create_server((self.host, 0))
        # Small, also for sockets it accepts: what the proxy has not read is not acknowledged to the sender.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _CHUNK_BYTES)
        self._server = await asyncio.start_server(self._serve, sock=listener, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        self.reset()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def open_connections(self) -> int:
        return len(self._tasks)

    def reset(self) -> None:
        """Cut all connections at once, without a word to either side."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, client_reader: asyncio.StreamReader, client_writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            server_reader, server_writer = await asyncio.open_unix_connection(self.socket_path)
        except OSError:
            client_writer.transport.abort()
            return
        writers = {client_writer, server_writer}
        self._writers |= writers
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            requests = asyncio.create_task(self._forward_requests(client_reader, server_writer))
            replies = asyncio.create_task(self._forward_replies(server_reader, client_writer))
            await asyncio.wait([requests, replies], return_when=asyncio.FIRST_COMPLETED)
            requests.cancel()
            replies.cancel()
            await asyncio.gather(requests, replies, return_exceptions=True)
        finally:
            for writer in writers:
                writer.transport.abort()
            self._writers -= writers
            self._tasks.discard(task)

    async def _forward_requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK_BYTES):
                self.request_chunks += 1
                if self.bytes_a_second is not None:
                    await asyncio.sleep(len(data) / self.bytes_a_second)
                if not self.is_black_hole:
                    writer.write(data)
                    await writer.drain()

    async def _forward_replies(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK_BYTES):
                if self.replies_to_lose > 0:
                    self.replies_to_lose -= 1
                    return
                if not self.is_black_hole and not self.swallows_replies:
                    writer.write(data)
                    await writer.drain()
