"""The head of a plain request, from its bytes; what is not plain is nobody's here.

Strict where it costs nothing: two servers that read the same bytes differently are how requests are smuggled
past a proxy. So whatever could be read in two ways is not judged but left to Tornado, which reads it alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

import msgspec

from pulsar_relay.web.endpoint import HEADERS

END = b"\r\n\r\n"
MOST_PARAMETERS = 100
"""Of a query; Tornado judges those with more."""
REMEMBERED_BYTES = 1024
"""A client's heads are the same again and again, but for the length of the body: up to this size they are
remembered, the newest thousand."""

_HEAD = re.compile(
    rb"((?:GET|POST) /[!->@-~]*)(?:\?([!-~]*))? HTTP/1\.([01])\r\n"
    rb"((?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t -~\x80-\xff]*\r\n)*)\r\n"
)
"""What follows a repetition is never part of it: what does not match is known after one pass and one back."""
_TARGET = re.compile(rb"((?:GET|POST) /[!->@-~]*)(?:\?[!-~]*)? HTTP/1\.[01]\r\n")
_HOST = re.compile(rb"[A-Za-z0-9._~\-\[\]:]+")
_LENGTH = re.compile(rb"[0-9]{1,15}")

_KEPT = {name.encode(): name for name in HEADERS}
_JUDGED = frozenset((b"host", b"content-length", b"connection"))
_STRANGE = frozenset((b"transfer-encoding", b"expect", b"upgrade", b"te", b"trailer", b"origin"))
"""What a page of another origin asks is Tornado's to judge, too."""


class Head(msgspec.Struct, frozen=True):
    """`target` is the method and the path, a space between; `query` what follows the question mark.

    `body_bytes` is the length of the body that follows: what a POST announces, and 0 for a GET, which must
    announce none. `host` is what the `Host` header says.
    """

    target: bytes
    query: bytes
    headers: Mapping[str, str]
    body_bytes: int
    keeps_alive: bool
    host: str


def read_head(data: bytes) -> Head | None:
    """The head that is `data`, to its empty line; None if it is not plain."""
    return _remembered(data) if len(data) <= REMEMBERED_BYTES else _read(data)


def _read(data: bytes) -> Head | None:
    found = _HEAD.fullmatch(data)
    if found is None:
        return None
    target, query, version, block = found.groups()
    headers: dict[str, str] = {}
    judged: dict[bytes, bytes] = {}
    for line in block.split(b"\r\n"):
        name, _, value = line.partition(b":")
        name = name.lower()
        if name in _KEPT:
            if _KEPT[name] in headers:
                return None
            headers[_KEPT[name]] = value.strip(b" \t").decode("latin-1")
        elif name in _JUDGED:
            if name in judged:
                return None
            judged[name] = value.strip(b" \t")
        elif name in _STRANGE:
            return None
    # Who speaks HTTP/1.0, as proxies do that were not told otherwise, closes the connection.
    usual = (b"close",) if version == b"0" else (b"keep-alive", b"close")
    connection = judged.get(b"connection", usual[0]).lower()
    length = judged.get(b"content-length")
    host = judged.get(b"host", b"")
    if (
        connection not in usual
        or not _HOST.fullmatch(host)
        or (length is not None and not _LENGTH.fullmatch(length))
    ):
        return None
    if (length is None) is target.startswith(b"POST ") or (query and query.count(b"&") >= MOST_PARAMETERS):
        return None
    return Head(target, query or b"", headers, int(length or 0), connection != b"close", host.decode("ascii"))


_remembered = lru_cache(maxsize=1024)(_read)


def read_target(data: bytes) -> bytes | None:
    """The target of a head of which only the beginning is there, once its first line is; None if that is
    not plain.
    """
    found = _TARGET.match(data)
    return found and found[1]
