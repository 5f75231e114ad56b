"""Console: commands as an operator types them, answered in the server's own words.

Everything else of the relay asks through a `Client`, which tells what an error means and keeps its text out
of sight; whoever types a command wants to see that text.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence

from valkey.exceptions import ValkeyError

from pulsar_relay.store.client import Client
from pulsar_relay.store.link import Endpoint
from pulsar_relay.store.refusals import ANSWERS, lost, unreachable
from pulsar_relay.store.shard import Shard

Reply = bytes | int | None | list["Reply"]

ENDLESS = frozenset({"MONITOR", "SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE"})
"""Commands that are answered again and again."""


class AnswerError(Exception):
    """The server refused the command; the text is its own."""


class Console:
    """One connection for each command. Raises StoreError where the server cannot be talked to."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def replies(self, words: Sequence[str]) -> AsyncGenerator[Reply, None]:
        """Send a command and yield its reply; of an endless one all replies, until the caller stops or the
        connection ends. However long it takes: there is no deadline. Raises AnswerError.
        """
        endpoint = self._endpoint
        if endpoint.locator is not None:
            endpoint = endpoint.at(await endpoint.locator.primary())
        connection = endpoint.connection_class(**endpoint.arguments)
        try:
            try:
                async with asyncio.timeout(endpoint.connect_timeout_seconds):
                    await connection.connect()
            except (ValkeyError, OSError) as error:
                raise unreachable(error) from error
            await connection.send_command(*words)
            yield await connection.read_response(disconnect_on_error=False)
            while words[0].upper() in ENDLESS:
                yield await connection.read_response(disconnect_on_error=False)
        except ANSWERS as error:
            raise AnswerError(str(error)) from error
        except (ValkeyError, OSError) as error:
            raise lost() from error
        finally:
            with contextlib.suppress(ValkeyError, OSError):
                await connection.disconnect(nowait=True)


async def shards_for(client: Client, words: Sequence[str]) -> Sequence[Shard]:
    """Who is to be asked: the primary that has the command's key. All of them where it has none; but one of
    them, if the command has no end. Raises StoreError.
    """
    shards = await client.shards()
    if len(shards) == 1:
        return shards
    if words[0].upper() in ENDLESS:
        return shards[:1]
    async with contextlib.aclosing(
        Console(shards[0].endpoint).replies(("COMMAND", "GETKEYS", *words))
    ) as keys:
        try:
            found = await anext(keys)
        except AnswerError:
            # It has no key, or is no command at all: whoever is asked says so.
            return shards
    home = client.home(found[0]) if isinstance(found, list) and isinstance(found[0], bytes) else None
    return shards if home is None else [home]
