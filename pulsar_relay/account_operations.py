"""The operations about accounts, declared as the others are in `operations.py`."""

from __future__ import annotations

from pulsar_relay import account_answers, account_schemas
from pulsar_relay.operation import KEY, READ_BODY, SIGNED_IN, STORE, TOKEN, Operation, Reply

_TOKENS = {200: Reply("An access token, and what gives the next one.", account_answers.TokenAnswer)}


def account_operations() -> tuple[Operation, ...]:
    return (*_signing_in(), *_sessions(), *_users(), *_keys(), *_permissions())


def _signing_in() -> tuple[Operation, ...]:
    return (
        Operation(
            "/auth/login",
            ("POST",),
            "accounts",
            "Sign in with a password",
            "A form, as OAuth 2 has it. After some wrong passwords the next attempt has to wait.",
            _TOKENS,
            form=account_schemas.LoginForm,
            errors=(
                *("invalid_request", "unsupported_media_type", "body_too_large"),
                *("wrong_password", "user_inactive", "rate_limited", "login_backoff", "overloaded", *STORE),
            ),
        ),
        Operation(
            "/auth/token/refresh",
            ("POST",),
            "accounts",
            "Get an access token for a refresh token",
            "The refresh token in the answer takes the place of the one that was sent. If the answer was"
            " lost, the same one is told again within `auth.refresh_grace`; after that a second use counts as"
            " theft and ends the session.",
            _TOKENS,
            body=account_schemas.Refresh,
            errors=(*READ_BODY, "invalid_refresh_token", "rate_limited", *STORE),
        ),
        Operation(
            "/auth/token/revoke",
            ("POST",),
            "accounts",
            "End the session of a refresh token",
            "Who has the token may do it. Of a token that is none nothing is said.",
            {204: Reply("It is ended, if there was one.")},
            body=account_schemas.Revoke,
            errors=(*READ_BODY, "malformed_refresh_token", "rate_limited", *STORE),
        ),
        Operation(
            "/auth/logout",
            ("POST",),
            "accounts",
            "End the access token of this request",
            "On every worker within five seconds. The refresh token stays good.",
            {204: Reply("It is worth nothing any more.")},
            shows=(TOKEN,),
            errors=(*SIGNED_IN, "login_required", *STORE),
        ),
    )


def _sessions() -> tuple[Operation, ...]:
    return (
        Operation(
            "/auth/sessions",
            ("GET",),
            "accounts",
            "List the sessions of a user",
            "A session is a sign-in and all refresh tokens that came of it. The one used last comes first.",
            {200: Reply("The sessions.", account_answers.SessionEntry, is_list=True)},
            query=account_schemas.WhoseQuery,
            shows=(TOKEN,),
            errors=(*SIGNED_IN, "login_required", "invalid_request", *STORE),
        ),
        Operation(
            "/auth/sessions",
            ("DELETE",),
            "accounts",
            "Sign a user out everywhere",
            "Ends all sessions, access tokens and connections, this request's own too. API keys stay.",
            {204: Reply("All of them are ended.")},
            query=account_schemas.WhoseQuery,
            shows=(TOKEN,),
            errors=(*SIGNED_IN, "login_required", "user_not_found", "invalid_request", *STORE),
        ),
        Operation(
            "/auth/sessions/{jti}",
            ("DELETE",),
            "accounts",
            "End a session",
            "Its refresh token is worth nothing any more; its last access token goes on to its end.",
            {204: Reply("It is ended, or was before.")},
            query=account_schemas.WhoseQuery,
            shows=(TOKEN,),
            errors=(*SIGNED_IN, "login_required", "session_not_found", "invalid_request", *STORE),
        ),
    )


def _users() -> tuple[Operation, ...]:
    user = account_answers.UserAnswer
    return (
        Operation(
            "/auth/me",
            ("GET",),
            "accounts",
            "Who am I?",
            "The user whose access token or API key this is.",
            {200: Reply("The user.", user)},
            shows=(TOKEN, KEY),
            errors=(*SIGNED_IN, *STORE),
        ),
        Operation(
            "/auth/register",
            ("POST",),
            "accounts",
            "Make a user",
            "For admins.",
            {201: Reply("The user.", user)},
            body=account_schemas.Register,
            shows=(TOKEN,),
            errors=(*SIGNED_IN, *READ_BODY, "user_exists", "overloaded", *STORE),
        ),
        Operation(
            "/auth/users",
            ("GET",),
            "accounts",
            "List the users",
            'For admins. In the order of their names. A `Link` header with `rel="next"` leads to the next'
            " page, if there is one.",
            {200: Reply("One page of users.", user, is_list=True)},
            query=account_schemas.UsersQuery,
            shows=(TOKEN,),
            errors=(*SIGNED_IN, "invalid_request", *STORE),
        ),
        Operation(
            "/auth/users/stats",
            ("GET",),
            "accounts",
            "Count the users",
            "For admins.",
            {200: Reply("The counts.", account_answers.UsersStatsAnswer)},
            shows=(TOKEN,),
            errors=SIGNED_IN,
        ),
        Operation(
            "/auth/users/{user_id}",
            ("PATCH",),
            "accounts",
            "Change a user",
            "For admins. A new password, or a closed account, ends all the user has open; a permission that"
            " is taken away ends access tokens.",
            {200: Reply("The user.", user)},
            body=account_schemas.UserChange,
            shows=(TOKEN,),
            errors=(*SIGNED_IN, *READ_BODY, "user_not_found", "overloaded", *STORE),
        ),
        Operation(
            "/auth/users/{user_id}",
            ("DELETE",),
            "accounts",
            "Delete a user",
            "For admins. With sessions, API keys, grants, and all topics of the user's with their messages.",
            {204: Reply("Nothing of the user is left.")},
            shows=(TOKEN,),
            errors=(*SIGNED_IN, "own_account", "user_not_found", "overloaded", *STORE),
        ),
    )


def _keys() -> tuple[Operation, ...]:
    return (
        Operation(
            "/auth/keys",
            ("GET",),
            "accounts",
            "List the API keys of a user",
            "The oldest first. What is to be shown is in none of them: it was told once.",
            {200: Reply("The keys.", account_answers.KeyEntry, is_list=True)},
            query=account_schemas.WhoseQuery,
            shows=(TOKEN,),
            errors=(*SIGNED_IN, "login_required", "invalid_request", *STORE),
        ),
        Operation(
            "/auth/keys",
            ("POST",),
            "accounts",
            "Make an API key",
            "For a program that cannot sign in. It may never do more than its user, nothing besides its"
            " actions, and nothing with other topics than its own.",
            {201: Reply("The key, with what is to be shown.", account_answers.KeyAnswer)},
            body=account_schemas.NewKey,
            shows=(TOKEN,),
            errors=(*SIGNED_IN, *READ_BODY, "login_required", "too_many_api_keys", *STORE),
        ),
        Operation(
            "/auth/keys/{key_id}",
            ("DELETE",),
            "accounts",
            "Revoke an API key",
            "On every worker within five seconds; what it has open ends.",
            {204: Reply("It is worth nothing any more.")},
            query=account_schemas.WhoseQuery,
            shows=(TOKEN,),
            errors=(*SIGNED_IN, "login_required", "api_key_not_found", "invalid_request", *STORE),
        ),
    )


def _permissions() -> tuple[Operation, ...]:
    path = "/api/v1/topics/{topic}/permissions"
    granted = {200: Reply("What is granted.", account_answers.GrantsAnswer)}
    return (
        Operation(
            path,
            ("GET",),
            "topics",
            "List who may read and write one's topic",
            "Besides its owner, who alone may ask.",
            granted,
            shows=(TOKEN,),
            errors=(*SIGNED_IN, "login_required", "topic_not_found", *STORE),
        ),
        Operation(
            path,
            ("POST",),
            "topics",
            "Let somebody read or write one's topic",
            "What was granted to them before is replaced.",
            granted,
            body=account_schemas.NewGrant,
            shows=(TOKEN,),
            errors=(
                *(*SIGNED_IN, *READ_BODY, "login_required", "topic_not_found", "user_not_found"),
                *("too_many_grants", "overloaded", *STORE),
            ),
        ),
        Operation(
            path + "/{grantee}",
            ("DELETE",),
            "topics",
            "Take back what was granted",
            "On every worker within five seconds; subscriptions that stood on it end.",
            {204: Reply("Nothing is granted to them.")},
            shows=(TOKEN,),
            errors=(
                *(*SIGNED_IN, "login_required", "topic_not_found", "user_not_found", "overloaded"),
                *STORE,
            ),
        ),
    )
