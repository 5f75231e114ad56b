"""CursorCookie: where a client's last poll ended, kept by the client without its knowing.

A client that polls without `since` would lose what is published between two polls. HTTP libraries send
cookies back by themselves, so the answer carries its end positions in one. It is signed: a position is
cheap to make up, but a cookie that was tampered with or is another relay's must read as no cookie, never as
a place to skip to.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from functools import lru_cache

from tornado.httputil import parse_cookie

from actors.stream import MessageId
from pulsar_relay.errors import RelayError

_SIGNATURE_BYTES = 12
_MOST_TOPICS = 64
"""A browser keeps cookies up to 4,096 bytes; a topic takes up to 52. The positions longest unused are
dropped first.
"""


class CursorCookie:
    """Writes and reads the cookie's value. All workers share a key, which has to be learnt from the store;
    until then every method raises RelayError, since a cookie that cannot be read is not a missing one.

    `reader` is who reads: one browser, or one program, may speak for several users, of which each has its own
    place in a topic.
    """

    name = "relay_cursor"

    def __init__(self, key: str | None = None) -> None:
        self._key = key.encode("ascii") if key else None

    @property
    def key(self) -> str | None:
        """None until it is learnt."""
        return self._key.decode("ascii") if self._key else None

    def learn(self, key: str) -> None:
        self._key = key.encode("ascii")

    def among(self, cookies: str) -> str | None:
        """The cookie's value in a `Cookie` header."""
        return parse_cookie(cookies).get(self.name) if self.name in cookies else None

    def header(self, value: str | None, cursors: Mapping[str, MessageId], reader: str = "") -> str:
        """As `update`, as a `Set-Cookie` header."""
        return f"{self.name}={self.update(value, cursors, reader)}; HttpOnly; Path=/; SameSite=Lax"

    def update(self, value: str | None, cursors: Mapping[str, MessageId], reader: str = "") -> str:
        """The value that follows `value`: these positions replaced, those of other topics kept."""
        kept = self._positions(value)
        for topic, cursor in cursors.items():
            # Taken out first: the dictionary's order is the order of last use.
            short = _short(reader + topic)
            kept.pop(short, None)
            kept[short] = str(cursor)
        text = ".".join(f"{short}:{cursor}" for short, cursor in list(kept.items())[-_MOST_TOPICS:])
        return f"{text}.{self._sign(text)}"

    def read(self, value: str | None, topics: Sequence[str], reader: str = "") -> dict[str, MessageId]:
        """The positions of those `topics` the cookie has one for; none if it is missing, damaged or not
        ours.
        """
        positions = self._positions(value)
        shorts = {topic: _short(reader + topic) for topic in topics}
        return {
            topic: MessageId.parse(positions[short]) for topic, short in shorts.items() if short in positions
        }

    def _positions(self, value: str | None) -> dict[str, str]:
        if self._key is None:
            raise RelayError("store_unavailable")
        text, _, signature = (value or "").rpartition(".")
        if not text or not hmac.compare_digest(
            signature.encode("utf-8", "replace"), self._sign(text).encode()
        ):
            return {}
        return dict(part.split(":", 1) for part in text.split("."))

    def _sign(self, text: str) -> str:
        assert self._key is not None
        return _signature(self._key, text)


@lru_cache(maxsize=4096)
def _signature(key: bytes, text: str) -> str:
    # Remembered: what is signed for an answer comes back with the next poll.
    digest = hmac.digest(key, text.encode("utf-8", "surrogateescape"), "sha256")
    return base64.urlsafe_b64encode(digest[:_SIGNATURE_BYTES]).decode("ascii")


@lru_cache(maxsize=4096)
def _short(topic: str) -> str:
    """A topic's name can be 255 characters long; 9 bytes of its hash tell a client's few topics apart."""
    digest = hashlib.blake2b(topic.encode(), digest_size=9).digest()
    return base64.urlsafe_b64encode(digest).decode("ascii")
