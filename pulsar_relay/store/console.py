"""Console: commands as an operator types them, answered in the server's own words.

Everything else of the relay asks through a `Client`, which tells what an error means and keeps its text out
of sight; whoever types a command wants to see that text.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import Any

from libvalkey import ReplyError

from pulsar_relay.store.client import Client
from pulsar_relay.store.link import Endpoint, Link, pack
from pulsar_relay.store.refusals import lost
from pulsar_relay.store.shard import Shard

Reply = bytes | int | None | list["Reply"]

ENDLESS = frozenset({"MONITOR", "SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE"})
"""Commands that are answered again and again."""
MOST_UNREAD = 1000
"""Replies that wait for whoever reads them; the next ones wait on the server's side."""


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
        replies = _Replies()
        link = await Link.open(replace(endpoint, identity=None), replies.on_reply, replies.on_lost, _told)
        try:
            link.write([pack(tuple(words))])
            yield await replies.next(link)
            while words[0].upper() in ENDLESS:
                yield await replies.next(link)
        finally:
            link.close()
            await link.wait_closed()


class _Replies:
    """What the link says, until it is read."""

    def __init__(self) -> None:
        self._unread: asyncio.Queue[Any] = asyncio.Queue()

    def on_reply(self, reply: Any) -> None:
        self._unread.put_nowait(reply)

    def on_lost(self) -> None:
        self._unread.put_nowait(lost())

    async def next(self, link: Link) -> Reply:
        if self._unread.qsize() > MOST_UNREAD:
            link.pause()
        elif self._unread.empty():
            link.resume()
        reply = await self._unread.get()
        if isinstance(reply, Exception):
            raise reply
        told: Reply = reply
        return told


def _told(error: ReplyError) -> AnswerError:
    return AnswerError(str(error))


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
