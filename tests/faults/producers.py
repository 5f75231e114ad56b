"""The producers of a load, a process of its own: `python -m tests.faults.producers <ProducersPlan as JSON>`.

Each has one message in flight and sends it, with one Idempotency-Key, to one relay after the other until it
is acknowledged. What it does is in `<directory>/producer-<name>.jsonl`.
"""

from __future__ import annotations

import asyncio
import random
import string
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tests.faults.http import HttpConnection, LostError, Response, UnsentError
from tests.faults.orders import Orders
from tests.faults.records import Answered, Content, Log, Sent, payload_of

AGAIN_SECONDS = 0.05
"""From an attempt that was not acknowledged to the next one."""
LAST_SECONDS = 20.0
"""How long a producer that is told to stop still tries to have its last message acknowledged."""


class ProducersPlan(msgspec.Struct, kw_only=True):
    directory: str
    relays: Sequence[str]
    topics: Sequence[str]
    producers: int
    per_second: float
    """Messages a second of each producer; 0 for as many as it can."""
    pad_bytes: int
    seed: str
    timeout_seconds: float


class Producer:
    """Publishes to one topic. Begins with the relay at `first`."""

    def __init__(self, name: str, topic: str, first: int, plan: ProducersPlan, log: Log) -> None:
        self._name, self._topic, self._plan, self._log = name, topic, plan, log
        self._random = random.Random(f"{plan.seed} {name}")
        self._relay = first % len(plan.relays)
        self._connections = [HttpConnection(url) for url in plan.relays]
        self.is_stopping = False

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        number, due = 0, loop.time()
        while not self.is_stopping:
            await self._publish(number)
            number += 1
            if self._plan.per_second:
                # After a stop the producer goes on at its pace, and does not make up for the time.
                due = max(due + 1 / self._plan.per_second, loop.time() - 1 / self._plan.per_second)
                await asyncio.sleep(due - loop.time())
        for connection in self._connections:
            connection.close()

    async def _publish(self, number: int) -> None:
        pad = "".join(self._random.choices(string.ascii_letters, k=self._plan.pad_bytes))
        body = {"topic": self._topic, "payload": payload_of(self._name, number, pad)}
        content = Content(self._name, number, 0)
        key = f"{self._plan.seed}-{self._name}-{number}"
        while (outcome := await self._attempt(content, body, key)) != "ok":
            if outcome == "refused for good":
                return
            self._relay = (self._relay + 1) % len(self._connections)
            await asyncio.sleep(AGAIN_SECONDS)

    async def _attempt(self, content: Content, body: object, key: str) -> str:
        relay = self._plan.relays[self._relay]
        began = time.monotonic()
        self._log.write(Sent(began, self._topic, content, relay))
        try:
            response = await self._connections[self._relay].request(
                "POST",
                "/api/v1/messages",
                body,
                headers={"Idempotency-Key": key},
                seconds=self._plan.timeout_seconds,
            )
        except (UnsentError, LostError) as error:
            record = self._unanswered(error, content, began)
        else:
            record = self._judged(response, content, began)
        record = msgspec.structs.replace(record, relay=relay)
        self._log.write(record)
        is_final = record.outcome == "fail" and record.status is not None
        return "refused for good" if is_final else record.outcome

    def _unanswered(self, error: UnsentError | LostError, content: Content, began: float) -> Answered:
        now = time.monotonic()
        return Answered(
            now,
            self._topic,
            content,
            "fail" if isinstance(error, UnsentError) else "info",
            seconds=now - began,
            code=str(error),
        )

    def _judged(self, response: Response, content: Content, began: float) -> Answered:
        now = time.monotonic()
        status = response.status
        if status == 201:
            message_id = response.json()["message_id"]
            return Answered(now, self._topic, content, "ok", message_id, now - began, status)
        try:
            code = response.json()["error"]
        except (msgspec.DecodeError, KeyError, TypeError):
            code = None
        return Answered(
            now,
            self._topic,
            content,
            "fail" if 400 <= status < 500 else "info",
            seconds=now - began,
            status=status,
            code=code,
            retry_after=response.headers.get("retry-after"),
        )


async def _main(plan: ProducersPlan) -> None:
    orders = await Orders().open()
    producers = []
    for index in range(plan.producers):
        log = Log(Path(plan.directory) / f"producer-p{index}.jsonl")
        topic = plan.topics[index % len(plan.topics)]
        producers.append(Producer(f"p{index}", topic, index // len(plan.topics), plan, log))
    tasks = [asyncio.create_task(producer.run()) for producer in producers]
    stopping = asyncio.create_task(orders.next())
    await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for producer in producers:
        producer.is_stopping = True
    done, late = await asyncio.wait(tasks, timeout=LAST_SECONDS)
    for task in done:
        task.result()
    orders.answer({"unacknowledged": len(late)})


if __name__ == "__main__":
    asyncio.run(_main(msgspec.json.decode(sys.argv[1], type=ProducersPlan)))
