"""A network that can fail, in front of a Valkey or a relay: a TCP proxy with a thread of its own.

    client ──▶ requests ──▶ server
    client ◀── replies  ◀── server

Each of the two ways can be late, slow, mute or cut; the whole can be a black hole, refuse connections, or
reset them. All of it may be changed at any time, concerns open connections too, and holds when the call that
changed it returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence, Set
from types import TracebackType
from typing import Any, Self, TypeVar

import pytest

T = TypeVar("T")

Target = str | tuple[str, int]
"""The path of a unix socket, or a host and port."""

CHUNK_BYTES = 64 * 1024
FLIGHT_BYTES = 1024 * 1024
"""What one way of a connection holds while it is late; more stays with its sender, as in a network."""
SLICE_SECONDS = 0.02
"""A slow way passes what fits into this time at once."""
_RESET = struct.pack("ii", 1, 0)
_ANSWER_SECONDS = 10.0


class Way:
    """One direction, of all connections. Set the plain values at will; they concern what comes from then on.

    Made by the proxy.
    """

    def __init__(self, chance: random.Random) -> None:
        self.latency_seconds = 0.0
        self.jitter_seconds = 0.0
        """The latency is up to so much more or less, never so that bytes overtake each other."""
        self.bytes_a_second: float | None = None
        """Speed of all connections together."""
        self.bytes_to_cut: int | None = None
        """After so many more bytes the connection that carries the last of them is reset; then None again."""
        self.chunks_to_lose = 0
        """So many next chunks do not arrive: the connection is reset in their place."""
        self.carried_bytes = 0
        self._chance = chance
        self._is_free_at = 0.0
        self._open = asyncio.Event()
        self._open.set()
        self.is_swallowed = False
        """Half-open: what is sent disappears. `FaultProxy.swallow` sets it."""

    def due(self, now: float) -> float:
        """When what was received now is to be delivered, as the line is at the moment."""
        jitter = self._chance.uniform(-self.jitter_seconds, self.jitter_seconds)
        return now + max(0.0, self.latency_seconds + jitter)

    def hold(self, is_held: bool) -> None:
        """Let nothing pass, or all again. In the proxy's loop only: call `FaultProxy.black_hole`."""
        if is_held:
            self._open.clear()
        else:
            self._open.set()

    def slice_bytes(self) -> int:
        """How much may pass at once."""
        speed = self.bytes_a_second
        return CHUNK_BYTES if speed is None else max(1, int(speed * SLICE_SECONDS))

    async def take_time(self, size: int) -> None:
        """Return when the line has had the time to carry so many bytes, and is no black hole."""
        loop = asyncio.get_running_loop()
        if self.bytes_a_second is not None:
            self._is_free_at = max(self._is_free_at, loop.time()) + size / self.bytes_a_second
            await asyncio.sleep(self._is_free_at - loop.time())
        await self._open.wait()


class _Flight:
    """What was sent one way on one connection and has not arrived: delivered in order, each at its time."""

    def __init__(self, way: Way, source: socket.socket, target: socket.socket) -> None:
        self._way = way
        self._source = source
        self._target = target
        # What came, and when it is due; b"" is the end, None a reset.
        self._chunks: asyncio.Queue[tuple[float, bytes | None]] = asyncio.Queue(FLIGHT_BYTES // CHUNK_BYTES)
        self.has_swallowed = False
        self.is_open = asyncio.Event()
        """Cleared while nothing of this connection arrives."""
        self.is_open.set()

    async def carry(self) -> None:
        """Return when one side has ended and the other was told; raises OSError."""
        departing = asyncio.ensure_future(self._depart())
        try:
            await self._arrive()
        finally:
            departing.cancel()
            await asyncio.gather(departing, return_exceptions=True)

    async def _depart(self) -> None:
        loop = asyncio.get_running_loop()
        data: bytes | None = b"-"
        while data:
            try:
                data = await loop.sock_recv(self._source, CHUNK_BYTES)
            except OSError:
                data = None
            await self._chunks.put((self._way.due(loop.time()), data))

    async def _arrive(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, data = await self._chunks.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            await self.is_open.wait()
            if data:
                await self._pass(data)
                continue
            await self._way.take_time(0)
            if data is None:
                raise ConnectionResetError
            self._target.shutdown(socket.SHUT_WR)
            return

    async def _pass(self, data: bytes) -> None:
        loop, way = asyncio.get_running_loop(), self._way
        if way.chunks_to_lose > 0:
            way.chunks_to_lose -= 1
            raise ConnectionResetError
        while data:
            part = data[: way.slice_bytes()]
            await way.take_time(len(part))
            if way.is_swallowed:
                self.has_swallowed = True
                return
            if way.bytes_to_cut is not None:
                part = part[: way.bytes_to_cut]
                way.bytes_to_cut -= len(part)
            await loop.sock_sendall(self._target, part)
            way.carried_bytes += len(part)
            if way.bytes_to_cut == 0:
                way.bytes_to_cut = None
                raise ConnectionResetError
            data = data[len(part) :]


class FaultProxy:
    """Listens on a loopback port of its own (`host`, `port`) for its whole life, and forwards to `target`.

    Usable from blocking tests and from any loop; a context manager. `seed` decides the jitter.
    """

    def __init__(self, target: Target, *, seed: int = 0) -> None:
        self.target = target
        """Where new connections go."""
        self.accepted = 0
        """How many connections were ever accepted."""
        self.host = "127.0.0.1"
        self._loop = asyncio.new_event_loop()
        chance = random.Random(seed)
        self.requests = Way(chance)
        self.replies = Way(chance)
        self._connections: dict[asyncio.Task[None], tuple[_Flight, _Flight]] = {}
        self._ports: dict[int, tuple[_Flight, _Flight]] = {}
        self._listener: socket.socket | None = None
        # Keeps the port ours while nobody listens on it.
        self._claim = _bound_socket(self.host, 0)
        self.port: int = self._claim.getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault proxy", daemon=True)
        self._thread.start()
        self.accept()

    @property
    def url(self) -> str:
        """As an HTTP client needs it, where the target is a relay."""
        return f"http://{self.host}:{self.port}"

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    @property
    def ports(self) -> Set[int]:
        """The ports that the target sees its connections come from."""
        return self._ports.keys()

    def delay(self, seconds: float, jitter_seconds: float = 0.0) -> None:
        """Make both ways so much longer."""
        for way in (self.requests, self.replies):
            way.latency_seconds, way.jitter_seconds = seconds, jitter_seconds

    def swallow(self, way: Way, is_swallowed: bool = True) -> None:
        """Let what is sent this way disappear, or arrive again. Connections that lost something by it are
        reset when it ends: bytes are missing in them.
        """

        async def change() -> None:
            way.is_swallowed = is_swallowed
            if not is_swallowed:
                await self._end(lambda flights: any(flight.has_swallowed for flight in flights))

        self._run(change())

    def black_hole(self, is_black_hole: bool = True, ways: Sequence[Way] = ()) -> None:
        """Let nothing through, and close nothing: connections stay open, new ones are accepted. When that
        ends, all that was sent arrives, late and in order, as after a partition that TCP has outlived. With
        `ways`, only these are closed or opened.
        """

        async def change() -> None:
            for way in ways or (self.requests, self.replies):
                way.hold(is_black_hole)

        self._run(change())

    def black_hole_at(self, port: int, is_black_hole: bool = True) -> None:
        """The same for one connection: the one that the target sees come from this port."""

        async def change() -> None:
            for flight in self._ports.get(port, ()):
                if is_black_hole:
                    flight.is_open.clear()
                else:
                    flight.is_open.set()

        self._run(change())

    def reset(self) -> None:
        """Reset (RST) every open connection, to both sides."""
        self._run(self._end(_any))

    def refuse(self) -> None:
        """Refuse new connections; open ones stay."""
        self._run(self._refuse())

    def accept(self) -> None:
        """Accept new connections again."""
        self._run(self._accept())

    def heal(self) -> None:
        """No fault from now on."""
        for way in (self.requests, self.replies):
            way.latency_seconds = way.jitter_seconds = 0.0
            way.bytes_a_second = way.bytes_to_cut = None
            way.chunks_to_lose = 0
            self.swallow(way, False)
        for port in list(self._ports):
            self.black_hole_at(port, False)
        self.black_hole(False)
        self.accept()

    def close(self) -> None:
        """Reset all connections and end; returns when nothing is left. May be called again."""
        if self._loop.is_closed():
            return
        self._run(self._refuse())
        self.black_hole(False)
        self._run(self._end(_any))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_ANSWER_SECONDS)
        self._loop.close()
        self._claim.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_ANSWER_SECONDS)

    async def _accept(self) -> None:
        if self._listener is None:
            self._listener = _bound_socket(self.host, self.port)
            self._listener.listen(1024)
            self._loop.add_reader(self._listener, self._on_connection, self._listener)

    async def _refuse(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            self._loop.remove_reader(listener)
            listener.close()

    def _on_connection(self, listener: socket.socket) -> None:
        # Who dialled may have gone meanwhile.
        with contextlib.suppress(OSError):
            client, _ = listener.accept()
            self.accepted += 1
            self._begin(client)

    def _begin(self, client: socket.socket) -> None:
        client.setblocking(False)
        server = socket.socket(socket.AF_UNIX if isinstance(self.target, str) else socket.AF_INET)
        server.setblocking(False)
        for side in (client, server):
            if side.family == socket.AF_INET:
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        flights = (_Flight(self.requests, client, server), _Flight(self.replies, server, client))
        task = self._loop.create_task(self._serve(client, server, flights))
        self._connections[task] = flights

        def on_end(task: asyncio.Task[None]) -> None:
            del self._connections[task]
            self._ports = {port: known for port, known in self._ports.items() if known is not flights}
            if task.cancelled():
                _reset_on_close(client, server)
            client.close()
            server.close()

        # Not in the task: one that is cancelled before it began would close nothing.
        task.add_done_callback(on_end)

    async def _serve(
        self, client: socket.socket, server: socket.socket, flights: tuple[_Flight, _Flight]
    ) -> None:
        try:
            # In a black hole nobody is reached either.
            await self.requests.take_time(0)
            await self._loop.sock_connect(server, self.target)
            if server.family == socket.AF_INET:
                self._ports[server.getsockname()[1]] = flights
            async with asyncio.TaskGroup() as ways:
                for flight in flights:
                    ways.create_task(flight.carry())
        except* OSError:
            _reset_on_close(client, server)

    async def _end(self, is_meant: Callable[[tuple[_Flight, _Flight]], bool]) -> None:
        tasks = [task for task, flights in self._connections.items() if is_meant(flights)]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def _any(_flights: object) -> bool:
    return True


def _bound_socket(host: str, port: int) -> socket.socket:
    bound = socket.socket()
    bound.setblocking(False)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Small, also for the sockets it accepts: what does not get through soon stays with its sender.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, CHUNK_BYTES)
    bound.bind((host, port))
    return bound


def _reset_on_close(*sockets: socket.socket) -> None:
    for one in sockets:
        with contextlib.suppress(OSError):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


@pytest.fixture
def make_proxy() -> Iterator[Callable[..., FaultProxy]]:
    """Makes proxies (arguments as for `FaultProxy`), closed with the test."""
    made: list[FaultProxy] = []

    def make(target: Target, *, seed: int = 0) -> FaultProxy:
        made.append(FaultProxy(target, seed=seed))
        return made[-1]

    yield make
    for proxy in made:
        proxy.close()
