"""What a Valkey server tells of itself: INFO and CONFIG GET."""

from __future__ import annotations

import re

from pulsar_relay.store.shard import Shard

HIDDEN = ("store_denied", "store_error")
"""Codes of a command that this user may not say, or that was renamed away, as some services do."""

_FIELD = re.compile(r"^([^:\r\n]*):([^\r\n]*)", re.MULTILINE)


async def information_of(shard: Shard, *sections: str) -> dict[str, str]:
    """The fields of these sections, or of the usual ones. Raises StoreError."""
    return dict(_FIELD.findall((await shard.command("INFO", *sections)).decode("utf-8", "replace")))


async def configuration_of(shard: Shard, *names: str) -> dict[str, str]:
    """The settings of these names that the server has. Raises StoreError, often with a code of `HIDDEN`."""
    words = await shard.command("CONFIG", "GET", *names)
    texts = [word.decode("utf-8", "replace") for word in words]
    return dict(zip(texts[::2], texts[1::2], strict=True))
