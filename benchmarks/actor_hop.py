"""What a message between two actors costs, and an ask, and an actor: our system base beside Thespian's own.

    python -m benchmarks.actor_hop [--rounds 5] [--messages 200000]

Prints microseconds (best of the rounds: what disturbs a measurement only ever adds to it) and the ratio to
`simpleSystemBase`. A hop is one send from a handler plus the run of the handler it reaches.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable
from time import perf_counter
from typing import Any

import uvloop
from thespian.actors import Actor, ActorExitRequest, ActorSystem

from actors.runtime import AsyncioSystemBase, LoopActor, base_of

ASKS = 10_000
ACTORS = 10_000
ASKS_AT_ONCE = 100


def player(base_class: type) -> type:
    """An actor that returns a number lowered by one, until it is zero; anything else names its partner."""

    class Player(base_class):  # type: ignore[misc]
        partner: Any
        done: Any

        def receiveMessage(self, message: Any, sender: Any) -> None:
            if message.__class__ is int:
                if message:
                    self.send(self.partner, message - 1)
                else:
                    self.done()
            elif message.__class__ is tuple:
                self.partner, self.done = message

    return Player


def echo(base_class: type) -> type:
    class Echo(base_class):  # type: ignore[misc]
        def receiveMessage(self, message: Any, sender: Any) -> None:
            if not isinstance(message, ActorExitRequest):
                self.send(sender, message)

    return Echo


def pair_of_players(system: ActorSystem, base_class: type, done: Callable[[], None]) -> Any:
    first, second = (system.createActor(player(base_class)) for _ in range(2))
    system.tell(first, (second, done))
    system.tell(second, (first, done))
    return first


# Thespian's base: everything happens within the call


def simple_system() -> ActorSystem:
    return ActorSystem("simpleSystemBase", logDefs=False, transientUnique=True)


def simple_hop(messages: int) -> float:
    system = simple_system()
    first = pair_of_players(system, Actor, lambda: None)
    started = perf_counter()
    system.tell(first, messages)
    return (perf_counter() - started) / messages


def simple_ask(_messages: int) -> float:
    system = simple_system()
    address = system.createActor(echo(Actor))
    started = perf_counter()
    for number in range(ASKS):
        system.ask(address, number, 1)
    return (perf_counter() - started) / ASKS


def simple_create(_messages: int) -> float:
    return seconds_to_create(simple_system(), Actor)


# Ours: on a running loop


def our_system() -> ActorSystem:
    return ActorSystem(systemBase=AsyncioSystemBase(), transientUnique=True)


async def our_hop(base_class: type, messages: int) -> float:
    system = our_system()
    done = asyncio.Event()
    first = pair_of_players(system, base_class, done.set)
    started = perf_counter()
    system.tell(first, messages)
    await done.wait()
    seconds = perf_counter() - started
    system.shutdown()
    return seconds / messages


async def our_ask(base_class: type, at_once: int) -> float:
    system = our_system()
    base = base_of(system)
    address = system.createActor(echo(base_class))
    started = perf_counter()
    for _ in range(ASKS // at_once):
        asks = [base.ask_soon(address, number, 60) for number in range(at_once)]
        for ask in asks:
            await ask
    seconds = perf_counter() - started
    system.shutdown()
    return seconds / ASKS


async def our_create(base_class: type) -> float:
    system = our_system()
    seconds = seconds_to_create(system, base_class)
    system.shutdown()
    return seconds


def seconds_to_create(system: ActorSystem, base_class: type) -> float:
    actor_class = echo(base_class)
    started = perf_counter()
    for _ in range(ACTORS):
        system.createActor(actor_class)
    return (perf_counter() - started) / ACTORS


def best(rounds: int, measure: Callable[[], float]) -> float:
    return min(measure() for _ in range(rounds))


def on_loop(measure: Callable[[], Any]) -> Callable[[], float]:
    def run() -> float:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return float(runner.run(measure()))

    return run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--messages", type=int, default=200_000, help="hops in a round")
    options = parser.parse_args()
    rounds, messages = options.rounds, options.messages

    hop = best(rounds, lambda: simple_hop(messages))
    ask = best(rounds, lambda: simple_ask(messages))
    create = best(rounds, lambda: simple_create(messages))
    rows: list[tuple[str, float, float]] = [
        ("hop", hop, best(rounds, on_loop(lambda: our_hop(LoopActor, messages)))),
        ("hop, plain Actor", hop, best(rounds, on_loop(lambda: our_hop(Actor, messages)))),
        ("ask, one after the other", ask, best(rounds, on_loop(lambda: our_ask(LoopActor, 1)))),
        (
            f"ask, {ASKS_AT_ONCE} at once",
            ask,
            best(rounds, on_loop(lambda: our_ask(LoopActor, ASKS_AT_ONCE))),
        ),
        ("create", create, best(rounds, on_loop(lambda: our_create(LoopActor)))),
        ("create, plain Actor", create, best(rounds, on_loop(lambda: our_create(Actor)))),
    ]
    print(f"{'µs, best of ' + str(rounds):28}{'simpleSystemBase':>18}{'ours':>10}{'times faster':>15}")
    for name, theirs, ours in rows:
        print(f"{name:28}{theirs * 1e6:18.2f}{ours * 1e6:10.2f}{theirs / ours:15.1f}")


if __name__ == "__main__":
    main()
