"""Access tokens: what today's clients read in them, and each way to forge one."""

from __future__ import annotations

import base64
import json
from typing import Any

import jwt
import pytest

from pulsar_relay.accounts.access_tokens import CLOCKS_SECONDS, AccessTokens
from pulsar_relay.errors import RelayError
from tests.accounts import SECRET, Clock
from tests.forgeries import HEADER, OTHER_SECRET, changed, forged, signed
from tests.test_user import somebody

NOW = 1_700_000_000
GOOD: dict[str, Any] = {
    "sub": "0b0c5b5e-7d3c-4d8e-9b36-5a8b1f1f8f6e",
    "username": "galaxy",
    "permissions": ["read", "write"],
    "iat": NOW,
    "exp": NOW + 600,
    "jti": "0123456789abcdef" * 2,
    "iss": "pulsar-relay",
    "aud": "access",
    "gen": 0,
}


def ours(now: float = NOW, *secrets: str) -> AccessTokens:
    return AccessTokens(secrets or (SECRET,), 600.0, lambda: now)


def refused(text: str, now: float = NOW) -> str:
    with pytest.raises(RelayError) as error:
        ours(now).verify(text)
    assert error.value.kind.status == 401
    return error.value.code


def test_clients_find_in_a_token_what_they_look_for() -> None:
    user = somebody(user_id=GOOD["sub"], permissions=("admin", "read"), generation=3)
    issued = ours().issue(user)
    assert issued.text.count(".") == 2
    assert jwt.get_unverified_header(issued.text) == {"alg": "HS256", "typ": "JWT"}
    middle = issued.text.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
    assert claims["sub"] == user.user_id
    assert claims["username"] == "galaxy"
    assert claims["permissions"] == ["admin", "read"]
    assert (claims["iat"], claims["exp"]) == (NOW, NOW + 600)
    assert len(claims["jti"]) == 32
    assert (
        claims["jti"]
        != jwt.decode(
            ours().issue(user).text, SECRET, ["HS256"], audience="access", options={"verify_exp": False}
        )["jti"]
    )


def test_what_was_issued_is_verified_until_it_expires_and_not_a_moment_longer() -> None:
    issued = ours().issue(somebody(generation=3))
    assert ours(NOW + 599.9).verify(issued.text) == issued
    assert issued.generation == 3
    for later in (600, 600.5, 1e9):
        assert refused(issued.text, NOW + later) == "token_expired"


def test_the_first_secret_signs_and_all_verify() -> None:
    user = somebody()
    before = ours(NOW, SECRET).issue(user)
    between = ours(NOW, OTHER_SECRET, SECRET)
    assert between.verify(before.text) == before
    after = between.issue(user)
    assert ours(NOW, OTHER_SECRET).verify(after.text) == after
    with pytest.raises(RelayError):
        ours(NOW, SECRET).verify(after.text)
    with pytest.raises(RelayError):
        ours(NOW, OTHER_SECRET).verify(before.text)


def test_a_token_made_by_hand_is_good_if_all_of_it_is() -> None:
    """Otherwise the table below would prove nothing."""
    assert ours().verify(changed(GOOD)).user_id == GOOD["sub"]
    assert ours().verify(changed(GOOD, iat=NOW + CLOCKS_SECONDS)).issued_at == NOW + CLOCKS_SECONDS
    assert (
        ours().verify(changed(GOOD, permissions=[], unknown={"claims": ["are", "ignored"]})).generation == 0
    )


FORGED = forged(GOOD, NOW)


@pytest.mark.parametrize("text", FORGED.values(), ids=FORGED)
def test_a_forged_token_is_refused(text: str) -> None:
    assert refused(text) == "invalid_token"


@pytest.mark.parametrize(
    "header", [{"kid": "../../dev/null"}, {"jku": "http://127.0.0.1:1/"}, {"jwk": {"k": ""}}]
)
def test_where_a_token_says_its_key_is_nobody_looks(header: dict[str, object]) -> None:
    assert ours().verify(signed({**HEADER, **header}, GOOD)).jti == GOOD["jti"]
    assert refused(signed({**HEADER, **header}, GOOD, secret=OTHER_SECRET)) == "invalid_token"


def test_a_token_of_a_clock_that_is_further_ahead_than_clocks_are_is_refused() -> None:
    assert refused(changed(GOOD, iat=NOW + CLOCKS_SECONDS + 1, exp=NOW + 9999)) == "invalid_token"


def test_a_refusal_says_nothing_of_what_was_shown() -> None:
    with pytest.raises(RelayError) as error:
        ours().verify(signed(HEADER, GOOD, secret=OTHER_SECRET))
    assert "galaxy" not in str(error.value)
    assert SECRET not in str(error.value)


def test_the_clock_is_asked_for_each_token() -> None:
    clock = Clock()
    tokens = AccessTokens((SECRET,), 600.0, clock)
    issued = tokens.issue(somebody())
    assert tokens.verify(issued.text) == issued
    clock.now += 601
    with pytest.raises(RelayError, match="token_expired"):
        tokens.verify(issued.text)
