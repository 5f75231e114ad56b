"""Access tokens: what today's clients read in them, and each way to forge one."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import jwt
import pytest

from pulsar_relay.accounts.access_tokens import CLOCKS_SECONDS, LONGEST, AccessTokens
from pulsar_relay.errors import RelayError
from tests.accounts import SECRET, Clock
from tests.test_user import somebody

NOW = 1_700_000_000
OTHER = "another secret for tests, of 32 bytes"
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
MISSING = object()


def ours(now: float = NOW, *secrets: str) -> AccessTokens:
    return AccessTokens(secrets or (SECRET,), 600.0, lambda: now)


def part(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def signed(header: object, claims: object, secret: str = SECRET, digest: Any = hashlib.sha256) -> str:
    body = f"{part(header)}.{part(claims)}"
    mac = hmac.new(secret.encode(), body.encode(), digest).digest()
    return f"{body}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def token(**changes: object) -> str:
    claims = {name: value for name, value in {**GOOD, **changes}.items() if value is not MISSING}
    return signed({"alg": "HS256", "typ": "JWT"}, claims)


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
    between = ours(NOW, OTHER, SECRET)
    assert between.verify(before.text) == before
    after = between.issue(user)
    assert ours(NOW, OTHER).verify(after.text) == after
    with pytest.raises(RelayError):
        ours(NOW, SECRET).verify(after.text)
    with pytest.raises(RelayError):
        ours(NOW, OTHER).verify(before.text)


def test_a_token_made_by_hand_is_good_if_all_of_it_is() -> None:
    """Otherwise the table below would prove nothing."""
    assert ours().verify(token()).user_id == GOOD["sub"]
    assert ours().verify(token(iat=NOW + CLOCKS_SECONDS)).issued_at == NOW + CLOCKS_SECONDS
    assert ours().verify(token(permissions=[], unknown={"claims": ["are", "ignored"]})).generation == 0


GOOD_HEADER = {"alg": "HS256", "typ": "JWT"}
FORGED = {
    "no algorithm": f"{part({'alg': 'none', 'typ': 'JWT'})}.{part(GOOD)}.",
    "algorithm None": f"{part({'alg': 'None', 'typ': 'JWT'})}.{part(GOOD)}.",
    "algorithm null": signed({"alg": None}, GOOD),
    "algorithm missing": signed({"typ": "JWT"}, GOOD),
    "algorithm HS384": signed({"alg": "HS384"}, GOOD, digest=hashlib.sha384),
    "algorithm HS512": signed({"alg": "HS512"}, GOOD, digest=hashlib.sha512),
    "algorithm RS256": signed({"alg": "RS256"}, GOOD),
    "algorithm in lower case": signed({"alg": "hs256"}, GOOD),
    "unknown crit": signed({**GOOD_HEADER, "crit": ["exp2"], "exp2": 1}, GOOD),
    "detached payload": signed({**GOOD_HEADER, "b64": False, "crit": ["b64"]}, GOOD),
    "header is no object": signed([], GOOD),
    "header is no JSON": signed("{", GOOD),
    "header nested deeply": signed("[" * 1500, GOOD),
    "other secret": signed(GOOD_HEADER, GOOD, secret=OTHER),
    "empty secret": signed(GOOD_HEADER, GOOD, secret=""),
    "no signature": token().rpartition(".")[0] + ".",
    "two segments": token().rpartition(".")[0],
    "four segments": token() + ".e30",
    "trailing byte": token() + "A",
    "trailing line feed": token() + "\n",
    "leading space": " " + token(),
    "padding": token() + "=",
    "other payload": ".".join((token().split(".")[0], part({**GOOD, "sub": "x"}), token().split(".")[2])),
    "claims are no object": signed(GOOD_HEADER, [GOOD]),
    "claims are no JSON": signed(GOOD_HEADER, "{"),
    "claims nested deeply": signed(GOOD_HEADER, "[" * 1500),
    "too long": token(filler="x" * LONGEST),
    "empty": "",
    "dots": "..",
    "no ASCII": "ü.ü.ü",
    "lone surrogate": "\ud800.e30.e30",
    "NUL": token() + "\0",
    **{f"without {name}": token(**{name: MISSING}) for name in GOOD},
    **{f"{name} null": token(**{name: None}) for name in GOOD},
    "exp as text": token(exp=str(NOW + 600)),
    "exp as float": token(exp=NOW + 600.5),
    "exp as integral float": signed(GOOD_HEADER, json.dumps(GOOD).replace(str(NOW + 600), f"{NOW + 600}.0")),
    "exp true": token(exp=True),
    "exp huge": token(exp=10**30),
    "exp infinite": signed(GOOD_HEADER, json.dumps({**GOOD, "exp": float("inf")})),
    "exp negative": token(exp=-1),
    "exp before iat": token(exp=NOW - 1),
    "iat in the future": token(iat=NOW + CLOCKS_SECONDS + 1, exp=NOW + 9999),
    "iat as text": token(iat=str(NOW)),
    "iat negative": token(iat=-1),
    "nbf in the future": token(nbf=NOW + 10**9),
    "nbf as text": token(nbf="soon"),
    "sub a number": token(sub=7),
    "sub empty": token(sub=""),
    "sub an object": token(sub={"user_id": GOOD["sub"]}),
    "sub long": token(sub="x" * 256),
    "username a number": token(username=7),
    "permissions a text": token(permissions="read"),
    "permissions unknown": token(permissions=["root"]),
    "permissions nested": token(permissions=[["read"]]),
    "permissions an object": token(permissions={"read": True}),
    "jti short": token(jti="0" * 31),
    "jti in capitals": token(jti="ABCDEF0123456789" * 2),
    "jti with a line feed": token(jti="0" * 32 + "\n"),
    "jti a number": token(jti=10**31),
    "iss another": token(iss="https://issuer.example"),
    "iss a list": token(iss=["pulsar-relay"]),
    "aud another": token(aud="refresh"),
    "aud a list": token(aud=["access"]),
    "gen negative": token(gen=-1),
    "gen true": token(gen=True),
    "gen as text": token(gen="0"),
}


@pytest.mark.parametrize("text", FORGED.values(), ids=FORGED)
def test_a_forged_token_is_refused(text: str) -> None:
    assert refused(text) == "invalid_token"


@pytest.mark.parametrize(
    "header", [{"kid": "../../dev/null"}, {"jku": "http://127.0.0.1:1/"}, {"jwk": {"k": ""}}]
)
def test_where_a_token_says_its_key_is_nobody_looks(header: dict[str, object]) -> None:
    assert ours().verify(signed({**GOOD_HEADER, **header}, GOOD)).jti == GOOD["jti"]
    assert refused(signed({**GOOD_HEADER, **header}, GOOD, secret=OTHER)) == "invalid_token"


def test_a_refusal_says_nothing_of_what_was_shown() -> None:
    with pytest.raises(RelayError) as error:
        ours().verify(signed(GOOD_HEADER, GOOD, secret=OTHER))
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
