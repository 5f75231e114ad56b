"""The opening handshake of a WebSocket: what is accepted, what is refused, and what is answered."""

from __future__ import annotations

import base64
import hashlib
import re

from pulsar_relay.errors import RelayError
from pulsar_relay.web.perimeter import NO_PERIMETER, Headers, Perimeter

VERSION = "13"
SUBPROTOCOL = "bearer"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_RESPONSE = (
    "HTTP/1.1 101 Switching Protocols\r\n"
    "Upgrade: websocket\r\n"
    "Connection: Upgrade\r\n"
    "Sec-WebSocket-Accept: %s\r\n"
    "%s\r\n"
)


_HEADER = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([\t -~\x80-\xff]*)")
_HOST = re.compile(r"[A-Za-z0-9._~\-\[\]:]+")
_WITH_BODY = frozenset(("content-length", "transfer-encoding", "expect", "te", "trailer"))


def read_headers(head: bytes) -> Headers | None:
    """Those of a request without a body, from its bytes to the empty line; None if anything in them could be
    read in two ways, or stands there twice.
    """
    headers: dict[str, str] = {}
    for line in head.split(b"\r\n")[1:-2]:
        found = _HEADER.fullmatch(line)
        if found is None:
            return None
        name = found[1].decode("ascii").lower()
        if name in headers or name in _WITH_BODY:
            return None
        headers[name] = found[2].decode("latin-1").strip(" \t")
    return headers if _HOST.fullmatch(headers.get("host", "")) else None


def offered_token(headers: Headers) -> str | None:
    """The token among the subprotocols: a page can offer `bearer` and `bearer.<token>`, and nothing else."""
    for offered in headers.get("sec-websocket-protocol", "").split(","):
        word, dot, token = offered.strip().partition(".")
        if dot and word == SUBPROTOCOL:
            return token or None
    return None


def refuse_unless_upgrade(headers: Headers, version: str, perimeter: Perimeter = NO_PERIMETER) -> None:
    """RelayError unless a GET with these headers, in this version of HTTP, may become a WebSocket."""
    tokens = [token.strip().lower() for token in headers.get("connection", "").split(",")]
    if headers.get("upgrade", "").lower() != "websocket" or "upgrade" not in tokens:
        raise RelayError("upgrade_required")
    if headers.get("sec-websocket-version", "") != VERSION:
        raise RelayError("bad_request", f"The version of WebSocket spoken here is {VERSION}.")
    if not headers.get("sec-websocket-key", "") or version != "HTTP/1.1":
        raise RelayError("bad_request", "A WebSocket begins with HTTP/1.1 and a Sec-WebSocket-Key.")
    if not perimeter.admits_page(headers):
        raise RelayError("origin_not_allowed")


def upgrade_response(headers: Headers) -> bytes:
    """The answer that accepts. No extension is agreed to: compressing for each connection would undo the
    sharing of ready frames.
    """
    protocols = [name.strip() for name in headers.get("sec-websocket-protocol", "").split(",")]
    chosen = f"Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n" if SUBPROTOCOL in protocols else ""
    key = headers["sec-websocket-key"].encode("latin-1")
    digest = hashlib.sha1(key + _GUID, usedforsecurity=False).digest()
    accept = base64.b64encode(digest).decode()
    return (_RESPONSE % (accept, chosen)).encode()
