"""The shape of the requests about accounts: logins, users, API keys, and who may do what with a topic.

What cannot be somebody's name or password is judged where users are made (`accounts/user.py`); here is what
can be told from a single field.
"""

from __future__ import annotations

from typing import Any

from marshmallow import ValidationError, fields, validate, validates_schema

from pulsar_relay.accounts import api_key, user
from pulsar_relay.accounts.user import EVERYBODY, SIGNED_IN
from pulsar_relay.fields import CappedNumber, Flag, Lifetime, Text
from pulsar_relay.kinds import Duration
from pulsar_relay.schemas import Request, about

LOGIN_MOST = 4096
"""Characters of a field of the login's form: more than any name or password has."""
USERS_MAX_LIMIT = 1000
GRANTEE = rf"[0-9a-f]{{8}}(?:-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}|{EVERYBODY}|{SIGNED_IN}"
KEY_LIFETIME = Duration("1m", "3650d")

_ANY_OF_PERMISSIONS = validate.OneOf(user.PERMISSIONS, error="must be one of {choices}")
_ANY_OF_ACTIONS = validate.OneOf(api_key.ACTIONS, error="must be one of {choices}")


class LoginForm(Request):
    """Fields of OAuth 2 that mean nothing here (`scope`, `client_id`, `client_secret`) are ignored."""

    username = Text(LOGIN_MOST, 1, required=True, metadata=about("The user's name.", "galaxy"))
    password = Text(
        LOGIN_MOST, 1, required=True, metadata=about("The user's password.", "correct horse battery staple")
    )
    grant_type = fields.String(
        load_default="password",
        validate=validate.Equal("password", error="must be `password`"),
        metadata=about("What OAuth 2 calls this.", "password"),
    )


def _refresh_token() -> fields.String:
    return fields.String(
        required=True,
        metadata=about(
            "The refresh token, as it was given.",
            "0f9619ff-8b86-4d01-b42d-00cf4fc964ff.AAAAAGrM0mT8gVfKk2pQpJc0nqfS0h9cUO3Vw2eS8dA",
        ),
    )


class Refresh(Request):
    refresh_token = _refresh_token()


class Revoke(Request):
    refresh_token = _refresh_token()
    revoke_chain = Flag(
        load_default=False,
        metadata=about(
            "Also if the token is an older one of its session: whoever had it may end that.", True
        ),
    )


def _email() -> fields.Field[Any]:
    return Text(
        user.EMAIL_MOST,
        allow_none=True,
        metadata=about("For people; nothing is sent to it.", "galaxy@example.org"),
    )


def _password(**more: Any) -> fields.Field[Any]:
    return Text(
        user.PASSWORD_MOST,
        user.PASSWORD_LEAST,
        metadata=about("The password.", "correct horse battery staple"),
        **more,
    )


def _permissions(**more: Any) -> fields.Field[Any]:
    return fields.List(
        fields.String(validate=_ANY_OF_PERMISSIONS),
        metadata=about(
            "What the user may do: `write` to publish, `read` to receive, `admin` to administer users. None "
            "implies another.",
            ["read", "write"],
        ),
        **more,
    )


class Register(Request):
    username = Text(
        user.USERNAME_MOST,
        user.USERNAME_LEAST,
        required=True,
        metadata=about("The name; it cannot be changed.", "galaxy"),
    )
    password = _password(required=True)
    email = _email()
    permissions = _permissions(load_default=list)


class UserChange(Request):
    """What is absent stays as it is; only an address can be null."""

    email = _email()
    password = _password()
    permissions = _permissions()
    is_active = Flag(
        metadata=about("False: the account is closed, and what it has open ends. Its topics stay.", False)
    )


class UsersQuery(Request):
    limit = CappedNumber(
        USERS_MAX_LIMIT,
        load_default=USERS_MAX_LIMIT,
        metadata=about(f"Most users in the answer; more than {USERS_MAX_LIMIT} counts as that.", 100),
    )
    after = fields.String(
        load_default="",
        metadata=about("Go on after this name. The answer's `Link` header leads to the next page."),
    )


class WhoseQuery(Request):
    user_id = fields.String(
        load_default=None, metadata=about("Another user's instead of one's own; admins may ask for that.")
    )


class NewKey(Request):
    name = Text(
        api_key.NAME_MOST,
        1,
        required=True,
        metadata=about("What it is for, to know it again by.", "ci of galaxy"),
    )
    actions = fields.List(
        fields.String(validate=_ANY_OF_ACTIONS),
        required=True,
        metadata=about("What it is for: `read`, `write`, or both.", ["write"]),
    )
    topics = fields.List(
        fields.String(),
        required=True,
        metadata=about(
            "The topics it is for, by name or by a beginning such as `jobs_*`; `*` for all of one's own, "
            "`<owner's user id>/<name>` for another's.",
            ["jobs_*"],
        ),
    )
    expires_in = Lifetime(
        KEY_LIFETIME,
        allow_none=True,
        load_default=None,
        metadata=about(
            "How long it is good: seconds, or a text such as `90d`. Null: until it is revoked.", "90d"
        ),
    )


class NewGrant(Request):
    """To whom is said in one of `username`, `user_id` and `to`."""

    username = fields.String(allow_none=True, load_default=None, metadata=about("A user, by name.", "pulsar"))
    user_id = fields.String(
        allow_none=True,
        load_default=None,
        metadata=about("A user, by id.", "9b2e7c1a-4d3f-4e8b-a1c6-5f0d2b7e9a34"),
    )
    to = fields.String(
        allow_none=True,
        load_default=None,
        validate=validate.OneOf((EVERYBODY, SIGNED_IN), error="must be one of {choices}"),
        metadata=about(
            f"`{SIGNED_IN}`: everybody with an account. `{EVERYBODY}`: also who has none.", SIGNED_IN
        ),
    )
    actions = fields.List(
        fields.String(validate=_ANY_OF_ACTIONS),
        load_default=lambda: ["read"],
        metadata=about("Just what they may do from now on: `read`, `write`, or both.", ["read"]),
    )

    @validates_schema
    def _check(self, data: dict[str, Any], **kwargs: Any) -> None:
        given = [name for name in ("username", "user_id", "to") if data[name] is not None]
        if len(given) != 1:
            raise ValidationError("must be said, and only one of `username`, `user_id` and `to`", "username")
        if not data["actions"]:
            raise ValidationError("must name an action", "actions")
