"""What a Valkey server tells of itself with INFO."""

from __future__ import annotations

from pulsar_relay.store.client import Client


async def information_of(client: Client, *sections: str) -> dict[str, str]:
    """The fields of these sections, or of the usual ones. Raises StoreError."""
    lines = (await client.command("INFO", *sections)).decode("utf-8", "replace").splitlines()
    return {name: value for name, colon, value in (line.partition(":") for line in lines) if colon}
