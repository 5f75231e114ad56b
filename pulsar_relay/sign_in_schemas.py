"""The shape of the requests about signing in with a browser; see `schemas.py`."""

from __future__ import annotations

from marshmallow import fields

from pulsar_relay.schemas import Request, about


class DeviceCodeForm(Request):
    client_hint = fields.String(
        metadata=about("What the device calls itself; its `User-Agent`, unless said.", "pulsar at home")
    )
    pair = fields.Boolean(
        metadata=about("Whether it wants two sessions that know nothing of each other.", "true")
    )


class DeviceTokenForm(Request):
    grant_type = fields.String(
        required=True, metadata=about("Always this.", "urn:ietf:params:oauth:grant-type:device_code")
    )
    device_code = fields.String(
        required=True,
        metadata=about("As it was given.", "GmRhmhcxhwAzkoEqiMEg_DnyEysNkuNhszIySk9eS2M"),
    )


def _user_code(*, required: bool) -> fields.String:
    return fields.String(
        required=required, metadata=about("The code that the device shows, however it is typed.", "BCDF-2345")
    )


class UserCodeForm(Request):
    user_code = _user_code(required=True)


class UserCodeQuery(Request):
    user_code = _user_code(required=False)


class DeviceSignInForm(UserCodeForm):
    username = fields.String(required=True, metadata=about("The user's name.", "galaxy"))
    password = fields.String(
        required=True, metadata=about("The user's password.", "correct horse battery staple")
    )


class DecisionForm(Request):
    ticket = fields.String(
        required=True, metadata=about("From the page.", "GmRhmhcxhwAzkoEqiMEg_DnyEysNkuNhszIySk9eS2M")
    )
    decision = fields.String(required=True, metadata=about("`approve` or `deny`.", "approve"))


class ProviderLoginQuery(Request):
    device_user_code = fields.String(metadata=about("Of a device that is to be let in.", "BCDF-2345"))


class ProviderCallbackQuery(Request):
    code = fields.String(metadata=about("From the provider.", "SplxlOBeZQQYbYS6WxSbIA"))
    state = fields.String(metadata=about("From the relay, by way of the provider.", "af0ifjsldkj"))
    iss = fields.String(metadata=about("Which provider it is, if it says so.", "https://login.example.org"))
    error = fields.String(metadata=about("Why the provider did not sign anybody in.", "access_denied"))
    error_description = fields.String(metadata=about("The same for a person.", "You said no."))
