"""The kinds of setting that name others on the network: origins, hosts, networks, addresses of the web.

Lists are written with commas, as a YAML or TOML list, or as a JSON list; the value is a tuple.
"""

from __future__ import annotations

import ipaddress
import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pulsar_relay.identity_providers import is_safe_address

ANY = "*"
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*\.?|\[[0-9a-f:.]+\]")


def listed(text: str) -> tuple[str, ...]:
    """The words of a list as it may be written. ValueError, without the text in it."""
    if not text.lstrip().startswith("["):
        return tuple(word.strip() for word in text.split(","))
    try:
        words: Any = json.loads(text)
    except ValueError:
        # An IPv6 address begins with a bracket too.
        return tuple(word.strip() for word in text.split(","))
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ValueError("is no list of words")
    return tuple(word.strip() for word in words)


@dataclass(frozen=True, slots=True)
class Origins:
    """Origins as browsers send them; `*` is any."""

    form: str = "origins such as https://galaxy.example.org, with commas between them, or * for any"
    null_words: frozenset[str] = frozenset()
    takes_structure: bool = True

    def parse(self, text: str) -> tuple[str, ...]:
        return tuple(self._origin(word) for word in listed(text))

    def show(self, value: object) -> str:
        assert isinstance(value, tuple)
        return ", ".join(value)

    def _origin(self, word: str) -> str:
        if word == ANY:
            return word
        try:
            parts = urlsplit(word)
            port = parts.port
        except ValueError:
            raise ValueError("holds something that is no origin") from None
        is_bare = parts.path in ("", "/") and not parts.query and not parts.fragment
        if parts.scheme not in ("http", "https") or not parts.hostname or not is_bare or "@" in parts.netloc:
            raise ValueError("holds something that is no origin (scheme, host and port, and nothing else)")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        # A browser leaves the usual port out.
        is_usual = port in (None, {"http": 80, "https": 443}[parts.scheme])
        return f"{parts.scheme}://{host}" + ("" if is_usual else f":{port}")


@dataclass(frozen=True, slots=True)
class HostNames:
    """Names in a `Host` header, without ports; `*.example.org` is each name below it, `*` any."""

    form: str = "host names, with commas between them; *.example.org for all names below one, * for any"
    null_words: frozenset[str] = frozenset()
    takes_structure: bool = True

    def parse(self, text: str) -> tuple[str, ...]:
        names = tuple(word.lower() for word in listed(text))
        if any(name != ANY and not _HOST.fullmatch(name) for name in names):
            raise ValueError("holds something that is no host name (without scheme and port)")
        return names

    def show(self, value: object) -> str:
        assert isinstance(value, tuple)
        return ", ".join(value)


@dataclass(frozen=True, slots=True)
class Networks:
    """Addresses, and networks as `10.0.0.0/8`; the value has all as networks, as text."""

    form: str = "addresses or networks such as 10.0.0.0/8, with commas between them"
    null_words: frozenset[str] = frozenset({"none"})
    takes_structure: bool = True

    def parse(self, text: str) -> tuple[str, ...]:
        try:
            return tuple(str(ipaddress.ip_network(word)) for word in listed(text))
        except ValueError:
            raise ValueError("holds something that is neither an address nor a network") from None

    def show(self, value: object) -> str:
        assert isinstance(value, tuple)
        return ", ".join(value)


@dataclass(frozen=True, slots=True)
class WebAddress:
    """Where a program is reached from outside: scheme, host and port. Without TLS only on this machine."""

    form: str = "https://relay.example.org; http only for localhost"
    null_words: frozenset[str] = frozenset()

    def parse(self, text: str) -> str:
        if not is_safe_address(text):
            raise ValueError("is no https address")
        parts = urlsplit(text)
        if parts.path not in ("", "/") or parts.query or parts.fragment:
            raise ValueError("has more than scheme, host and port: clients take no path")
        return text.rstrip("/")

    def show(self, value: object) -> str:
        return str(value)
