"""The one table of errors: code, HTTP status, close code, when to try again, and what to tell the client.

Handlers raise `RelayError`; the edge renders it. The code is the same word in HTTP bodies, WebSocket frames,
close reasons, metrics and logs. Clients give a message up on any 4xx and try again on 5xx, so what heals by
itself is a 503, and a 429 is only for who asks for more than anybody needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import msgspec


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """A row of the table. `status` is None for what cannot happen to a plain request, `close_code` for what
    closes no socket.

    `retry_after_seconds` alone decides whether the client should try the same request again: None says that
    it would fail again.
    """

    code: str
    status: int | None
    close_code: int | None
    retry_after_seconds: int | None
    message: str

    @property
    def is_retryable(self) -> bool:
        return self.retry_after_seconds is not None


# fmt: off
_ROWS: tuple[tuple[str, int | None, int | None, int | None, str], ...] = (
    # code, status, close code, retry after seconds,
    #     what to tell the client

# -------------------------------------------------------------------------------- the request cannot be read
    ("invalid_json", 422, None, None,
        "This is not valid JSON. Numbers must be finite and strings complete Unicode."),
    ("invalid_encoding", 400, None, None,
        "This is not UTF-8. Send JSON as UTF-8 without a byte order mark."),
    ("nested_too_deeply", 400, None, None,
        "JSON may be nested up to 100 levels deep. Send a flatter value."),
    ("unsupported_media_type", 422, None, None,
        "Send JSON, with the header `Content-Type: application/json`."),
    ("body_too_large", 413, None, None,
        "The request body is larger than this relay accepts. Send less at a time."),
    ("headers_too_large", 431, None, None,
        "The request line and headers are larger than this relay accepts."),
    ("bad_request", 400, None, None,
        "This request cannot be understood."),
    ("host_not_allowed", 400, None, None,
        "This relay is not asked by that name; its setting `server.allowed_hosts` lists the names it has."),
    ("origin_not_allowed", 403, None, None,
        "Pages of that origin may not use this relay; its setting `server.allowed_origins` lists those that "
        "may."),
    ("request_timeout", 408, None, 1,
        "The request did not arrive in time. Send it again, without pauses."),

# ----------------------------------------------------------------- more was asked for than anybody needs to
    ("rate_limited", 429, None, 1,
        "There were too many requests. Wait as long as `Retry-After` says."),
    ("login_backoff", 429, None, 1,
        "There were too many wrong passwords. Wait as long as `Retry-After` says."),
    ("too_many_user_connections", 429, None, 5,
        "This user has as many connections open as anybody may. Close one first."),
    ("too_many_polls", 429, None, 5,
        "This user has as many polls waiting as anybody may. End one first."),

# ------------------------------------------------------------ the request says something that cannot be done
    ("invalid_request", 422, None, None,
        "The request is not valid; `detail` names each field and what it must be."),
    ("invalid_cursor", 422, None, None,
        "A cursor is a message id as the relay gave it, like `1700000000000-1`."),
    ("ahead_of_stream", 422, None, None,
        "The topic has not given that id yet. Acknowledge messages that you have received."),
    ("client_id_required", 422, None, None,
        "A place is kept by name: say who you are in `client_id`."),
    ("idempotency_key_invalid", 422, None, None,
        "An idempotency key is made of printable ASCII characters."),
    ("idempotency_key_too_long", 422, None, None,
        "An idempotency key has at most 255 characters."),
    ("idempotency_conflict", 422, None, None,
        "This idempotency key was used for another message. Use a new key for each."),
    ("bulk_too_large", 422, None, None,
        "A bulk request carries at most 1,000 messages. Send several requests."),
    ("atomic_needs_one_topic", 422, None, None,
        "All messages of an atomic bulk request must be for the same topic."),

# ------------------------------------------------------------------------------------------ who is asking
    ("unauthenticated", 401, None, None,
        "Sign in first: send `Authorization: Bearer` with an access token or an API key."),
    ("invalid_token", 401, None, None,
        "This is no access token or API key of this relay's. Sign in again."),
    ("token_expired", 401, 4004, None,
        "The access token has expired. Get another one."),
    ("token_revoked", 401, 4005, None,
        "What was signed in with was revoked. Sign in again."),
    ("user_unknown", 401, 4006, None,
        "There is no such user any more."),
    ("user_inactive", 403, 4007, None,
        "This account is not active; an admin can change that."),
    ("wrong_password", 401, None, None,
        "The username or the password is wrong."),
    ("invalid_refresh_token", 401, None, None,
        "This refresh token is not valid, or no longer. Sign in again."),
    ("malformed_refresh_token", 400, None, None,
        "A refresh token is two texts with a dot between them."),

# --------------------------------------------------------------- who signs in with a browser, and for what
    ("sign_in_expired", 400, None, None,
        "Invalid or expired state. Begin the sign-in again, in one browser."),
    ("sign_in_invalid", 400, None, None,
        "OIDC validation failed."),
    ("provider_refused", 400, None, None,
        "The provider has not signed you in."),
    ("provider_unavailable", 502, None, 5,
        "The OpenID provider cannot be reached, or does not answer as it should. Try again."),
    ("provider_not_found", 404, None, None,
        "There is no such OpenID provider."),
    ("oidc_disabled", 404, None, None,
        "OIDC disabled: this relay has no OpenID providers."),
    ("name_is_local", 409, None, None,
        "The name that the provider tells is that of an account with a password here. Sign in with that."),
    ("cross_site", 403, None, None,
        "This form was not sent from a page of this relay, or the browser keeps no cookies."),
    ("device_gone", 400, None, None,
        "Device-flow session expired or already consumed."),
    ("user_code_unknown", 404, None, None,
        "Unknown user_code."),

# ------------------------------------------------------------------------------------ who may do what
    ("permission_required", 403, 4008, None,
        "The account, or the API key, has no permission for this."),
    ("key_out_of_scope", 403, 4009, None,
        "The API key is not for this topic."),
    ("login_required", 403, None, None,
        "An API key cannot do this. Sign in with a password or a browser."),
    ("grant_revoked", 403, 4011, None,
        "The topic's owner has taken back what was granted."),
    ("another_user", None, None, None,
        "This connection belongs to another user. Use a connection for each."),
    ("own_account", 400, None, None,
        "Admins do not delete their own account."),
    ("user_exists", 400, None, None,
        "There is a user of this name already."),
    ("user_not_found", 404, None, None,
        "There is no such user."),
    ("session_not_found", 404, None, None,
        "There is no such session."),
    ("api_key_not_found", 404, None, None,
        "There is no such API key."),
    ("too_many_api_keys", 409, None, None,
        "The user has as many API keys as one may have. Revoke one that is not used."),
    ("too_many_grants", 409, None, None,
        "That is more than one may grant. Take something back first."),
    ("accounts_unconfirmed", 503, 1013, 1,
        "The relay cannot tell at the moment who may do what. Try again."),

# ------------------------------------------------------------------------------------ there is no such thing
    ("not_found", 404, None, None,
        "There is nothing at this address; `/docs` lists what there is."),
    ("topic_not_found", 404, None, None,
        "There is no such topic. A topic is made by the first message to it."),
    ("topic_exists", 409, None, None,
        "There is such a topic already. Change it, if it is to be another one."),
    ("consumer_not_found", 404, None, None,
        "Nothing is kept of such a client. It is made by the first request that presents its `client_id`."),
    ("consumer_connected", 409, None, None,
        "The client is connected. End it before what is kept of it is deleted."),
    ("upgrade_required", 404, None, None,
        "This address speaks WebSocket only; ask for an upgrade to it."),
    ("method_not_allowed", 405, None, None,
        "This address does not know that method; `Allow` lists those it knows."),

# ------------------------------------------------------------------------------- not now: worth trying again
    ("overloaded", 503, 1013, 1,
        "The relay has more to do than it can hold. Try again."),
    ("too_many_connections", 503, 1013, 5,
        "The relay has as many connections as it can hold. Try again later."),
    ("workers_silent", 503, None, 1,
        "The relay's other workers could not be asked. Try again."),
    ("store_unavailable", 503, None, 1,
        "The store cannot be reached at the moment. Try again."),
    ("store_full", 503, None, 5,
        "The store has no room at the moment; nothing was lost. Try again later."),
    ("store_disk_failed", 503, None, 1,
        "The store cannot write to its disk at the moment; nothing was lost. Try again."),
    ("store_replicas_missing", 503, None, 1,
        "The store misses replicas without which it takes no writes. Try again."),
    ("store_read_only", 503, None, 1,
        "The store is a replica at the moment and takes no writes. Try again."),
    ("store_primary_down", 503, None, 1,
        "The store is a replica that has lost its primary. Try again."),
    ("store_cluster_down", 503, None, 1,
        "A part of the store's cluster is down. Try again."),
    ("store_moving", 503, None, 1,
        "The store is moving this topic from one of its servers to another. Try again."),
    ("store_crowded", 503, None, 1,
        "The store accepts no more connections at the moment. Try again."),
    ("store_loading", 503, None, 1,
        "The store is starting and reads its data. Try again."),
    ("store_busy", 503, None, 1,
        "The store is occupied with something long. Try again."),
    ("store_denied", 503, None, 5,
        "The store does not let this relay in; its operator must correct the credentials or permissions."),
    ("store_damaged", 503, None, 5,
        "The store holds something else where this topic's stream should be; its operator must look."),
    ("store_not_replicated", 503, None, 1,
        "Too few replicas have confirmed the message in time; it may be stored. Try again."),
    ("store_empty", 503, None, 5,
        "The store has come back without its data; its operator must bring it back, or accept the loss."),
    ("store_foreign", 503, None, 5,
        "This is not the store the relay knows; its operator must bring that back, or accept this one."),
    ("store_error", 503, None, 1,
        "The store failed. Try again."),
    ("shutting_down", 503, None, 1,
        "This relay is stopping. Try again; another one may answer."),
    ("internal_error", 500, 1011, 1,
        "Something went wrong inside the relay, and was logged. Try again."),

# -------------------------------------------------------------------------------- why the relay is not ready
    ("store_not_durable", None, None, None,
        "The store's settings do not back the durability level; the relay's log says what to change."),
    ("store_evicts", None, None, None,
        "The store would forget messages when it is full; its `maxmemory-policy` must be `noeviction`."),

# ------------------------------------------------------------------------------ frames: the connection stays
    ("binary_frame", None, None, None,
        "Frames are JSON texts. Send text frames only."),
    ("unknown_frame", None, None, None,
        "The relay knows no frame of this type; `docs/protocol.md` lists those it does."),
    ("not_subscribed", None, None, None,
        "This connection is not subscribed to that topic."),
    ("topic_ambiguous", None, None, None,
        "This connection has several topics. Name the one that is meant in `topic`."),
    ("client_id_changed", None, None, None,
        "This connection speaks for another client already. Use a connection for each `client_id`."),
    ("too_many_subscriptions", None, None, None,
        "This connection has as many topics as it may. Use another one too."),

# ------------------------------------------------------------------- only `/ready` tells this, of its legs
    ("not_delivered", None, None, None,
        "A message the relay sent to itself did not arrive in time."),

# ---------------------------------------------------------------------------------- the connection is closed
    ("frame_too_large", None, 1009, None,
        "The frame is larger than this relay accepts."),
    ("going_away", None, 1012, 1,
        "This relay is stopping. Connect again with your cursors."),
    ("subscriber_failed", None, 4000, 1,
        "The subscription failed inside the relay. Connect again with your cursors."),
    ("taken_over", 409, 4003, None,
        "Another connection presented the same `client_id` and took over. Do not come back while it is "
        "there: two that both do depose each other without end. Give each client a name of its own."),
    ("slow_subscriber", None, 4001, 1,
        "Nothing was read for too long. Connect again with your cursors."),
    ("ping_timeout", None, 4002, 1,
        "The connection did not answer in time. Connect again with your cursors."),
)
# fmt: on

_FORMER_WORDS: Mapping[str, str] = MappingProxyType(
    {
        "unauthenticated": "Not authenticated",
        "invalid_token": "Invalid or expired token",
        "token_expired": "Invalid or expired token",
        "token_revoked": "Token has been revoked",
        "user_unknown": "User not found",
        "user_inactive": "User is inactive",
        "wrong_password": "Incorrect username or password",
        "invalid_refresh_token": "invalid refresh token",
        "malformed_refresh_token": "malformed refresh token",
        "own_account": "Cannot delete your own user account",
        "session_not_found": "session not found",
    }
)
"""What the older relay said in `detail`, where somebody may have written a program that compares it."""

ERRORS: Mapping[str, ErrorKind] = MappingProxyType({row[0]: ErrorKind(*row) for row in _ROWS})
"""Every error there is, by its code."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """One wrong field: where it is (`body` or `query`, then names and indexes), what it must be, and a word
    for programs.

    Never holds what the client sent: a wrong value may be a secret in the wrong place.
    """

    loc: tuple[str | int, ...]
    message: str
    type: str = "value_error"

    def as_json(self) -> dict[str, object]:
        return {"loc": list(self.loc), "msg": self.message, "type": self.type}


class RelayError(Exception):
    """A request was not carried out; `code` is a row of the table (KeyError otherwise).

    `detail` adds to the row's text and is shown to the client; `errors` are the fields of a request that is
    not valid; `headers` are the answer's, besides or instead of what the row says; `former` is what the older
    relay said, where that named what was asked for.
    """

    def __init__(
        self,
        code: str,
        detail: str = "",
        errors: Iterable[FieldError] = (),
        *,
        headers: Mapping[str, str] = MappingProxyType({}),
        former: str | None = None,
    ) -> None:
        self.kind = ERRORS[code]
        self.former = former or _FORMER_WORDS.get(code)
        self.detail = detail
        self.headers = headers
        self.errors: Sequence[FieldError] = tuple(errors)
        super().__init__(f"{code}: {detail}" if detail else code)

    @property
    def code(self) -> str:
        return self.kind.code

    def with_headers(self, headers: Mapping[str, str]) -> RelayError:
        """The same, with these headers on the answer, too."""
        return RelayError(
            self.code,
            self.detail,
            self.errors,
            headers={**headers, **self.headers},
            former=self.former,
        )

    @property
    def retry_after_seconds(self) -> int | None:
        """When to try the same again; None if it would fail again."""
        said = self.headers.get("Retry-After")
        return self.kind.retry_after_seconds if said is None else int(said)

    @property
    def message(self) -> str:
        """What is shown to a person: the row's text, made precise by the detail."""
        return f"{self.kind.message} {self.detail}" if self.detail else self.kind.message

    @property
    def details(self) -> list[dict[str, object]] | None:
        """The wrong fields as JSON values, None if the error is not about fields."""
        return [error.as_json() for error in self.errors] or None


def body(error: RelayError) -> bytes:
    """The JSON text that tells of `error`, the same shape at every address.

    `detail` is where clients written for the older relay look: a list of fields for a request that is not
    valid, else a text, where possible the one they know.
    """
    message = error.message
    return msgspec.json.encode(
        {
            "error": error.code,
            "message": message,
            "detail": error.details or error.former or message,
            "retry": error.kind.is_retryable,
        }
    )


def render(error: RelayError) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer to a request that ended in `error`."""
    headers = {"Content-Type": "application/json"}
    if error.kind.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.kind.retry_after_seconds is not None:
        headers["Retry-After"] = str(error.kind.retry_after_seconds)
    headers.update(error.headers)
    return error.kind.status or 500, headers, body(error)
