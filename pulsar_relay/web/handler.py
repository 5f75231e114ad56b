"""ApiHandler: what all HTTP handlers share: the relay, one shape of errors, and no page of Tornado's own."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Any

import msgspec
from tornado.web import HTTPError, MissingArgumentError, RequestHandler

from pulsar_relay.errors import RelayError, render
from pulsar_relay.relay import Relay
from pulsar_relay.settings import Settings
from pulsar_relay.web.connections import OpenConnections

logger = logging.getLogger(__name__)

_STATUS_CODES = {400: "bad_request", 404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


class ApiHandler(RequestHandler):
    """Handlers raise `RelayError`; anything else they raise is a bug, answered 500 without a word of what it was, and logged."""

    def initialize(self, relay: Relay, settings: Settings, connections: OpenConnections) -> None:
        self.relay = relay
        self.limits = settings
        self.connections = connections

    def prepare(self) -> None:
        self.connections.begin(self)

    def on_finish(self) -> None:
        self.connections.end(self)

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        self.set_header("Content-Type", "application/json")

    def compute_etag(self) -> None:
        # Answers are made for one client at one moment; hashing them would be work for nobody.
        return None

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
        error = kwargs["exc_info"][1] if "exc_info" in kwargs else None
        if isinstance(error, MissingArgumentError):
            error = RelayError("invalid_request", f"the query parameter {error.arg_name} is missing")
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
            for method in _METHODS
            if getattr(cls, method.lower()) is not getattr(RequestHandler, method.lower())
        ]


class NotFoundHandler(ApiHandler):
    def prepare(self) -> None:
        raise RelayError("not_found")
