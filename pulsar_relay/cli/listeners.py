"""Whether the relay can listen where it is told to, and what to do if not.

Asked before anything is started: a relay that finds its port taken only after it has loaded gigabytes of
messages wastes minutes, and the error then names neither port nor setting.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from pulsar_relay.settings import ServerSettings


@dataclass(frozen=True, slots=True)
class Listener:
    """One address to listen on, and the settings it is made of."""

    host: str
    port: int
    host_key: str
    port_key: str
    flag: str


def listeners(server: ServerSettings) -> Iterator[Listener]:
    yield Listener(server.host, server.port, "server.host", "server.port", "--port PORT")
    if server.metrics_port is not None:
        yield Listener(
            server.metrics_host,
            server.metrics_port,
            "server.metrics_host",
            "server.metrics_port",
            "--set server.metrics_port=PORT (or =off)",
        )


def problems(server: ServerSettings) -> Iterator[str]:
    """A sentence for each address that cannot be listened on now."""
    for listener in listeners(server):
        try:
            _try(listener)
        except OSError as error:
            yield _explanation(listener, error)


def _try(listener: Listener) -> None:
    """Bind, as the server will, and let go. Port 0 is any free port, of which there is one."""
    found = socket.getaddrinfo(listener.host, listener.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, kind, protocol, _name, address in dict.fromkeys(found):
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind(address)
            except OSError as error:
                # `localhost` resolves to ::1 also where IPv6 is switched off; the server lets that pass too.
                if error.errno != errno.EADDRNOTAVAIL or listener.host != "localhost":
                    raise


def _explanation(listener: Listener, error: OSError) -> str:
    port = f"{listener.port_key}: port {listener.port} on {listener.host}"
    if isinstance(error, socket.gaierror):
        return f"{listener.host_key}: {listener.host!r} is no address of this machine ({error.strerror})"
    if error.errno == errno.EADDRINUSE:
        return (
            f"{port} is in use, perhaps by another relay. Stop that (`ss -ltnp 'sport = :{listener.port}'` "
            f"finds it), or choose another port: {listener.flag}"
        )
    if error.errno == errno.EACCES:
        return f"{port} is reserved for root. Choose one from 1024 on: {listener.flag}"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{listener.host_key}: {listener.host!r} is no address of this machine"
    return f"{port} cannot be listened on: {os.strerror(error.errno or 0)}"
