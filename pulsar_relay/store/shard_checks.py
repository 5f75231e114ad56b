"""ShardChecks: what is asked of each shard, and which of them fail.

A shard that is down takes its topics with it, and no others. So a check fails as a whole only where no shard
passes it: a relay that is taken out of service for one shard serves the topics of the others to nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from actors.ports import StoreError
from pulsar_relay.store.client import Client
from pulsar_relay.store.probe import DEADLINE_SECONDS, Check
from pulsar_relay.store.shard import Shard

SHARD_SECONDS = 0.75 * DEADLINE_SECONDS
"""A shard that is silent must not use up the time in which the others have answered."""

Failures = Mapping[str, str]
"""By the shard's name, a row of the error table."""


class ShardChecks:
    """`others` tell of failures that are found elsewhere."""

    def __init__(self, client: Client, *others: Callable[[], Failures]) -> None:
        self._client = client
        self._others = others
        self._found: dict[str, Failures] = {}

    def of_each(self, name: str, check: Callable[[Shard], Awaitable[None]]) -> Check:
        """A check that fails where `check` fails for all shards."""

        async def run() -> None:
            shards = await self._client.shards()
            if len(shards) == 1:
                await check(shards[0])
                return
            errors = await asyncio.gather(*[_error_of(check(shard)) for shard in shards])
            failed = {
                shard.name: error for shard, error in zip(shards, errors, strict=True) if error is not None
            }
            self._found[name] = {shard: error.code for shard, error in failed.items()}
            if failed and len(failed) == len(shards):
                raise next(iter(failed.values()))

        return run

    def by_shard(self) -> Mapping[str, str | None]:
        """What is wrong with each shard of a cluster, a row of the error table; None where all is well.
        Nothing for any other store.
        """
        shards = self._client.known_shards()
        if not shards or self._client.tag_at(shards[0]) is None:
            return {}
        failures: dict[str, str | None] = {shard.name: None for shard in shards}
        for found in (*self._found.values(), *(other() for other in self._others)):
            for name, code in found.items():
                if failures.get(name, "") is None:
                    failures[name] = code
        return failures


async def _error_of(attempt: Awaitable[None]) -> StoreError | None:
    try:
        async with asyncio.timeout(SHARD_SECONDS):
            await attempt
    except TimeoutError:
        return StoreError("store_unavailable")
    except StoreError as error:
        return error
    return None
