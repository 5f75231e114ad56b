from __future__ import annotations

import json

import pytest

from pulsar_relay.identity_providers import IdentityProviders, is_safe_address

FIELDS = {
    "display_name": "Example",
    "client_id": "relay",
    "client_secret": "hunter2",
    "discovery_url": "https://login.example.org/discovery",
}
ENDPOINTS = {
    "issuer": "https://login.example.org",
    "authorization_endpoint": "https://login.example.org/a",
    "token_endpoint": "https://login.example.org/t",
    "jwks_uri": "https://login.example.org/k",
}


def parsed(**fields: object) -> object:
    return IdentityProviders().parse(json.dumps({"Example": fields}))


def test_a_provider_is_read_and_what_is_shown_reads_back() -> None:
    value = parsed(**FIELDS, scopes="openid email", userinfo_endpoint="")
    (provider,) = IdentityProviders().parse(IdentityProviders().show(value))
    assert (provider.name, provider.scopes) == ("example", ("openid", "email"))
    assert provider.userinfo_endpoint is None and provider.claim_sub == "sub"


def test_its_secret_is_not_in_what_may_be_shown() -> None:
    value = parsed(**FIELDS)
    assert "hunter2" not in IdentityProviders().masked(value) + repr(value)
    assert list(IdentityProviders().secrets(value)) == ["hunter2"]


def test_the_endpoints_do_instead_of_a_discovery_url() -> None:
    assert parsed(**{**FIELDS, "discovery_url": None}, **ENDPOINTS)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({**FIELDS, "discovery_url": None}, "lacks issuer, authorization_endpoint, token_endpoint, jwks_uri"),
        ({**FIELDS, "client_secret": ""}, "lacks client_secret"),
        ({**FIELDS, "clientid": "x"}, "'client_id' is meant"),
        ({**FIELDS, "client_id": 5}, "not text"),
        ({**FIELDS, "scopes": ["email"]}, "without 'openid'"),
        ({**FIELDS, "scopes": [1]}, "no list of words"),
        ({**FIELDS, "discovery_url": "http://login.example.org"}, "no https address"),
    ],
)
def test_a_provider_that_cannot_be_used_is_refused(fields: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as refusal:
        parsed(**fields)
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize("text", ["", "x", "[]", "1", '{"a b": {}}', '{"a": 1}', '{"a": null}'])
def test_what_is_no_mapping_of_providers_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        IdentityProviders().parse(text)


@pytest.mark.parametrize(
    "address", ["http://a", "https://", "https://u@a", "https://a:x", "//a", "file:///a"]
)
def test_secrets_are_sent_to_no_such_address(address: str) -> None:
    assert not is_safe_address(address)
