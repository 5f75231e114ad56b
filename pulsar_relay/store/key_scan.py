"""KeyScan: all keys of a form, of all shards, in steps that delay nobody."""

from __future__ import annotations

from pulsar_relay.store.client import Client
from pulsar_relay.store.shard import Shard


class KeyScan:
    """Keys that are there throughout are found; those that move to another shard meanwhile may not be."""

    def __init__(self, client: Client, pattern: str, kind: str, keys_at_once: int) -> None:
        self._client = client
        self._words = ("MATCH", pattern, "COUNT", keys_at_once, "TYPE", kind)
        self._rest: list[Shard] = []
        self._cursor: bytes | int = 0

    async def step(self) -> tuple[list[bytes], bool]:
        """Some keys, possibly none or one that was found before, and whether all have been looked through:
        the next step begins anew. Raises StoreError; the next step then goes on with the next shard.
        """
        if not self._rest:
            self._rest = list(await self._client.shards())
        shard = self._rest.pop(0)
        cursor, self._cursor = self._cursor, 0
        self._cursor, keys = await shard.command("SCAN", cursor, *self._words)
        if int(self._cursor):
            self._rest.insert(0, shard)
        return keys, not self._rest
