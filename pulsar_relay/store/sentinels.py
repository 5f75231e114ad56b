"""Sentinels: which server is the primary, as those know who watch over it.

All sentinels are asked at once, and of two answers that differ the one with the higher configuration epoch
is the later. They are asked at each connection, and each second while there are connections: one to a server
that is not the primary any more is severed. That server itself may not know yet, if it was paused, or cut off
with those who write to it; what it still takes from them would be lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from actors.ports import StoreError
from pulsar_relay.store.identity import Severable
from pulsar_relay.store.line import Line
from pulsar_relay.store.link import Endpoint, Place

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
LATECOMERS_SECONDS = 0.2
"""How long an answer waits for those of the other sentinels, which may know better."""


class Sentinels:
    """A `Locator`. `endpoints` are those of the sentinels, `service` is their name of the primary."""

    def __init__(self, endpoints: Sequence[Endpoint], service: str) -> None:
        self._lines = [Line(endpoint) for endpoint in endpoints]
        self._timeout_seconds = endpoints[0].command_timeout_seconds
        self._service = service
        self._links: WeakKeyDictionary[Severable, Place] = WeakKeyDictionary()
        self._watching: asyncio.Task[None] | None = None
        self._epoch = -1
        self._primary: Place | None = None

    async def primary(self) -> Place:
        """Raises StoreError "store_unavailable" if no sentinel answers, or none knows it."""
        asked = [asyncio.ensure_future(self._ask(line)) for line in self._lines]
        answers: list[tuple[int, Place]] = []
        try:
            async with asyncio.timeout(self._timeout_seconds) as deadline:
                for answer in asyncio.as_completed(asked):
                    if found := await answer:
                        latest = asyncio.get_running_loop().time() + LATECOMERS_SECONDS
                        deadline.reschedule(latest if not answers else deadline.when())
                        answers.append(found)
        except TimeoutError:
            pass  # what was not told by now does not count
        finally:
            for one in asked:
                one.cancel()
        if not answers:
            raise StoreError("store_unavailable", "no sentinel tells where the primary is")
        epoch, place = max(answers)
        # Those who know of a later one may be away now.
        if epoch >= self._epoch or self._primary is None:
            self._epoch, self._primary = epoch, place
        return self._primary

    def watch(self, link: Severable, place: Place) -> None:
        self._links[link] = place
        if self._watching is None:
            self._watching = asyncio.get_running_loop().create_task(self._watch(), name="sentinels")

    async def aclose(self) -> None:
        watching, self._watching = self._watching, None
        if watching is not None:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
        for line in self._lines:
            await line.aclose()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                place = await self.primary()
            except StoreError:
                continue  # who has a connection keeps it
            for link, other in list(self._links.items()):
                if other != place:
                    logger.warning("store: %s:%d is the primary now, not %s:%d", *place, *other)
                    del self._links[link]
                    link.sever()

    async def _ask(self, line: Line) -> tuple[int, Place] | None:
        """Configuration epoch and place of the primary; None if this sentinel does not tell."""
        try:
            place = await line.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
            if place is None:
                return None
            words = await line.call("SENTINEL", "MASTER", self._service)
        except StoreError as error:
            logger.debug("sentinels: %s", error.code)
            return None
        fields = dict(zip(words[::2], words[1::2], strict=True))
        return int(fields[b"config-epoch"]), (place[0].decode(), int(place[1]))
