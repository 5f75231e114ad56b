"""The shape of the answers about signing in with a browser; see `answers.py`."""

from __future__ import annotations

from marshmallow import fields, validate

from pulsar_relay.answers import Answer
from pulsar_relay.schemas import about


class DeviceCodeAnswer(Answer):
    device_code = fields.String(
        required=True,
        metadata=about(
            "For the device alone: what it asks for tokens with.", "NGU5OWFiNjQ5YmQwNGY3YTdmZTEyNzQ3YzQ1YSA"
        ),
    )
    user_code = fields.String(
        required=True, metadata=about("To be shown, and typed by a person.", "WDJB-MJHT")
    )
    verification_uri = fields.String(
        required=True, metadata=about("Where it is typed.", "https://relay.example.org/auth/device")
    )
    verification_uri_complete = fields.String(
        required=True,
        metadata=about(
            "The same with the code in it.", "https://relay.example.org/auth/device?user_code=WDJB-MJHT"
        ),
    )
    expires_in = fields.Integer(
        required=True, strict=True, metadata=about("Seconds both codes are good.", 600)
    )
    interval = fields.Integer(required=True, strict=True, metadata=about("Seconds between two polls.", 5))


class DeviceTokenAnswer(Answer):
    access_token = fields.String(
        required=True, metadata=about("For `Authorization: Bearer`.", "eyJhbGciOiJI")
    )
    token_type = fields.String(
        required=True, validate=validate.Equal("bearer"), metadata=about("Always `bearer`.", "bearer")
    )
    expires_in = fields.Integer(required=True, strict=True, metadata=about("Seconds.", 600))
    refresh_token = fields.String(
        required=True, metadata=about("Good for one next access token.", "5f0c.0a4e")
    )
    refresh_token_secondary = fields.String(
        metadata=about(
            "Of a session of its own; only where the codes were asked for with `pair`.", "9b7d.4c1e"
        )
    )


class DeviceErrorAnswer(Answer):
    error = fields.String(
        required=True,
        metadata=about(
            "A word of OAuth: `authorization_pending`, `slow_down`, `access_denied`, `expired_token`, "
            "`unsupported_grant_type`.",
            "authorization_pending",
        ),
    )
    error_description = fields.String(
        metadata=about("For a person; often there is none.", "Unknown device_code")
    )


class DeniedAnswer(Answer):
    status = fields.String(required=True, metadata=about("Always `denied`.", "denied"))


class ProviderEntry(Answer):
    name = fields.String(required=True, metadata=about("As in the addresses.", "campus"))
    display_name = fields.String(required=True, metadata=about("For people.", "Campus login"))
    login_url = fields.String(
        required=True,
        metadata=about("Where a browser begins.", "https://relay.example.org/auth/oidc/campus/login"),
    )


class ProviderTokenAnswer(Answer):
    access_token = fields.String(
        required=True, metadata=about("For `Authorization: Bearer`.", "eyJhbGciOiJI")
    )
    token_type = fields.String(
        required=True, validate=validate.Equal("bearer"), metadata=about("Always `bearer`.", "bearer")
    )
    expires_in = fields.Integer(required=True, strict=True, metadata=about("Seconds.", 600))
    refresh_token = fields.String(
        required=True, allow_none=True, metadata=about("Null: a browser signs in again.")
    )
    refresh_token_secondary = fields.String(required=True, allow_none=True, metadata=about("Null."))
