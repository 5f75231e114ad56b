"""RelayAuditTopic: audit records as messages of a topic of the relay's own.

    deed ──▶ add ──▶ waiting, bounded ──▶ published by a task, in order, each once

Who does something never waits for this, and nothing fails by it. While the store is away records wait; more
than can wait never get into the topic, and a warning says how many. The log has them all in any case.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections import deque
from collections.abc import Sequence

from actors.ports import Dedupe, Draft, TopicTerms
from pulsar_relay.accounts.access import SYSTEM
from pulsar_relay.errors import RelayError
from pulsar_relay.relay import Relay
from pulsar_relay.settings import AuthSettings

logger = logging.getLogger(__name__)

AUDIT_TOPIC = f"{SYSTEM}/audit"
DESCRIPTION = "Who did what to accounts, sessions, keys, grants and topics."
WAITING_MOST = 10_000
"""Records of one worker, of at most a few hundred bytes each."""
AT_ONCE = 100
RETRY_SECONDS = 0.5
STOP_SECONDS = 2.0
"""How long the end of a worker waits for what is not published yet."""


class RelayAuditTopic:
    """One per worker; needs its relay started. `worker` names this one's life."""

    def __init__(self, relay: Relay, settings: AuthSettings, worker: str) -> None:
        self._relay = relay
        self._terms = TopicTerms(
            DESCRIPTION,
            {
                "retention_ms": int(settings.audit_retention_seconds * 1000),
                "max_messages": settings.audit_max_messages,
            },
        )
        self._worker = worker
        self._number = 0
        self._waiting: deque[bytes] = deque()
        self._batch: list[bytes] = []
        """What is being published."""
        self._has_waiting = asyncio.Event()
        self._is_done = asyncio.Event()
        self._is_done.set()
        self._is_declared = False
        self.is_failing = False
        self._task: asyncio.Task[None] | None = None
        self.dropped = 0
        """Records that are in the log only."""

    def add(self, payload: bytes) -> None:
        """See `AuditTopic`."""
        if len(self._waiting) < WAITING_MOST:
            self._waiting.append(payload)
            self._has_waiting.set()
            self._is_done.clear()
            return
        self.dropped += 1
        if self.dropped == 1:
            logger.warning("audit: %d records wait already, more are in the log only", WAITING_MOST)

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="audit topic")

    def declare(self) -> None:
        """Say again how long records are kept: the store may be another one."""
        self._is_declared = False
        self._has_waiting.set()

    async def stop(self) -> None:
        """Publish what waits, as far as that is possible soon. May be called without `start`."""
        task, self._task = self._task, None
        if task is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await self._is_done.wait()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        left = len(self._batch) + len(self._waiting) + self.dropped
        if left:
            logger.warning("audit: %d records are in the log only", left)

    async def _run(self) -> None:
        while True:
            self._has_waiting.clear()
            try:
                await self._catch_up()
            except RelayError as error:
                if not self.is_failing:
                    logger.warning("audit: records cannot be published (%s), trying again", error.code)
                self.is_failing = True
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self._recovered()
                await self._has_waiting.wait()

    def _recovered(self) -> None:
        if self.dropped:
            logger.warning("audit: %d records are in the log only", self.dropped)
        self.is_failing, self.dropped = False, 0

    async def _catch_up(self) -> None:
        if not self._is_declared:
            await self._declare()
            self._is_declared = True
        while self._batch or self._waiting:
            # The same until it is done, under the same key: what was stored and not answered is not twice.
            if not self._batch:
                self._batch = [self._waiting.popleft() for _ in range(min(AT_ONCE, len(self._waiting)))]
            await self._publish(self._batch)
            self._batch = []
            self._number += 1
        self._is_done.set()

    async def _declare(self) -> None:
        try:
            await self._relay.create(AUDIT_TOPIC, self._terms)
        except RelayError as error:
            if error.code != "topic_exists":
                raise
            await self._relay.change(AUDIT_TOPIC, self._terms)

    async def _publish(self, batch: Sequence[bytes]) -> None:
        digest = hashlib.sha256(b"\n".join(batch)).hexdigest()[:24]
        dedupe = Dedupe(f"{SYSTEM}:{self._worker}-{self._number}", digest)
        await self._relay.publish_own(AUDIT_TOPIC, [Draft(record) for record in batch], dedupe)
