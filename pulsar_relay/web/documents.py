"""Documents: answers that are made once, at start, and are the same for everybody until the relay ends."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from pulsar_relay.errors import RelayError
from pulsar_relay.web.handler import ApiHandler

HTML = "text/html; charset=utf-8"
JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Document:
    """`policy` is the Content-Security-Policy of what a browser shows as a page of its own."""

    body: bytes
    media_type: str
    policy: str | None = None
    etag: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "etag", f'"{hashlib.sha256(self.body).hexdigest()[:32]}"')


class DocumentHandler(ApiHandler):
    """A document of some, by what of the address the route names; "" where it names nothing. Who has it
    already, and says so, is answered 304.
    """

    is_public = True
    document: Document

    def initialize(self, documents: Mapping[str, Document]) -> None:
        self.documents = documents

    def get(self, name: str = "") -> None:
        document = self.documents.get(name)
        if document is None:
            raise RelayError("not_found")
        self.document = document
        self.set_header("Content-Type", document.media_type)
        # Kept, and asked for again each time: after an upgrade nobody sees half of the old page.
        self.set_header("Cache-Control", "no-cache")
        self.set_header("Cross-Origin-Resource-Policy", "same-origin")
        if document.policy is not None:
            self.set_header("Content-Security-Policy", document.policy)
            self.set_header("Cross-Origin-Opener-Policy", "same-origin")
            self.set_header("Referrer-Policy", "no-referrer")
        self.finish(document.body)

    head = get

    def compute_etag(self) -> str:
        # Asked only of an answer 200, so there is one.
        return self.document.etag
