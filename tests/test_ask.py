from __future__ import annotations

import asyncio
import copy
import gc
import weakref
from typing import Any

import pytest
from thespian.actors import ActorAddress, ActorExitRequest, ActorSystem

from actors.runtime import (
    AskFailed,
    AskTimeout,
    AsyncioSystemBase,
    DeadActorError,
    LoopActor,
    PoisonError,
    UnansweredError,
    base_of,
)
from tests.actor_systems import Caller, Echo, PlainCaller, Recorder, RunOn, actor_system, on_each_loop, until


class Holder(LoopActor):
    """Keeps the senders of what it is asked, and answers them all when told to."""

    def __init__(self) -> None:
        self.held: list[Any] = []

    def receiveMessage(self, message: Any, sender: Any) -> None:
        if message == "answer":
            for number, asker in enumerate(self.held):
                self.send(asker, number)
        elif message == "forget":
            self.held.clear()
        elif message == "fail":
            raise ValueError("as told")
        else:
            self.held.append(sender)


def fail(actor: LoopActor, sender: Any) -> None:
    raise ValueError("as told")


async def failure_of(ask: asyncio.Future[Any]) -> BaseException:
    with pytest.raises(AskFailed) as caught:
        await ask
    return caught.value.error


@on_each_loop
def test_an_ask_is_answered_with_what_the_actor_sends_to_its_sender(run: RunOn) -> None:
    async def main() -> None:
        with actor_system() as (system, base):
            assert await base.ask_soon(system.createActor(Echo), "hello") == "hello"

    run(main)


@on_each_loop
def test_none_is_an_answer(run: RunOn) -> None:
    async def main() -> None:
        with actor_system() as (system, base):
            assert await base.ask_soon(system.createActor(Echo), None, 60) is None

    run(main)


@on_each_loop
def test_a_thousand_asks_at_once_each_get_their_own_answer(run: RunOn) -> None:
    async def main() -> None:
        with actor_system() as (system, base):
            echoes = [system.createActor(Echo) for _ in range(10)]
            asks = [base.ask_soon(echoes[number % 10], number) for number in range(1000)]
            assert await asyncio.gather(*asks) == list(range(1000))

    run(main)


@on_each_loop
def test_the_actor_runs_later_never_within_the_ask(run: RunOn) -> None:
    async def main() -> None:
        with actor_system() as (system, base):
            recorder = system.createActor(Recorder)
            ask = base.ask_soon(recorder, "hello")
            assert recorder.instance.seen == []
            ask.cancel()

    run(main)


@on_each_loop
def test_the_first_answer_counts(run: RunOn) -> None:
    async def main() -> None:
        with actor_system() as (system, base):

            def answer_twice(actor: LoopActor, sender: Any) -> None:
                actor.send(sender, 1)
                actor.send(sender, 2)

            assert await base.ask_soon(system.createActor(Caller), answer_twice) == 1

    run(main)


@on_each_loop
def test_an_ask_that_is_not_answered_in_time_raises_ask_timeout(run: RunOn) -> None:
    async def main() -> None:
        with actor_system() as (system, base):
            holder = system.createActor(Holder)
            with pytest.raises(AskTimeout, match=r"Holder~\d+ within 0.001 s"):
                await base.ask_soon(holder, "hold", 0.001)
            # The late answer hurts nobody.
            system.tell(holder, "answer")
            await until(lambda: not base.messages_waiting)

    run(main)


@on_each_loop
def test_a_late_answer_to_a_cancelled_ask_is_dropped(run: RunOn) -> None:
    async def main() -> None:
        with actor_system() as (system, base):
            holder = system.createActor(Holder)
            asking = asyncio.ensure_future(base.ask_soon(holder, "hold", 60))
            await until(lambda: holder.instance.held)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            system.tell(holder, "answer")
            await until(lambda: not base.messages_waiting)

    run(main)


@on_each_loop
def test_a_handler_that_raises_fails_the_ask_with_its_error(
    run: RunOn, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        with actor_system() as (system, base):
            error = await failure_of(base.ask_soon(system.createActor(Caller), fail))
            assert isinstance(error, ValueError)
            assert str(error) == "as told"

    run(main)
    assert len(caplog.records) == 1


@on_each_loop
def test_an_answer_sent_before_the_handler_raised_is_the_answer(run: RunOn) -> None:
    async def main() -> None:
        with actor_system() as (system, base):

            def answer_and_fail(actor: LoopActor, sender: Any) -> None:
                actor.send(sender, "answered")
                raise ValueError

            assert await base.ask_soon(system.createActor(Caller), answer_and_fail) == "answered"

    run(main)


@on_each_loop
def test_asking_the_dead_fails(run: RunOn) -> None:
    async def main() -> None:
        with actor_system() as (system, base):
            recorder = system.createActor(Recorder)
            system.tell(recorder, ActorExitRequest())
            await until(lambda: not base.actors_alive)
            assert isinstance(await failure_of(base.ask_soon(recorder, 1)), DeadActorError)
            nobody = ActorAddress("/Nobody~1")
            assert isinstance(await failure_of(base.ask_soon(nobody, 1)), DeadActorError)

    run(main)


@on_each_loop
def test_a_handler_that_fails_with_ten_asks_pending_answers_all_ten(run: RunOn) -> None:
    """Three it holds, the one it fails on, six that still wait in the mailbox."""

    async def main() -> None:
        with actor_system() as (system, base):
            holder = system.createActor(Holder)
            messages = ["hold", "hold", "hold", "fail", *["hold"] * 6]
            errors = [await failure_of(ask) for ask in [base.ask_soon(holder, each) for each in messages]]
            kinds = [type(error) for error in errors]
            assert kinds == [UnansweredError] * 3 + [ValueError] + [DeadActorError] * 6

    run(main)


@on_each_loop
def test_asks_that_wait_for_an_actor_that_stops_are_answered(run: RunOn) -> None:
    async def main() -> None:
        with actor_system() as (system, base):
            caller = system.createActor(Caller)
            system.tell(caller, lambda actor, sender: actor.stop())
            asks = [base.ask_soon(caller, "too late") for _ in range(10)]
            assert {type(await failure_of(ask)) for ask in asks} == {DeadActorError}

    run(main)


@on_each_loop
def test_an_ask_fails_as_soon_as_nobody_is_left_who_could_answer(run: RunOn) -> None:
    async def main() -> None:
        with actor_system() as (system, base):
            holder = system.createActor(Holder)
            asks = [base.ask_soon(holder, "hold", 60) for _ in range(3)]
            await until(lambda: len(holder.instance.held) == 3)
            assert not any(ask.done() for ask in asks)
            system.tell(holder, "forget")
            assert {type(await failure_of(ask)) for ask in asks} == {UnansweredError}

    run(main)


@on_each_loop
def test_an_ask_that_is_let_go_on_another_thread_fails_on_its_own(run: RunOn) -> None:
    async def main() -> None:
        with actor_system() as (system, base):
            holder = system.createActor(Holder)
            ask = base.ask_soon(holder, "hold")
            await until(lambda: holder.instance.held)
            # asyncio's debug mode would raise in that thread if the future were touched there.
            await asyncio.to_thread(holder.instance.held.clear)
            assert isinstance(await failure_of(ask), UnansweredError)

    run(main)


@on_each_loop
def test_a_plain_actor_that_keeps_failing_fails_the_ask_with_its_traceback(
    run: RunOn, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        with actor_system() as (system, base):
            error = await failure_of(base.ask_soon(system.createActor(PlainCaller), fail))
            assert isinstance(error, PoisonError)
            assert "ValueError: as told" in str(error)

    run(main)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]


@on_each_loop
def test_an_answered_ask_leaves_nothing_behind(run: RunOn) -> None:
    async def main() -> None:
        with actor_system() as (system, base):
            addresses: list[weakref.ref[Any]] = []

            def answer(actor: LoopActor, sender: Any) -> None:
                addresses.append(weakref.ref(sender))
                actor.send(sender, "answered")

            caller = system.createActor(Caller)
            gc.disable()  # what is left must be nothing without a collection
            try:
                for _ in range(100):
                    await base.ask_soon(caller, answer, 3600)
                await until(lambda: not base.messages_waiting)
                assert not [address for address in addresses if address() is not None]
            finally:
                gc.enable()

    run(main)


def test_asking_without_a_running_loop_is_refused() -> None:
    with actor_system() as (system, base), pytest.raises(RuntimeError, match="ask_soon"):
        base.ask_soon(system.createActor(Echo), 1)


@on_each_loop
def test_asking_from_a_thread_without_the_actors_loop_is_refused(run: RunOn) -> None:
    async def main() -> None:
        with actor_system() as (system, base):
            echo = system.createActor(Echo)
            assert await base.ask_soon(echo, 1) == 1
            with pytest.raises(RuntimeError, match="ask_soon"):
                await asyncio.to_thread(base.ask_soon, echo, 1)

    run(main)


@on_each_loop
def test_two_asks_are_never_the_same_address(run: RunOn) -> None:
    async def main() -> None:
        with actor_system() as (system, base):
            recorder = system.createActor(Recorder)
            asks = [base.ask_soon(recorder, number) for number in range(2)]
            await until(lambda: len(recorder.instance.senders) == 2)
            first, second = recorder.instance.senders
            assert first == first
            assert first != second
            assert first != ActorAddress(first.addressDetails)
            assert copy.copy(recorder) is recorder
            for ask in asks:
                ask.cancel()

    run(main)


@on_each_loop
def test_the_base_is_reachable_from_the_system(run: RunOn) -> None:
    async def main() -> None:
        with actor_system() as (system, base):
            assert base_of(system) is base
            assert await base_of(system).ask_soon(system.createActor(Echo), "hello") == "hello"

    run(main)


def test_another_base_is_not_taken_for_ours() -> None:
    system = ActorSystem("simpleSystemBase", logDefs=False, transientUnique=True)
    with pytest.raises(TypeError, match=AsyncioSystemBase.__name__):
        base_of(system)
    system.shutdown()
