"""ApiHandler: what all HTTP handlers share: one shape of errors, and no page of Tornado's own."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Any

import msgspec
from tornado.routing import PathMatches
from tornado.web import HTTPError, RequestHandler

from pulsar_relay.errors import FieldError, RelayError, render

logger = logging.getLogger(__name__)

_STATUS_CODES = {400: "bad_request", 404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


class ApiHandler(RequestHandler):
    """Handlers raise `RelayError`; anything else they raise is a bug, answered 500 without a word of what it
    was, and logged.
    """

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        self.set_header("Content-Type", "application/json")
        # Answers hold what strangers published, at one moment.
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")

    def compute_etag(self) -> str | None:
        # Answers are made for one client at one moment; hashing them would be work for nobody.
        return None

    def body(self) -> bytes:
        """The request's body as it was sent; a compressed one is refused by name."""
        encoding = self.request.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            wrong = FieldError(("body",), "must be sent without `Content-Encoding`", "content_encoding")
            raise RelayError("unsupported_media_type", errors=[wrong])
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
            for method in _METHODS
            if getattr(cls, method.lower()) is not getattr(RequestHandler, method.lower())
        ]


class NotFoundHandler(ApiHandler):
    """What is at no address. With a slash too many the client is led to the address it meant, as by the older
    relay.
    """

    def prepare(self) -> None:
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
