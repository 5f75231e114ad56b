"""The reverse proxies of deploy/ before a relay: their shipped configuration, on ports of the test's own."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.conditions import until
from tests.programs import Server, program, running
from tests.relays import REPOSITORY

DEPLOY = REPOSITORY / "deploy"


@dataclass(frozen=True, slots=True)
class Ports:
    api: int


@dataclass(frozen=True, slots=True)
class Address:
    """Where a proxy answers, as a relay says where it does."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"

    @property
    def ports(self) -> Ports:
        return Ports(self.port)


def replaced(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times"
    return text.replace(old, new)


def nginx(port: int, relays: Sequence[int], directory: Path) -> list[str]:
    """What it is started with; the shipped file is included as Debian does it."""
    text = replaced((DEPLOY / "nginx.conf").read_text(), "listen 80;", f"listen 127.0.0.1:{port};")
    shipped = "server 127.0.0.1:8080 fail_timeout=1s;"
    servers = "\n".join(shipped.replace("8080", str(relay)) for relay in relays)
    (directory / "site.conf").write_text(replaced(text, shipped, servers))
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "".join(f"{kind}_temp_path {directory}/{kind};\n" for kind in kinds)
    # As root it would give its workers another account, which may not enter the test's directory.
    user = "user root;\n" if os.geteuid() == 0 else ""
    (directory / "nginx.conf").write_text(
        f"{user}daemon off;\nmaster_process on;\npid {directory}/pid;\nerror_log stderr warn;\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{places}include {directory}/site.conf;\n}}\n"
    )
    return [program("nginx"), "-p", str(directory), "-e", "stderr", "-c", str(directory / "nginx.conf")]


def haproxy(port: int, relays: Sequence[int], directory: Path) -> list[str]:
    text = replaced((DEPLOY / "haproxy.cfg").read_text(), "bind :80", f"bind 127.0.0.1:{port}")
    servers = "\n".join(f"    server relay{relay} 127.0.0.1:{relay}" for relay in relays)
    (directory / "haproxy.cfg").write_text(replaced(text, "    server relay1 127.0.0.1:8080", servers))
    return [program("haproxy"), "-db", "-f", str(directory / "haproxy.cfg")]


def caddy(port: int, relays: Sequence[int], directory: Path) -> list[str]:
    text = replaced(
        (DEPLOY / "Caddyfile").read_text(), "relay.example.com {", f"http://:{port} {{\n\tbind 127.0.0.1"
    )
    text = replaced(text, "reverse_proxy 127.0.0.1:8080", f"reverse_proxy {' '.join(map(_host, relays))}")
    # Else it would be administered, and ask for certificates, on fixed ports.
    text = replaced(text, "\tservers {\n", "\tadmin off\n\tauto_https off\n\tservers {\n")
    (directory / "Caddyfile").write_text(text)
    return [program("caddy"), "run", "--adapter", "caddyfile", "--config", str(directory / "Caddyfile")]


def _host(port: int) -> str:
    return f"127.0.0.1:{port}"


Proxy = Callable[[int, Sequence[int], Path], list[str]]
PROXIES: dict[str, Proxy] = {"nginx": nginx, "haproxy": haproxy, "caddy": caddy}


@contextmanager
def in_front_of(relays: Sequence[int], proxy: str, directory: Path) -> Iterator[Address]:
    """Runs it before the relays on these ports, with its files in `directory`."""
    address = Address(free_port())
    words = PROXIES[proxy](address.port, relays, directory)
    variables = {"PATH": os.environ["PATH"], "HOME": str(directory), "XDG_DATA_HOME": str(directory)}
    with running(words, directory, variables) as server:
        until(lambda: _listens(address, server), f"{proxy} listens")
        yield address


def _listens(address: Address, server: Server) -> bool:
    assert server.is_running, server.log
    try:
        socket.create_connection(("127.0.0.1", address.port)).close()
    except ConnectionRefusedError:
        return False
    return True


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
