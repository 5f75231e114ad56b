"""Where a relay is, what is shown there, and the URLs made from its base URL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode, urlsplit

from pulsar_relay.client.credentials import NOTHING, Credentials


@dataclass(frozen=True, slots=True)
class Address:
    """A relay's base URL, without a slash at its end. A proxy may have put the relay below a path."""

    base: str
    credentials: Credentials = field(default=NOTHING, compare=False)

    @classmethod
    def parse(cls, text: str) -> Address:
        """ValueError, with a phrase that completes "URL ...", unless `text` is the base URL of a relay."""
        parts = urlsplit(text)
        if parts.scheme not in {"http", "https"}:
            raise ValueError("must begin with http:// or https://")
        if not parts.hostname:
            raise ValueError("names no host")
        if parts.query or parts.fragment:
            raise ValueError("must not have a query or a fragment")
        if parts.port == 0:
            raise ValueError("has port 0, where nobody can listen")
        return cls(text.rstrip("/"))

    @property
    def shown(self) -> str:
        """The URL for messages, without a password that may be in it."""
        parts = urlsplit(self.base)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

    @property
    def is_secure(self) -> bool:
        return self.base.startswith("https:")

    @property
    def host_and_port(self) -> tuple[str, int]:
        parts = urlsplit(self.base)
        assert parts.hostname is not None
        return parts.hostname, parts.port or (443 if self.is_secure else 80)

    def url(self, path: str, query: Mapping[str, str] | None = None) -> str:
        return self.base + path + (f"?{urlencode(query)}" if query else "")

    def target(self, path: str, query: Mapping[str, str]) -> str:
        """What stands in a request's first line: the URL without scheme and host."""
        return f"{urlsplit(self.base).path}{path}?{urlencode(query)}"

    def websocket_url(self) -> str:
        return "ws" + self.base.removeprefix("http") + "/ws"


def topic_path(topic: str) -> str:
    return f"/api/v1/topics/{quote(topic, safe='')}"


def consumer_path(client_id: str) -> str:
    return f"/api/v1/consumers/{quote(client_id, safe='')}"
