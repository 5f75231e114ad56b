"""Snapshot: Valkey's own backup. One file, made by the server on its machine's disk."""

from __future__ import annotations

import asyncio
from pathlib import PurePosixPath

from actors.ports import StoreError
from pulsar_relay.backup.backup import Progress
from pulsar_relay.store.information import HIDDEN, configuration_of, information_of
from pulsar_relay.store.shard import Shard

LOOK_SECONDS = 0.05
_BUSY = ("rdb_bgsave_in_progress", "aof_rewrite_in_progress")


class SnapshotFailedError(Exception):
    """Valkey could not write it; its log says why."""


class Snapshot:
    """Raises StoreError."""

    def __init__(self, shard: Shard, progress: Progress) -> None:
        self._shard = shard
        self._progress = progress

    async def take(self) -> str:
        """Have the server begin one, and return when it is written: the path on the server's machine, or ""
        if it does not tell. Raises SnapshotFailedError.
        """
        # One that is under way began before it was asked for: what was published since is not in it.
        before = await self._until_idle(tells=False)
        await self._shard.command("BGSAVE")
        after = await self._until_idle(tells=True)
        is_counted = "rdb_saves" not in after or int(after["rdb_saves"]) > int(before["rdb_saves"])
        if after.get("rdb_last_bgsave_status") != "ok" or not is_counted:
            raise SnapshotFailedError("Valkey could not write the snapshot; its log says why")
        return await self._path()

    async def _until_idle(self, *, tells: bool) -> dict[str, str]:
        told = 0
        while True:
            told_before, found = told, await information_of(self._shard, "persistence")
            if all(found.get(name, "0") == "0" for name in _BUSY):
                return found
            if tells:
                self._progress.expect(int(found.get("current_save_keys_total", 0)))
                told = int(found.get("current_save_keys_processed", 0))
                self._progress.advance(told - told_before, "")
            # Valkey tells nobody when it is done.
            await asyncio.sleep(LOOK_SECONDS)

    async def _path(self) -> str:
        try:
            named = await configuration_of(self._shard, "dir", "dbfilename")
        except StoreError as error:
            if error.code not in HIDDEN:
                raise
            return ""
        return str(PurePosixPath(named["dir"]) / named["dbfilename"])
