"""ID tokens: whatever is wrong with one, it is not believed."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from base64 import urlsafe_b64encode
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pulsar_relay.oidc.id_token import LONGEST, Expected, IdTokenError, NoKeyError, verify
from tests.openid_provider import CLIENT_ID, KEY_OF, claims, key, public_jwk, segment, signed

ISSUER = "https://provider.example"
EXPECTED = Expected(ISSUER, CLIENT_ID, "the nonce")
NOW = int(time.time())


def made(**changed: Any) -> dict[str, Any]:
    return claims(ISSUER, "the nonce", **({"iat": NOW, "exp": NOW + 300} | changed))


def believed(token: str, *keys: object, now: float = NOW) -> Any:
    return verify(token, keys or [public_jwk(key("RSA"))], EXPECTED, now)


def refused(token: str, *keys: object) -> IdTokenError:
    with pytest.raises(IdTokenError) as error:
        believed(token, *keys)
    return error.value


@pytest.mark.parametrize("algorithm", sorted(KEY_OF))
def test_a_token_is_believed_that_is_signed_with_a_key_of_the_set(algorithm: str) -> None:
    known = public_jwk(key(KEY_OF[algorithm]), kid="one", use="sig", alg=algorithm)
    others = [public_jwk(key(kind)) for kind in sorted(set(KEY_OF.values()))]
    assert believed(signed(made(), algorithm, kid="one"), *others, known) == made()
    assert believed(signed(made(), algorithm), *others) == made()


@pytest.mark.parametrize(
    "key_set",
    [
        pytest.param([], id="none"),
        pytest.param([public_jwk(key("RSA", "another"))], id="another"),
        pytest.param([public_jwk(key("RSA"), kid="two")], id="another name"),
        pytest.param([public_jwk(key("RSA"), use="enc")], id="for encryption"),
        pytest.param([public_jwk(key("RSA"), alg="RS512")], id="for another algorithm"),
        pytest.param([public_jwk(key("P-256"))], id="another kind"),
        pytest.param([None, 1, "x", [], {}, {"kty": []}, {"kty": "RSA", "n": 1, "e": {}}], id="nonsense"),
        pytest.param([{"kty": "oct", "k": "c2VjcmV0", "kid": "one"}], id="a shared secret"),
        pytest.param([public_jwk(key("RSA", str(number))) for number in range(3)] * 50, id="many"),
    ],
)
def test_without_the_key_that_signed_it_a_token_is_not_believed(key_set: list[object]) -> None:
    assert isinstance(refused(signed(made(), kid="one"), *(key_set or [None])), NoKeyError)


def test_a_key_that_is_too_short_signs_nothing() -> None:
    weak = key("weak RSA")
    with pytest.warns(jwt.warnings.InsecureKeyLengthWarning):
        token = jwt.encode(made(), weak, "RS256")
    assert isinstance(refused(token, public_jwk(weak)), NoKeyError)


def test_a_curve_that_is_not_the_algorithms_signs_nothing() -> None:
    assert isinstance(
        refused(signed(made(), "ES384"), public_jwk(key("P-384")) | {"crv": "P-256"}), NoKeyError
    )


def test_an_algorithm_without_a_key_is_refused() -> None:
    for algorithm in ("none", "None", "NONE", ""):
        token = f"{segment({'alg': algorithm})}.{segment(made())}."
        refused(token)
        refused(f"{token}AAAA")


def test_a_public_key_is_nobodys_shared_secret() -> None:
    """A token signed by HMAC with what everybody can read."""
    public = key("RSA").public_key()
    for text in (
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        json.dumps(public_jwk(key("RSA"))).encode(),
    ):
        content = f"{segment({'alg': 'HS256', 'typ': 'JWT'})}.{segment(made())}"
        mac = hmac.digest(text, content.encode(), hashlib.sha256)
        refused(f"{content}.{urlsafe_b64encode(mac).rstrip(b'=').decode()}")


@pytest.mark.parametrize(
    "header",
    [
        {"crit": ["exp"]},
        {"jwk": public_jwk(key("RSA", "attacker"))},
        {"jku": "https://attacker.example/keys"},
        {"x5u": "https://attacker.example/cert"},
        {"kid": "../../../dev/null"},
        {"kid": 5},
        {"b64": False, "crit": ["b64"]},
    ],
)
def test_what_a_header_says_of_keys_is_not_gone_by(header: dict[str, Any]) -> None:
    content = f"{segment({'alg': 'RS256'} | header)}.{segment(made())}"
    signature = jwt.get_algorithm_by_name("RS256").sign(content.encode(), key("RSA", "attacker"))
    refused(f"{content}.{urlsafe_b64encode(signature).rstrip(b'=').decode()}")


def test_a_claim_that_was_changed_is_noticed() -> None:
    header, _, signature = signed(made()).split(".")
    refused(f"{header}.{segment(made(sub='admin'))}.{signature}")


@pytest.mark.parametrize(
    "changed",
    [
        {"iss": None},
        {"iss": ISSUER + "/"},
        {"iss": [ISSUER]},
        {"aud": None},
        {"aud": "another"},
        {"aud": []},
        {"aud": ["another"]},
        {"aud": {CLIENT_ID: 1}},
        {"aud": [CLIENT_ID, "another"]},
        {"aud": [CLIENT_ID, "another"], "azp": "another"},
        {"azp": "another"},
        {"nonce": None},
        {"nonce": "another"},
        {"nonce": ["the nonce"]},
        {"nonce": ""},
        {"sub": None},
        {"sub": ""},
        {"sub": 5},
        {"sub": ["x"]},
        {"sub": "x" * 256},
        {"sub": "a\nb"},
        {"exp": None},
        {"exp": NOW - 60},
        {"exp": str(NOW + 300)},
        {"exp": True},
        {"exp": float("inf")},
        {"exp": 10**400},
        {"iat": None},
        {"iat": NOW + 62},
        {"iat": "yesterday"},
        {"nbf": NOW + 62},
        {"nbf": "yesterday"},
        {"nbf": float("nan")},
    ],
)
def test_a_claim_that_is_missing_or_wrong_is_refused(changed: dict[str, Any]) -> None:
    content = f"{segment({'alg': 'RS256'})}.{segment(made(**changed))}"
    signature = jwt.get_algorithm_by_name("RS256").sign(content.encode(), key("RSA"))
    refused(f"{content}.{urlsafe_b64encode(signature).rstrip(b'=').decode()}")


@pytest.mark.parametrize(
    "changed",
    [
        {"aud": [CLIENT_ID]},
        {"aud": [CLIENT_ID, "another"], "azp": CLIENT_ID},
        {"azp": CLIENT_ID},
        {"exp": NOW - 59},
        {"iat": NOW + 59, "nbf": NOW + 59},
        {"exp": NOW + 300.5},
    ],
)
def test_what_may_be_said_in_another_way_is_believed(changed: dict[str, Any]) -> None:
    assert believed(signed(made(**changed))) == made(**changed)


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "a.b.c",
        "a.b.c.d.e",
        "e30.e30.e30",
        f"{segment([])}.{segment({})}.AAAA",
        f"{segment({'alg': 5})}.{segment({})}.AAAA",
        f"{segment({'alg': ['RS256']})}.{segment({})}.AAAA",
        f"{segment({'alg': 'RS256'})}.{urlsafe_b64encode(b'[' * 6000).decode()}.AAAA",
        "\u00e4.b.c",
        "a.b.c\n",
        "a" * LONGEST + ".b.c",
    ],
)
def test_what_is_no_token_is_refused(token: str) -> None:
    refused(token)


@pytest.mark.parametrize("payload", [b"[]", b"1", b"null", b"{", b"\xff", b"[" * 6000])
def test_what_is_signed_and_no_object_is_refused(payload: bytes) -> None:
    content = f"{segment({'alg': 'RS256'})}.{urlsafe_b64encode(payload).rstrip(b'=').decode()}"
    signature = jwt.get_algorithm_by_name("RS256").sign(content.encode(), key("RSA"))
    refused(f"{content}.{urlsafe_b64encode(signature).rstrip(b'=').decode()}")
