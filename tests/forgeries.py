"""Access tokens that nobody issued: each way to forge one, from the claims of a good one."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any

from pulsar_relay.accounts.access_tokens import CLOCKS_SECONDS, LONGEST
from tests.accounts import SECRET

OTHER_SECRET = "another secret for tests, of 32 bytes"
HEADER = {"alg": "HS256", "typ": "JWT"}
MISSING = object()


def part(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def signed(header: object, claims: object, secret: str = SECRET, digest: Any = hashlib.sha256) -> str:
    body = f"{part(header)}.{part(claims)}"
    mac = hmac.new(secret.encode(), body.encode(), digest).digest()
    return f"{body}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def changed(good: Mapping[str, Any], **changes: object) -> str:
    """A token with these claims, signed as it should be."""
    claims = {name: value for name, value in {**good, **changes}.items() if value is not MISSING}
    return signed(HEADER, claims)


def forged(good: Mapping[str, Any], now: int) -> dict[str, str]:
    """By what is wrong with them. `good` are claims of a token that is good now."""

    def token(**changes: object) -> str:
        return changed(good, **changes)

    return {
        "no algorithm": f"{part({'alg': 'none', 'typ': 'JWT'})}.{part(dict(good))}.",
        "algorithm None": f"{part({'alg': 'None', 'typ': 'JWT'})}.{part(dict(good))}.",
        "algorithm null": signed({"alg": None}, good),
        "algorithm missing": signed({"typ": "JWT"}, good),
        "algorithm HS384": signed({"alg": "HS384"}, good, digest=hashlib.sha384),
        "algorithm HS512": signed({"alg": "HS512"}, good, digest=hashlib.sha512),
        "algorithm RS256": signed({"alg": "RS256"}, good),
        "algorithm in lower case": signed({"alg": "hs256"}, good),
        "unknown crit": signed({**HEADER, "crit": ["exp2"], "exp2": 1}, good),
        "detached payload": signed({**HEADER, "b64": False, "crit": ["b64"]}, good),
        "header is no object": signed([], good),
        "header is no JSON": signed("{", good),
        "header nested deeply": signed("[" * 1500, good),
        "other secret": signed(HEADER, good, secret=OTHER_SECRET),
        "empty secret": signed(HEADER, good, secret=""),
        "no signature": token().rpartition(".")[0] + ".",
        "two segments": token().rpartition(".")[0],
        "four segments": token() + ".e30",
        "trailing byte": token() + "A",
        "trailing line feed": token() + "\n",
        "leading space": " " + token(),
        "padding": token() + "=",
        "other payload": ".".join((token().split(".")[0], part({**good, "sub": "x"}), token().split(".")[2])),
        "claims are no object": signed(HEADER, [dict(good)]),
        "claims are no JSON": signed(HEADER, "{"),
        "claims nested deeply": signed(HEADER, "[" * 1500),
        "too long": token(filler="x" * LONGEST),
        "empty": "",
        "dots": "..",
        "no ASCII": "ü.ü.ü",
        "lone surrogate": "\ud800.e30.e30",
        "NUL": token() + "\0",
        **{f"without {name}": token(**{name: MISSING}) for name in good},
        **{f"{name} null": token(**{name: None}) for name in good},
        "exp as text": token(exp=str(now + 600)),
        "exp as float": token(exp=now + 600.5),
        "exp as integral float": signed(
            HEADER, json.dumps(good).replace(str(good["exp"]), f"{good['exp']}.0")
        ),
        "exp true": token(exp=True),
        "exp huge": token(exp=10**30),
        "exp infinite": signed(HEADER, json.dumps({**good, "exp": float("inf")})),
        "exp negative": token(exp=-1),
        "exp before iat": token(exp=now - 1),
        "iat in the future": token(iat=now + CLOCKS_SECONDS + 600, exp=now + 9999),
        "iat as text": token(iat=str(now)),
        "iat negative": token(iat=-1),
        "nbf in the future": token(nbf=now + 10**9),
        "nbf as text": token(nbf="soon"),
        "sub a number": token(sub=7),
        "sub empty": token(sub=""),
        "sub an object": token(sub={"user_id": good["sub"]}),
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
