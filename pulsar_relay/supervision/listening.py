"""The sockets that workers share a port with: one for each worker and address.

The supervisor makes them and keeps them open. A connection that the kernel has put into a worker's socket
waits there while the worker is replaced; one that is put into no socket, because it was closed, goes to
another worker.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

BACKLOG = 1024

Place = tuple[Any, ...]
"""As `bind` takes it: host, port, and what else the family has."""
Address = tuple[socket.AddressFamily, Place]


class Ports(NamedTuple):
    """Where requests are answered."""

    api: int
    metrics: int | None


@dataclass(frozen=True, slots=True)
class SharedPort:
    """A port on some addresses, that any number of workers of this `serve` listen on."""

    host: str
    number: int
    addresses: tuple[Address, ...]

    @classmethod
    def find(cls, host: str, number: int) -> SharedPort:
        """With number 0, any that is free. Raises OSError if somebody, also one who shares, has the port."""
        addresses: list[Address] = []
        held: list[socket.socket] = []
        try:
            for family, (name, _, *more) in _resolved(host, number):
                holder = _bound(
                    family, (name, number, *more), shares=False, may_be_absent=host == "localhost"
                )
                if holder is not None:
                    held.append(holder)
                    number = holder.getsockname()[1]
                    addresses.append((family, (name, number, *more)))
        finally:
            for holder in held:
                holder.close()
        if not addresses:
            raise OSError(errno.EADDRNOTAVAIL, f"{host} is no address of this machine")
        return cls(host, number, tuple(addresses))

    def bind(self) -> list[socket.socket]:
        """One worker's sockets: bound, and listening once the worker says so. Raises OSError."""
        bound: list[socket.socket] = []
        try:
            for family, address in self.addresses:
                one = _bound(family, address, shares=True)
                assert one is not None
                bound.append(one)
        except OSError:
            close(bound)
            raise
        return bound


def listen(descriptors: Sequence[int]) -> list[socket.socket]:
    """The inherited sockets with these descriptors, open to connections from now on."""
    sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    for one in sockets:
        one.setblocking(False)
        one.listen(BACKLOG)
    return sockets


def hang_up(sockets: Sequence[socket.socket]) -> None:
    """Take no more connections, although the supervisor has the sockets open too."""
    for one in sockets:
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


def close(sockets: Sequence[socket.socket]) -> None:
    for one in sockets:
        one.close()


def _resolved(host: str, number: int) -> Iterator[Address]:
    found = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, _kind, _protocol, _name, address in dict.fromkeys(found):
        if family in (socket.AF_INET, socket.AF_INET6):
            yield family, address


def _bound(
    family: socket.AddressFamily,
    address: Place,
    *,
    shares: bool,
    may_be_absent: bool = False,
) -> socket.socket | None:
    """None for an address that this machine has not got, where that is let pass: `localhost` is also ::1
    where IPv6 is switched off."""
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shares:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(address)
    except OSError as error:
        one.close()
        if may_be_absent and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            return None
        raise
    return one
