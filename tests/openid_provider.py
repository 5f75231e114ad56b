"""A small OpenID provider of our own: it signs what a test says, so that what is wrong can be in a token."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

CLIENT_ID, CLIENT_SECRET = "relay: the client", "a secret & more"
"""With what a form's value has to escape."""


@cache
def key(kind: str, name: str = "") -> Any:
    """A private key; another one for each `name`."""
    if kind == "RSA":
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    if kind == "weak RSA":
        return rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - to be refused
    if kind == "OKP":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(
        {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}[kind]
    )


KEY_OF = dict.fromkeys(("RS256", "RS384", "RS512"), "RSA")
KEY_OF |= {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521", "EdDSA": "OKP"}


def public_jwk(private: Any, **members: str) -> dict[str, Any]:
    algorithm = {"RSAPrivateKey": RSAAlgorithm, "Ed25519PrivateKey": OKPAlgorithm}.get(
        type(private).__name__, ECAlgorithm
    )
    made: dict[str, Any] = algorithm.to_jwk(private.public_key(), as_dict=True)
    return made | members


def claims(issuer: str, nonce: str, /, **changed: Any) -> dict[str, Any]:
    """Of an ID token as it should be, without those that are changed to None."""
    now = int(time.time())
    made = {
        "iss": issuer,
        "aud": CLIENT_ID,
        "sub": "12345678-abc",
        "iat": now,
        "exp": now + 300,
        "nonce": nonce,
    }
    return {name: value for name, value in (made | changed).items() if value is not None}


def segment(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def signed(made: Mapping[str, Any], algorithm: str = "RS256", **headers: Any) -> str:
    return jwt.encode(dict(made), key(KEY_OF[algorithm]), algorithm, headers=headers or None)


Answer = tuple[int, Mapping[str, str], bytes]


def as_json(value: Any, status: int = 200, **headers: str) -> Answer:
    return status, headers, json.dumps(value).encode()


@dataclass
class OpenIdProvider:
    """`answers` are by path, and can be replaced; `asked` has each request: path, form, headers."""

    url: str = ""
    answers: dict[str, Callable[[dict[str, str]], Answer]] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str], Mapping[str, str]]] = field(default_factory=list)
    nonce: str = ""
    changed: dict[str, Any] = field(default_factory=dict)
    """Of the claims."""

    def __post_init__(self) -> None:
        self.answers = {
            "/.well-known/openid-configuration": lambda _: as_json(self.document()),
            "/authorize": self.authorize,
            "/keys": lambda _: as_json({"keys": [public_jwk(key("RSA"))]}),
            "/token": lambda _: as_json(
                {
                    "id_token": signed(claims(self.url, self.nonce, **self.changed)),
                    "access_token": "an access token",
                }
            ),
        }

    def document(self, **changed: Any) -> dict[str, Any]:
        made = {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize?tenant=1",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/keys",
        }
        return {name: value for name, value in (made | changed).items() if value is not None}

    def answer(self, path: str, value: Any, status: int = 200, **headers: str) -> None:
        self.answers[path] = lambda _: as_json(value, status, **headers)

    def count(self, path: str) -> int:
        return sum(one == path for one, _, _ in self.asked)

    def configured(self, **fields: Any) -> dict[str, Any]:
        """Its fields in the relay's settings."""
        return {
            "display_name": "The <provider>",
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
            "discovery_url": f"{self.url}/.well-known/openid-configuration",
            **fields,
        }

    def follow(self, authorization_url: str) -> dict[str, str]:
        """What a browser would bring back that has signed in there."""
        return self._let_in(dict(parse_qsl(urlsplit(authorization_url).query)))

    def authorize(self, query: dict[str, str]) -> Answer:
        """For a browser: whoever comes is let in, and goes straight back."""
        return 302, {"Location": f"{query['redirect_uri']}?{urlencode(self._let_in(query))}"}, b""

    def _let_in(self, query: Mapping[str, str]) -> dict[str, str]:
        self.nonce = query["nonce"]
        return {"code": "a code", "state": query["state"]}


@contextmanager
def openid_provider() -> Iterator[OpenIdProvider]:
    provider = OpenIdProvider()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = urlsplit(self.path)
            path, text = parts.path, body.decode() if self.command == "POST" else parts.query
            form = {name: values[-1] for name, values in parse_qs(text).items()}
            provider.asked.append((path, form, dict(self.headers)))
            answer = provider.answers.get(path)
            status, headers, told = (404, {}, b"") if answer is None else answer(form)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(told)))
            self.end_headers()
            # The relay does not read an answer that is too long.
            with suppress(OSError):
                self.wfile.write(told)

        do_POST = do_GET

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    provider.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
