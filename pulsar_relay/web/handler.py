"""ApiHandler: what all HTTP handlers share: one shape of errors, and no page of Tornado's own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, ClassVar

import msgspec
from tornado.routing import PathMatches
from tornado.web import HTTPError, RequestHandler

from pulsar_relay.errors import RelayError, render
from pulsar_relay.limits.limiter import Limiter
from pulsar_relay.web.caller import Caller
from pulsar_relay.web.endpoint import HEADERS, Answer, Request, Route, refuse_encoding, respond
from pulsar_relay.web.gate import Gate, bearer
from pulsar_relay.web.perimeter import METHODS, PREFLIGHT, Perimeter

logger = logging.getLogger(__name__)

_STATUS_CODES = {400: "bad_request", 404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}


class ApiHandler(RequestHandler):
    """Handlers raise `RelayError`; anything else they raise is a bug, answered 500 without a word of what it
    was, and logged. Unless one `is_public`, only who has signed in gets to it, and is its `caller`.
    """

    is_public: ClassVar[bool] = False
    caller: Caller

    @property
    def gate(self) -> Gate:
        gate: Gate = self.settings["gate"]
        return gate

    @property
    def limiter(self) -> Limiter:
        limiter: Limiter = self.settings["limiter"]
        return limiter

    async def prepare(self) -> None:
        # What a browser asks first it asks without a token.
        if not self.is_public and self.request.method != "OPTIONS":
            shown = bearer(self.request.headers.get("Authorization"))
            self.caller = await self.gate.admit(shown, self.client_address)
            self.caller.require_user()
            for name, value in (await self.limiter.charge("read", self.caller.counted_as)).headers.items():
                self.set_header(name, value)

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        self.set_header("Content-Type", "application/json")
        # Answers hold what strangers published, at one moment.
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")
        for name, value in self.perimeter.told_to_page(self.request.headers.get("Origin")):
            self.set_header(name, value)

    @property
    def perimeter(self) -> Perimeter:
        perimeter: Perimeter = self.application.settings["perimeter"]
        return perimeter

    @property
    def client_address(self) -> str:
        """Whose request it is, behind proxies too."""
        perimeter = self.perimeter
        return perimeter.address(
            self.request.remote_ip or "", self.request.headers.get_list(perimeter.proxies.header)
        )

    def options(self, *args: Any) -> None:
        """What a browser asks before it lets a page of another origin ask more than links and forms can."""
        headers = self.request.headers
        if "Origin" not in headers or "Access-Control-Request-Method" not in headers:
            raise HTTPError(405)
        if not self.perimeter.admits_origin(headers["Origin"]):
            raise RelayError("origin_not_allowed")
        for name, value in PREFLIGHT.items():
            self.set_header(name, value)
        self.set_status(204)
        self.finish()

    def compute_etag(self) -> str | None:
        # Answers are made for one client at one moment; hashing them would be work for nobody.
        return None

    def body(self) -> bytes:
        """The request's body as it was sent; a compressed one is refused by name."""
        refuse_encoding(self.request.headers.get("Content-Encoding"))
        return self.request.body

    def answer(self, value: Any, status: int = 200) -> None:
        """Finish with `value` as JSON; bytes are JSON text already."""
        self.set_status(status)
        self.finish(value if isinstance(value, bytes) else msgspec.json.encode(value))

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if not isinstance(value, RelayError | HTTPError):
            assert typ is not None and value is not None
            logger.error("%s %s failed", self.request.method, self.request.path, exc_info=(typ, value, tb))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Called by Tornado for whatever a handler raised."""
        error = kwargs["exc_info"][1] if "exc_info" in kwargs else None
        if not isinstance(error, RelayError):
            error = RelayError(_STATUS_CODES.get(status_code, "internal_error"))
        status, headers, body = render(error)
        self.set_status(status)
        for name, value in headers.items():
            self.set_header(name, value)
        if status == 405:
            self.set_header("Allow", ", ".join(self.allowed_methods()))
        self.finish(body)

    @classmethod
    def allowed_methods(cls) -> list[str]:
        return [
            method
            for method in METHODS
            if getattr(cls, method.lower()) is not getattr(RequestHandler, method.lower())
        ]


class EndpointHandler(ApiHandler):
    """Endpoints of one address, for requests that Tornado has read: of addresses that are asked seldom, and
    where something about a request is unusual. They have gates of their own.
    """

    is_public = True

    def initialize(self, routes: Mapping[str, Route]) -> None:
        self.routes = routes
        self.answering: asyncio.Task[Answer] | None = None

    async def respond(self, *arguments: str) -> None:
        asked = self.request
        assert asked.method is not None
        headers = {name: asked.headers[name] for name in HEADERS if name in asked.headers}
        request = Request(
            f"{asked.method} {asked.path}",
            "/".join(arguments),
            asked.query_arguments,
            headers,
            asked.body,
            self.client_address,
        )
        self.answering = asyncio.create_task(respond(self.routes[asked.method].endpoint, request))
        with suppress(asyncio.CancelledError):
            answer = await self.answering
            for name, value in {**answer.headers, **answer.verdict.headers}.items():
                self.set_header(name, value)
            self.set_status(answer.status)
            self.finish(answer.body or None)

    def on_connection_close(self) -> None:
        asked = self.request.method or ""
        if self.answering is not None and self.routes[asked].ends_with_client:
            self.answering.cancel()


def endpoint_handler(methods: Iterable[str]) -> type[EndpointHandler]:
    """An `EndpointHandler` that knows just these methods."""
    known = {method.lower(): EndpointHandler.respond for method in methods}
    return type("EndpointHandler", (EndpointHandler,), known)


class NotFoundHandler(ApiHandler):
    """What is at no address. With a slash too many the client is led to the address it meant, as by the older
    relay.
    """

    is_public = True

    async def prepare(self) -> None:
        path, slash, _ = self.request.path.rpartition("/")
        if slash and path and self.request.path.endswith("/") and self._is_address(path):
            query = f"?{self.request.query}" if self.request.query else ""
            # 307 and no other: the method and the body go along. Without a host, which a proxy may have
            # changed.
            self.set_status(307)
            self.set_header("Location", path + query)
            self.finish()
            return
        raise RelayError("not_found")

    def _is_address(self, path: str) -> bool:
        matchers = [rule.matcher for rule in self.application.wildcard_router.rules]
        return any(isinstance(matcher, PathMatches) and matcher.regex.match(path) for matcher in matchers)
