"""What a Valkey server tells of itself with INFO."""

from __future__ import annotations

from pulsar_relay.store.shard import Shard


async def information_of(shard: Shard, *sections: str) -> dict[str, str]:
    """The fields of these sections, or of the usual ones. Raises StoreError."""
    lines = (await shard.command("INFO", *sections)).decode("utf-8", "replace").splitlines()
    return {name: value for name, colon, value in (line.partition(":") for line in lines) if colon}
