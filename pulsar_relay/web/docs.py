"""The API document and its page. Both are made once, at start."""

from __future__ import annotations

from pulsar_relay.web.handler import ApiHandler


class OpenApiHandler(ApiHandler):
    """GET /openapi.json"""

    def initialize(self, document: bytes) -> None:
        self.document = document

    def get(self) -> None:
        self.finish(self.document)

    head = get


class DocsHandler(ApiHandler):
    """GET /docs"""

    def initialize(self, page: bytes, policy: str) -> None:
        self.page = page
        self.policy = policy

    def get(self) -> None:
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header("Content-Security-Policy", self.policy)
        self.finish(self.page)

    head = get
