"""The shape of the answers about accounts, as `answers.py` has that of the others."""

from __future__ import annotations

from marshmallow import fields, validate

from pulsar_relay.accounts.user import EVERYBODY, SIGNED_IN
from pulsar_relay.answers import EXAMPLE_TIME, Answer
from pulsar_relay.schemas import about

EXAMPLE_USER = "9b2e7c1a-4d3f-4e8b-a1c6-5f0d2b7e9a34"
EXAMPLE_SESSION = "0f9619ff-8b86-4d01-b42d-00cf4fc964ff"
EXAMPLE_KEY = "5f0d2b7e9a34c1d6"


def _text(description: str, example: str | None = None, *, allow_none: bool = False) -> fields.String:
    return fields.String(required=True, allow_none=allow_none, metadata=about(description, example))


def _time(description: str, *, allow_none: bool = False) -> fields.String:
    return _text(description, EXAMPLE_TIME, allow_none=allow_none)


def _words(description: str, example: list[str]) -> fields.List[str]:
    return fields.List(fields.String(), required=True, metadata=about(description, example))


class TokenAnswer(Answer):
    access_token = _text("To be sent as `Authorization: Bearer`.", "eyJhbGciOiJIUzI1NiIs...")
    token_type = fields.String(
        required=True, validate=validate.Equal("bearer"), metadata=about("The kind of token.", "bearer")
    )
    expires_in = fields.Integer(
        required=True, strict=True, metadata=about("How many seconds the access token is good.", 600)
    )
    refresh_token = _text("What gives the next one, once.", f"{EXAMPLE_SESSION}.AAAA...", allow_none=True)
    refresh_token_secondary = _text("Of a device that was paired with another; else null.", allow_none=True)


class UserAnswer(Answer):
    user_id = _text("It never changes, and owns the user's topics.", EXAMPLE_USER)
    username = _text("The name.", "galaxy")
    email = _text("As it was given.", "galaxy@example.org", allow_none=True)
    is_active = fields.Boolean(required=True, metadata=about("Whether the account is open.", True))
    created_at = _time("When it was made, UTC.")
    permissions = _words("Of `admin`, `read` and `write`.", ["read", "write"])
    owned_topics = _words("The user's topics, by name.", ["jobs"])


class UsersStatsAnswer(Answer):
    total_users = fields.Integer(required=True, strict=True, metadata=about("Users there are.", 12))
    active_users = fields.Integer(
        required=True, strict=True, metadata=about("Those of them whose account is open.", 11)
    )


class SessionEntry(Answer):
    jti = _text("Its id.", EXAMPLE_SESSION)
    issued_at = _time("When it began, UTC.")
    expires_at = _time("When it ends, unless it is used before.")
    last_used_at = _time("When its refresh token was last used; null if never.", allow_none=True)
    client_hint = _text("What the client said of itself.", "password-login")


class KeyEntry(Answer):
    key_id = _text("Its id, which is also in its text.", EXAMPLE_KEY)
    name = _text("What it is for.", "ci of galaxy")
    actions = _words("What it is for, of `read` and `write`.", ["write"])
    topics = _words("The topics it is for.", ["jobs_*"])
    created_at = _time("When it was made, UTC.")
    expires_at = _time("When it ends; null if it does not.", allow_none=True)
    last_used_at = _time("When it was last used, to the minute; null if never.", allow_none=True)


class KeyAnswer(KeyEntry):
    key = _text(
        "To be sent as `Authorization: Bearer`. Nobody can tell it again.", f"prk_{EXAMPLE_KEY}_7Zq..."
    )


class GrantEntry(Answer):
    grantee = _text(f"A user's id, `{SIGNED_IN}` or `{EVERYBODY}`.", EXAMPLE_USER)
    username = _text(
        "The user's name; null if it is not one user, or one who has gone.", "pulsar", allow_none=True
    )
    actions = _words("What they may do, of `read` and `write`.", ["read"])


class GrantsAnswer(Answer):
    topic_name = _text("The topic's name.", "jobs")
    owner_id = _text("Whose it is.", EXAMPLE_USER)
    permissions = fields.List(
        fields.Nested(GrantEntry), required=True, metadata=about("What its owner has granted.")
    )
