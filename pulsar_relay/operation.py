"""Operation: one address of the HTTP API, as it is declared: what it takes, what it answers, which errors it
can end in. What all operations of a kind have in common stands here, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pulsar_relay import answers, schemas
from pulsar_relay.errors import ERRORS


@dataclass(frozen=True, slots=True)
class Header:
    """A request header that an operation understands."""

    name: str
    description: str
    example: str


@dataclass(frozen=True, slots=True)
class Reply:
    """What an operation answers if all goes well. `schema` None: no body, or one that is not JSON. `is_list`:
    an array of it.
    """

    description: str
    schema: type[answers.Answer] | None = None
    is_list: bool = False
    media_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Operation:
    """One address with its methods. In `path`, `{topic}`, `{client_id}` and `{file}` stand for such names.
    `line`: each line of a body that is sent as NDJSON instead. `form`: a body that is a form, and no JSON.
    `errors` are codes of the error table. `shows`: by which of `TOKEN` and `KEY` who asks says who it is; by
    none of them where that does not matter.
    """

    path: str
    methods: tuple[str, ...]
    tag: str
    summary: str
    description: str
    replies: Mapping[int, Reply]
    body: type[schemas.Request] | None = None
    line: type[schemas.Request] | None = None
    form: type[schemas.Request] | None = None
    query: type[schemas.Request] | None = None
    headers: tuple[Header, ...] = ()
    errors: tuple[str, ...] = ()
    shows: tuple[str, ...] = ()

    @property
    def all_errors(self) -> tuple[str, ...]:
        return (*self.errors, *EVERYWHERE)


TOKEN, KEY = "accessToken", "apiKey"
"""As the API document calls what is shown."""
SIGNED_IN = (
    *("unauthenticated", "invalid_token", "token_expired", "token_revoked", "user_unknown", "user_inactive"),
    *("permission_required", "accounts_unconfirmed", "rate_limited"),
)
EVERYWHERE = ("bad_request", "headers_too_large", "internal_error")
READ_BODY = (
    "invalid_json",
    "invalid_encoding",
    "nested_too_deeply",
    "invalid_request",
    "unsupported_media_type",
    "body_too_large",
)
STORE = (
    *(code for code, kind in ERRORS.items() if code.startswith("store_") and kind.status),
    "shutting_down",
)
