"""What the main paths cost in Python instructions, a number that is the same on a busy and an idle machine.

Processor time is not: beside other work it varies by more than what is to be noticed. Counted are the
bytecode instructions and the calls into C of everything but the client, in a worker of this process on a
real Valkey and real sockets. What a C function does inside is not counted, nor what the kernel and Valkey
do: that is what `make bench` is for.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import secrets
import sys
import tempfile
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Self

import uvloop

from benchmarks.dialects import RelayDialect
from benchmarks.load.calls import Caller
from benchmarks.load.receiving import Subscriber, connect_all
from benchmarks.messages import FIRST, payload
from benchmarks.valkeys import BenchValkey
from pulsar_relay.server import Worker
from pulsar_relay.settings import AuthSettings, Settings

BASELINE = Path(__file__).parent / "guard.json"
TOLERANCE = 0.15
ACCOUNTS_MAY_COST: Mapping[str, float] = {"publish": 1.15, "fetch": 1.2}
"""With accounts, of the instructions without. A poll is also counted as one that waits, and as a guest."""
WARM_UP = 10
REPETITIONS = 40
"""The least of so many: what timers do meanwhile, and a burst that its time bound splits, only ever add."""
SUBSCRIBERS = 25
PAGE_MESSAGES = 100
_CLIENT = str(Path(__file__).parent)

Step = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one operation."""

    instructions: float
    c_calls: float

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.instructions - other.instructions, self.c_calls - other.c_calls)

    def __truediv__(self, number: int) -> Cost:
        return Cost(round(self.instructions / number, 1), round(self.c_calls / number, 1))


class InstructionCount:
    """Counts in this thread between entering and leaving, whatever runs, but for the client's own frames."""

    def __init__(self) -> None:
        self.instructions = 0
        self.c_calls = 0

    @property
    def so_far(self) -> Cost:
        return Cost(self.instructions, self.c_calls)

    def __enter__(self) -> Self:
        # Python 3.12 looks when tracing begins whether any frame wants its instructions traced, not later.
        sys._getframe().f_trace_opcodes = True
        sys.setprofile(self._profile)
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)
        sys.setprofile(None)

    def _call(self, frame: FrameType, event: str, _: Any) -> Callable[..., Any] | None:
        if frame.f_code.co_filename.startswith(_CLIENT):
            return None
        frame.f_trace_lines = False
        frame.f_trace_opcodes = True
        return self._instruction

    def _instruction(self, frame: FrameType, event: str, _: Any) -> Callable[..., Any]:
        self.instructions += event == "opcode"
        return self._instruction

    def _profile(self, frame: FrameType, event: str, _: Any) -> None:
        self.c_calls += event == "c_call" and not frame.f_code.co_filename.startswith(_CLIENT)


async def count(step: Step) -> Cost:
    """What `step` costs once it has been done a few times; it returns when all it causes is done."""
    counts = []
    # Entered once: Python 3.12 and 3.13 miss instructions where tracing has just begun.
    with InstructionCount() as counted:
        for _ in range(WARM_UP + REPETITIONS):
            before = counted.so_far
            await step()
            counts.append(counted.so_far - before)
    counts = counts[WARM_UP:]
    return Cost(min(each.instructions for each in counts), min(each.c_calls for each in counts))


class Client:
    """One HTTP connection whose calls can be awaited."""

    def __init__(self) -> None:
        self._answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    @classmethod
    async def connect(cls, port: int) -> Client:
        client = cls()
        client._caller = await Caller.connect(port, client._answered)
        return client

    _caller: Caller

    async def call(self, request: bytes) -> bytes:
        self._answer = asyncio.get_running_loop().create_future()
        self._caller.send(request)
        return await self._answer

    def close(self) -> None:
        self._caller.close()

    def _answered(self, _: Caller, answer: bytes) -> None:
        self._answer.set_result(answer)


class MainPaths:
    """The steps that are counted, on a worker that listens on `port`."""

    def __init__(self, port: int, client: Client, login: bytes = b"") -> None:
        self._port = port
        self._client = client
        self._dialect = RelayDialect(login)
        self._number = FIRST

    async def costs_for_a_user(self) -> dict[str, Cost]:
        """Of what today's clients do all day, with an access token."""
        to_quiet = self._publish_to("quiet")
        publish = await count(to_quiet)
        for _ in range(PAGE_MESSAGES):
            await to_quiet()
        return {"publish": publish, "fetch": await count(self._fetch("quiet"))}

    async def costs(self) -> dict[str, Cost]:
        to_quiet = self._publish_to("quiet")
        publish = await count(to_quiet)
        for _ in range(PAGE_MESSAGES):
            await to_quiet()
        subscription = self._dialect.websocket(["heard"])
        subscribers = await connect_all(self._port, [subscription] * SUBSCRIBERS)
        heard = await count(self._publish_and_hear("heard", subscribers))
        page = await count(self._fetch("quiet"))
        connect = await count(self._connect)
        for subscriber in subscribers:
            subscriber.transport.abort()
        return {
            "publish": publish,
            "delivery": (heard - publish) / SUBSCRIBERS,
            "fetch": page,
            "subscribe": connect,
        }

    def _publish_to(self, topic: str) -> Step:
        template = self._dialect.publish(topic, payload(200))

        async def publish() -> None:
            self._number += 1
            answer = await self._client.call(template.fill(self._number))
            assert answer.startswith(b"HTTP/1.1 201"), answer

        return publish

    def _publish_and_hear(self, topic: str, subscribers: list[Subscriber]) -> Step:
        publish = self._publish_to(topic)

        async def publish_and_hear() -> None:
            await publish()
            mark = b'"n":%d' % self._number
            for subscriber in subscribers:
                while not any(mark in piece for piece in subscriber.received.pieces[-2:]):  # noqa: ASYNC110
                    await asyncio.sleep(0)

        return publish_and_hear

    def _fetch(self, topic: str) -> Step:
        request = self._dialect.poll(topic, b"").replace(b'"limit": 1000', b'"limit": %4d' % PAGE_MESSAGES)

        async def fetch() -> None:
            answer = await self._client.call(request)
            assert answer.count(b'"n":') == PAGE_MESSAGES, answer[:300]

        return fetch

    async def _connect(self) -> None:
        (subscriber,) = await connect_all(self._port, [self._dialect.websocket(["heard"])])
        subscriber.transport.abort()


async def measure(valkey: BenchValkey) -> dict[str, Cost]:
    """The cost of each main path, by name."""
    worker = Worker(_settings(valkey))
    ports = await worker.start()
    client = await Client.connect(ports.api)
    try:
        return await MainPaths(ports.api, client).costs()
    finally:
        client.close()
        await worker.stop()


async def measure_for_a_user(valkey: BenchValkey) -> dict[str, Cost]:
    """The same with accounts, by name, as far as users' costs are others."""
    secret = secrets.token_hex(32)
    auth = AuthSettings(
        mode="accounts", jwt_secret=secret, bootstrap_username="bench", bootstrap_password=secret
    )
    worker = Worker(dataclasses.replace(_settings(valkey), auth=auth))
    ports = await worker.start()
    client = await Client.connect(ports.api)
    try:
        login = await _login(worker)
        return await MainPaths(ports.api, client, login).costs_for_a_user()
    finally:
        client.close()
        await worker.stop()


async def _login(worker: Worker) -> bytes:
    """The header that shows who one is, once the worker knows its admin."""
    accounts = worker.accounts
    assert accounts is not None
    is_known = asyncio.Event()
    accounts.roster.listen(is_known.set)
    async with asyncio.timeout(30):
        while not accounts.roster.users or not accounts.roster.is_confirmed:
            is_known.clear()
            await is_known.wait()
    (user,) = accounts.roster.users.values()
    return b"Authorization: Bearer %b\r\n" % accounts.tokens.issue(user).text.encode()


def _settings(valkey: BenchValkey) -> Settings:
    """What runs by the clock, and can be told, is told to wait: nobody answers a ping here, for one."""
    settings = Settings()
    return dataclasses.replace(
        settings,
        server=dataclasses.replace(settings.server, port=0, metrics_port=None),
        valkey=dataclasses.replace(settings.valkey, host="127.0.0.1", port=valkey.port),
        subscriber=dataclasses.replace(settings.subscriber, ping_interval_seconds=3600),
        topic=dataclasses.replace(settings.topic, compare_interval_seconds=600),
        storage=dataclasses.replace(settings.storage, trim_interval_seconds=3600),
    )


Measure = Callable[[BenchValkey], Coroutine[Any, Any, dict[str, Cost]]]


def run(measure: Measure = measure) -> dict[str, Cost]:
    """On a Valkey and a loop of their own."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        valkey = BenchValkey(Path(directory), frozenset(), "memory")
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                return runner.run(measure(valkey))
        finally:
            valkey.stop()


def baseline() -> dict[str, Cost]:
    """What was last accepted, for this minor version of Python; empty for one that nobody has measured."""
    recorded = json.loads(BASELINE.read_text())
    return {path: Cost(*numbers) for path, numbers in recorded.get(_python(), {}).items()}


def accept(costs: Mapping[str, Cost]) -> None:
    """Make these the baseline of this minor version of Python."""
    recorded = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    recorded[_python()] = {path: [cost.instructions, cost.c_calls] for path, cost in costs.items()}
    BASELINE.write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n")


def changes(accepted: Mapping[str, Cost], costs: Mapping[str, Cost]) -> dict[str, float]:
    """By path and measure, how much more than accepted, as a share; only what is beyond the tolerance.

    Less is a change, too: a baseline left where it was would let the next regression pass.
    """
    found = {
        f"{path} {measure}": getattr(cost, measure) / getattr(accepted[path], measure) - 1
        for path, cost in costs.items()
        for measure in ("instructions", "c_calls")
    }
    return {what: change for what, change in found.items() if abs(change) > TOLERANCE}


def cost_of_accounts(without: Mapping[str, Cost], users: Mapping[str, Cost]) -> dict[str, float]:
    """By path, how many instructions it takes with accounts, of those without."""
    return {path: cost.instructions / without[path].instructions for path, cost in users.items()}


def _python() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"
