"""What a Valkey server tells of itself: INFO and CONFIG GET."""

from __future__ import annotations

from pulsar_relay.store.shard import Shard

HIDDEN = ("store_denied", "store_error")
"""Codes of a command that this user may not say, or that was renamed away, as some services do."""


async def information_of(shard: Shard, *sections: str) -> dict[str, str]:
    """The fields of these sections, or of the usual ones. Raises StoreError."""
    lines = (await shard.command("INFO", *sections)).decode("utf-8", "replace").splitlines()
    return {name: value for name, colon, value in (line.partition(":") for line in lines) if colon}


async def configuration_of(shard: Shard, *names: str) -> dict[str, str]:
    """The settings of these names that the server has. Raises StoreError, often with a code of `HIDDEN`."""
    words = await shard.command("CONFIG", "GET", *names)
    texts = [word.decode("utf-8", "replace") for word in words]
    return dict(zip(texts[::2], texts[1::2], strict=True))
