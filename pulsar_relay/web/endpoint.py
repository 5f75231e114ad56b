"""Endpoints: what one method of one address does, from a request's value to an answer's, whoever read the one
and writes the other: a connection of the relay's own, or Tornado.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping

import msgspec

from pulsar_relay.errors import FieldError, RelayError, render
from pulsar_relay.limits.verdict import UNLIMITED, Verdict
from pulsar_relay.loading import Query
from pulsar_relay.web.caller import ANYBODY, Caller
from pulsar_relay.web.perimeter import NO_PERIMETER, Perimeter

logger = logging.getLogger(__name__)

HEADERS = (
    *("authorization", "content-type", "content-encoding", "cookie", "idempotency-key"),
    *("x-forwarded-for", "forwarded"),
)
"""The headers that endpoints look at, or the perimeter, and the only ones a `Request` has."""

_NOTHING: Mapping[str, str] = {}


class Request(msgspec.Struct, frozen=True, gc=False):
    """One request that has come in whole.

    `target` is its method and path, a space between; `argument` the part of the path that its address leaves
    open, unquoted; `headers` are those of `HEADERS` that were sent, the names in lower case. `caller` is who
    sent it: anybody, until a gate has looked. `address` is the client's.
    """

    target: str
    argument: str
    query: Query
    headers: Mapping[str, str]
    body: bytes
    address: str = ""
    caller: Caller = ANYBODY

    def by(self, caller: Caller) -> Request:
        """The same request, once it is known whose it is."""
        return Request(self.target, self.argument, self.query, self.headers, self.body, self.address, caller)

    def plain_body(self) -> bytes:
        """The body as it was sent; a compressed one is refused by name."""
        refuse_encoding(self.headers.get("content-encoding"))
        return self.body


class Answer(msgspec.Struct, frozen=True, gc=False):
    """`body` is JSON; `headers` are those that not every answer has, besides those of `verdict`."""

    status: int
    body: bytes
    headers: Mapping[str, str] = _NOTHING
    verdict: Verdict = UNLIMITED


Endpoint = Callable[[Request], Awaitable[Answer]]
"""May raise RelayError."""


async def respond(endpoint: Endpoint, request: Request) -> Answer:
    """The one way from a request to its answer: what holds for all endpoints belongs here.

    Raises nothing but CancelledError: a refusal is an answer, and so is a bug, which is logged.
    """
    try:
        return await endpoint(request)
    except RelayError as error:
        return refusal(error)
    except Exception:
        logger.exception("%s failed", request.target)
        return refusal(RelayError("internal_error"))


def refusal(error: RelayError) -> Answer:
    status, headers, body = render(error)
    del headers["Content-Type"]  # every answer has it
    return Answer(status, body, headers)


def refuse_encoding(content_encoding: str | None) -> None:
    """Raise for a body that is not sent as it is."""
    if content_encoding and content_encoding.strip().lower() not in ("", "identity"):
        wrong = FieldError(("body",), "must be sent without `Content-Encoding`", "content_encoding")
        raise RelayError("unsupported_media_type", errors=[wrong])


class Route(msgspec.Struct, frozen=True):
    """An endpoint and its address: `path` has open parts, written `{}`; of those that `Endpoints` find, one.

    With `ends_with_client` it is cancelled when the client has gone; without, what was asked is carried out.
    """

    method: str
    path: str
    endpoint: Endpoint
    ends_with_client: bool = False


Upgrade = Callable[[bytes, bytes, str], asyncio.Protocol | None]
"""Given the bytes of a head, to its empty line, and of what follows, and who has connected: who takes the
connection from there, or None if it remains one of HTTP.
"""


def no_upgrade(head: bytes, unread: bytes, peer: str) -> None:
    """An `Upgrade` for where there is none."""


class Endpoints:
    """Finds the route of a request line. What has none may be an `upgrade`; `perimeter` is passed before."""

    def __init__(
        self, routes: Iterable[Route], upgrade: Upgrade = no_upgrade, perimeter: Perimeter = NO_PERIMETER
    ) -> None:
        self.routes = tuple(routes)
        self.upgrade = upgrade
        self.perimeter = perimeter
        self._fixed: dict[bytes, Route] = {}
        self._open: list[tuple[re.Pattern[bytes], Route]] = []
        for route in self.routes:
            begin, opening, end = f"{route.method} {route.path}".encode("ascii").partition(b"{}")
            if opening:
                # Only what means itself: anything quoted is left to Tornado.
                pattern = re.compile(re.escape(begin) + rb"([\w.~-]+)" + re.escape(end), re.ASCII)
                self._open.append((pattern, route))
            else:
                self._fixed[begin] = route

    def find(self, target: bytes) -> tuple[Route, str] | None:
        """For a method and a path with a space between: the route and the path's open part."""
        route = self._fixed.get(target)
        if route is not None:
            return route, ""
        for pattern, route in self._open:
            found = pattern.fullmatch(target)
            if found is not None:
                return route, found[1].decode("ascii")
        return None
