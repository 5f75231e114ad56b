"""Perimeter: by which names the relay may be asked, from which pages, and for whom; told by the headers of a
request alone, before anybody asks who it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import urlsplit

from pulsar_relay.limits.client_address import TrustedProxies
from pulsar_relay.network_kinds import ANY
from pulsar_relay.settings import ServerSettings

Headers = Mapping[str, str]
"""A request's headers, found by their names in lower case."""

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
ASKED_HEADERS: Final = ("Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID")
TOLD_HEADERS: Final = (
    *("Link", "Location", "Retry-After"),
    *("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"),
)
PREFLIGHT_SECONDS = 600


class Perimeter:
    def __init__(self, settings: ServerSettings) -> None:
        hosts, origins = settings.allowed_hosts or (ANY,), settings.allowed_origins or ()
        self.admits_any_host = ANY in hosts
        self._hosts = frozenset(host.rstrip(".") for host in hosts if not host.startswith("*."))
        self._suffixes = tuple(host[1:].rstrip(".") for host in hosts if host.startswith("*."))
        self._any_origin = ANY in origins
        self._origins = frozenset(origins)
        self.has_proxies = bool(settings.trusted_proxies)
        self.proxies = TrustedProxies(settings.trusted_proxies or (), settings.forwarded_header)

    def admits_host(self, host: str) -> bool:
        """Whether the relay may be asked by the name in a `Host` header; its port does not count."""
        if self.admits_any_host:
            return True
        name = _without_port(host).lower().rstrip(".")
        return name in self._hosts or name.endswith(self._suffixes)

    def admits_origin(self, origin: str) -> bool:
        """Whether pages of that other origin may use the relay. They are compared as browsers write them."""
        return self._any_origin or origin in self._origins

    def admits_page(self, headers: Headers) -> bool:
        """Whether a request that a browser's own rules do not hold back comes from a page that may make it,
        or from no browser.
        """
        origin = headers.get("origin")
        return (origin is not None and self.admits_origin(origin)) or _comes_from_here(headers)

    def told_to_page(self, origin: str | None) -> Iterable[tuple[str, str]]:
        """Headers that let a page of that origin read the answer, where it may."""
        if not self._any_origin and not self._origins:
            return
        yield "Vary", "Origin"
        if origin is not None and self.admits_origin(origin):
            yield "Access-Control-Allow-Origin", "*" if self._any_origin else origin
            yield "Access-Control-Expose-Headers", ", ".join(TOLD_HEADERS)

    def address(self, peer: str, headers: Iterable[str]) -> str:
        """Whose request it is; `headers` are the values of the header that proxies set."""
        return self.proxies.client(peer, headers)


NO_PERIMETER: Final = Perimeter(ServerSettings())
"""For what no browser is meant to use: any name, and no page."""

PREFLIGHT: Final = {
    "Access-Control-Allow-Methods": ", ".join(METHODS),
    "Access-Control-Allow-Headers": ", ".join(ASKED_HEADERS),
    "Access-Control-Max-Age": str(PREFLIGHT_SECONDS),
}
"""What a page's browser is told before it asks for more than it may ask by itself."""


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


def _comes_from_here(headers: Headers) -> bool:
    """False for a page of another site: its browser would lend it this user's way to the relay.

    Browsers say so themselves, or name the page's address. Behind a proxy `Host` may be the relay's and not
    the one that the browser knows; a page can set neither that nor `X-Forwarded-Host`.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = headers.get("origin")
    if origin is None:
        return True  # no browser
    hosts = (headers.get("host", ""), headers.get("x-forwarded-host", ""))
    return urlsplit(origin).netloc.lower() in {host.lower() for host in hosts if host}
