from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import weakref
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import pytest
from thespian.actors import ActorExitRequest, ChildActorExited, InvalidActorAddress, PoisonMessage

from actors.runtime import LoopActor, Performed, PerformFailed
from tests.actor_systems import Caller, Echo, Recorder, RunOn, actor_system, on_each_loop, until

# Failing


class Fragile(LoopActor):
    """Fails on "fail"; what its hook saw is in `failures`."""

    def __init__(self) -> None:
        self.failures: list[Any] = []
        self.runs = 0

    def receiveMessage(self, message: Any, sender: Any) -> None:
        if message == "fail":
            self.runs += 1
            raise ValueError("as told")

    def on_failure(self, error: BaseException, message: Any, sender: Any) -> None:
        self.failures.append((error, message, sender))


class Parent(Recorder):
    """Creates a child of each class it is sent, and remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.children: list[Any] = []

    def receiveMessage(self, message: Any, sender: Any) -> None:
        if isinstance(message, type):
            self.children.append(self.createActor(message))
        else:
            super().receiveMessage(message, sender)


@on_each_loop
def test_a_handler_that_raises_runs_once_and_is_logged_once(
    run: RunOn, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        with actor_system() as (system, base):
            address = system.createActor(Fragile)
            fragile = address.instance
            system.tell(address, "fail")
            await until(lambda: not base.actors_alive)
            assert fragile.runs == 1
            [(error, message, sender)] = fragile.failures
            assert (str(error), message) == ("as told", "fail")
            assert sender is not None

    run(main)
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith("actor ActorAddr-/Fragile~")
    assert "failed on str" in record.getMessage()
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)


@on_each_loop
def test_the_parent_of_an_actor_that_failed_is_told_and_its_children_end_with_it(run: RunOn) -> None:
    async def main() -> None:
        with actor_system() as (system, base):
            parent = system.createActor(Parent)
            system.tell(parent, FragileParent)
            await until(lambda: parent.instance.children)
            [child] = parent.instance.children
            system.tell(child, Echo)
            await until(lambda: base.actors_alive == 3)
            system.tell(child, "fail")
            await until(lambda: base.actors_alive == 1)
            assert parent.instance.seen == [ChildActorExited(child)]

    run(main)


class FragileParent(Parent):
    def receiveMessage(self, message: Any, sender: Any) -> None:
        if message == "fail":
            raise ValueError
        super().receiveMessage(message, sender)


@on_each_loop
def test_a_hook_that_fails_is_logged_and_goes_no_further(
    run: RunOn, caplog: pytest.LogCaptureFixture
) -> None:
    class FailsTwice(Fragile):
        def on_failure(self, error: BaseException, message: Any, sender: Any) -> None:
            raise KeyError("in the hook")

    async def main() -> None:
        with actor_system() as (system, base):
            system.tell(system.createActor(FailsTwice), "fail")
            await until(lambda: not base.actors_alive)
            assert await base.ask_soon(system.createActor(Echo), 1) == 1

    run(main)
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert "on_failure" in caplog.records[1].getMessage()


@on_each_loop
def test_the_hook_can_answer_what_the_actor_holds_and_the_failing_ask_too(run: RunOn) -> None:
    class Conscientious(LoopActor):
        def __init__(self) -> None:
            self.held: list[Any] = []

        def receiveMessage(self, message: Any, sender: Any) -> None:
            self.held.append(sender)
            if message == "fail":
                raise ValueError

        def on_failure(self, error: BaseException, message: Any, sender: Any) -> None:
            for asker in self.held:
                self.send(asker, "sorry")

    async def main() -> None:
        with actor_system() as (system, base):
            address = system.createActor(Conscientious)
            asks = [base.ask_soon(address, message) for message in ("hold", "hold", "fail")]
            assert await asyncio.gather(*asks) == ["sorry"] * 3

    run(main)


@on_each_loop
def test_a_kept_error_does_not_keep_the_actor_that_failed(run: RunOn) -> None:
    kept: list[BaseException] = []

    class Keeps(Fragile):
        def on_failure(self, error: BaseException, message: Any, sender: Any) -> None:
            kept.append(error)

    async def main() -> None:
        with actor_system() as (system, _):
            address = system.createActor(Keeps)
            actor = weakref.ref(address.instance)
            gc.disable()
            try:
                system.tell(address, "fail")
                await until(lambda: kept)
                await until(lambda: actor() is None)
            finally:
                gc.enable()
            assert kept[0].__traceback__ is not None

    run(main)


@on_each_loop
def test_an_error_raised_in_a_coroutine_that_still_waits_leaves_it_alone(run: RunOn) -> None:
    async def main() -> None:
        with actor_system() as (system, base):
            caller, go_on = system.createActor(Caller), asyncio.Event()

            async def report_and_wait() -> str:
                try:
                    raise ValueError("reported")
                except ValueError as error:
                    reported = error

                    def fail(actor: LoopActor, sender: Any) -> None:
                        raise reported

                    system.tell(caller, fail)
                    await go_on.wait()
                return "ended well"

            work = asyncio.ensure_future(report_and_wait())
            await until(lambda: base.actors_alive == 0 and not base.messages_waiting)
            await until(lambda: caller.instance is None)
            go_on.set()
            assert await work == "ended well"

    run(main)


@on_each_loop
def test_a_cancelled_future_in_a_handler_is_a_failure_like_any_other(run: RunOn) -> None:
    async def main() -> None:
        with actor_system() as (system, base):
            cancelled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            cancelled.cancel()
            system.tell(system.createActor(Caller), lambda actor, sender: cancelled.result())
            await until(lambda: not base.actors_alive)

    run(main)


@on_each_loop
def test_a_failure_on_the_exit_request_ends_the_actor_all_the_same(run: RunOn) -> None:
    class ExitsBadly(Fragile):
        def receiveMessage(self, message: Any, sender: Any) -> None:
            assert not isinstance(message, ActorExitRequest)

    async def main() -> None:
        with actor_system() as (system, _):
            parent = system.createActor(Parent)
            system.tell(parent, ExitsBadly)
            await until(lambda: parent.instance.children)
            [child] = parent.instance.children
            actor = child.instance
            system.tell(child, ActorExitRequest())
            await until(lambda: parent.instance.seen)
            assert parent.instance.seen == [ChildActorExited(child)]
            assert len(actor.failures) == 1

    run(main)


def test_a_thread_that_asks_an_actor_that_fails_gets_its_message_back_as_poison() -> None:
    with actor_system() as (system, base):
        poison = system.ask(system.createActor(Fragile), "fail", 3600)
        assert isinstance(poison, PoisonMessage)
        assert poison.poisonMessage == "fail"
        assert "ValueError: as told" in poison.details
        assert base.actors_alive == 0


# Sending and forwarding


@on_each_loop
def test_a_forwarded_ask_is_answered_straight_to_the_asker(run: RunOn) -> None:
    async def main() -> None:
        with actor_system() as (system, base):
            recorder, echo = system.createActor(Recorder), system.createActor(Echo)

            def forward(actor: LoopActor, sender: Any) -> None:
                actor.forward(recorder, "seen", sender)
                actor.forward(echo, "echoed", sender)

            assert await base.ask_soon(system.createActor(Caller), forward) == "echoed"
            [sender] = recorder.instance.senders
            assert sender != echo

    run(main)


@on_each_loop
def test_messages_of_all_senders_arrive_in_the_order_of_sending(run: RunOn) -> None:
    async def main() -> None:
        with actor_system() as (system, _):
            recorder = system.createActor(Recorder)
            callers = [system.createActor(Caller) for _ in range(3)]

            def send(number: int) -> Callable[[LoopActor, Any], None]:
                return lambda actor, sender: (
                    [actor.send(recorder, (number, each)) for each in range(3)] and None
                )

            for number, caller in enumerate(callers):
                system.tell(caller, send(number))
            await until(lambda: len(recorder.instance.seen) == 9)
            assert recorder.instance.seen == [(number, each) for number in range(3) for each in range(3)]

    run(main)


@on_each_loop
def test_sending_to_what_is_no_address_fails_in_the_sender(
    run: RunOn, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        with actor_system() as (system, base):
            for bad in (None, "Audience", object()):
                system.tell(system.createActor(Caller), lambda actor, sender, bad=bad: actor.send(bad, 1))
                system.tell(
                    system.createActor(Caller), lambda actor, sender, bad=bad: actor.forward(bad, 1, bad)
                )
            await until(lambda: not base.actors_alive)

    run(main)
    assert {record.exc_info[0] for record in caplog.records if record.exc_info} == {InvalidActorAddress}


# Work


class Worker(Recorder):
    """Performs what it is sent: (awaitable, tag, options)."""

    def receiveMessage(self, message: Any, sender: Any) -> None:
        if isinstance(message, tuple):
            awaitable, tag, options = message
            self.perform(awaitable, tag, **options)
        else:
            super().receiveMessage(message, sender)


async def result_of(value: Any) -> Any:
    await asyncio.sleep(0)
    if isinstance(value, BaseException):
        raise value
    return value


class OwnAwaitable:
    def __await__(self) -> Generator[Any, None, str]:
        yield from asyncio.sleep(0).__await__()
        return "own"


@on_each_loop
def test_coroutines_futures_and_awaitables_are_performed_and_their_results_told_once(run: RunOn) -> None:
    async def main() -> None:
        with actor_system() as (system, _):
            worker = system.createActor(Worker)
            future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            works: list[Awaitable[Any]] = [result_of("coroutine"), future, OwnAwaitable()]
            for tag, work in enumerate(works):
                system.tell(worker, (work, tag, {}))
            future.set_result("future")
            seen = worker.instance.seen
            await until(lambda: len(seen) == 3)
            assert sorted(seen, key=lambda outcome: outcome.tag) == [
                Performed(0, "coroutine"),
                Performed(1, "future"),
                Performed(2, "own"),
            ]
            assert worker.instance.senders == [worker] * 3

    run(main)


@on_each_loop
def test_work_that_raises_or_is_cancelled_has_failed(run: RunOn) -> None:
    async def main() -> None:
        with actor_system() as (system, _):
            worker = system.createActor(Worker)
            error = ValueError("as told")
            future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            system.tell(worker, (result_of(error), "raises", {}))
            system.tell(worker, (future, "cancelled", {}))
            future.cancel()
            seen = worker.instance.seen
            await until(lambda: len(seen) == 2)
            by_tag = {outcome.tag: outcome for outcome in seen}
            assert by_tag["raises"] == PerformFailed("raises", error)
            assert isinstance(by_tag["cancelled"].error, asyncio.CancelledError)

    run(main)


@on_each_loop
def test_work_outlives_its_actor_unheard(run: RunOn, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        with actor_system() as (system, base):
            worker = system.createActor(Worker)
            futures = [asyncio.get_running_loop().create_future() for _ in range(2)]
            for future in futures:
                system.tell(worker, (future, "tag", {}))
            system.tell(worker, ActorExitRequest())
            await until(lambda: not base.actors_alive)
            assert not any(future.cancelled() for future in futures)
            futures[0].set_result("unheard")
            futures[1].set_exception(ValueError("unheard"))
            await until(lambda: not base.carrier.work_in_flight)
            assert base.dead_letters == 0

    with caplog.at_level(logging.DEBUG, "actors"):
        run(main)
    [record] = caplog.records
    assert record.levelno == logging.DEBUG
    assert "unheard" in record.getMessage()


@on_each_loop
def test_an_outcome_that_waits_in_the_mailbox_of_an_actor_that_ends_is_dropped(run: RunOn) -> None:
    async def main() -> None:
        with actor_system() as (system, base):
            worker = system.createActor(Worker)
            future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            system.tell(worker, (future, "tag", {}))
            await until(lambda: base.carrier.work_in_flight)
            future.set_result("late")
            await until(lambda: base.messages_waiting)
            base.population.end(worker, recursive=True)
            await until(lambda: not base.messages_waiting)
            assert base.dead_letters == 0

    run(main)


@on_each_loop
def test_work_marked_so_is_cancelled_when_its_actor_ends(run: RunOn) -> None:
    async def main() -> None:
        with actor_system() as (system, base):
            worker = system.createActor(Worker)
            ended = asyncio.Event()

            async def work() -> None:
                try:
                    await asyncio.Event().wait()
                finally:
                    ended.set()

            system.tell(worker, (work(), "tag", {"cancel_on_exit": True}))
            system.tell(worker, (result_of("told"), "tag", {"cancel_on_exit": True}))
            await until(lambda: worker.instance.seen == [Performed("tag", "told")])
            system.tell(worker, ActorExitRequest())
            await ended.wait()
            await until(lambda: not base.carrier.work_in_flight)

    run(main)


@on_each_loop
def test_a_performed_coroutine_does_not_see_the_context_of_whoever_sent(run: RunOn) -> None:
    variable = contextvars.ContextVar("variable", default="unset")

    async def read() -> str:
        return variable.get()

    async def main() -> None:
        with actor_system() as (system, _):
            worker = system.createActor(Worker)
            variable.set("a request's own")
            system.tell(worker, (read(), "tag", {}))
            await until(lambda: worker.instance.seen)
            assert worker.instance.seen == [Performed("tag", "unset")]

    run(main)


# Timers


@on_each_loop
def test_a_timer_delivers_its_message_itself_from_the_actor(run: RunOn) -> None:
    async def main() -> None:
        with actor_system() as (system, base):
            recorder = system.createActor(Recorder)
            message = object()
            recorder.instance.call_after(0.001, message)
            await until(lambda: recorder.instance.seen)
            assert recorder.instance.seen == [message]
            assert recorder.instance.senders == [recorder]
            assert list(base.population.timers()) == []

    run(main)


@on_each_loop
def test_a_cancelled_timer_delivers_nothing_and_may_be_cancelled_again(run: RunOn) -> None:
    async def main() -> None:
        with actor_system() as (system, base):
            recorder = system.createActor(Recorder)
            timer = recorder.instance.call_after(0.001, "cancelled")
            recorder.instance.call_after(0.002, "after it")
            timer.cancel()
            timer.cancel()
            await until(lambda: recorder.instance.seen)
            assert recorder.instance.seen == ["after it"]
            timer.cancel()
            assert list(base.population.timers()) == []

    run(main)


@on_each_loop
def test_a_timer_can_be_cancelled_while_its_message_waits_in_the_mailbox(run: RunOn) -> None:
    async def main() -> None:
        with actor_system() as (system, base):
            recorder = system.createActor(Recorder)
            timer = recorder.instance.call_after(0, "cancelled")
            await until(lambda: base.messages_waiting)
            timer.cancel()
            assert await base.ask_soon(system.createActor(Echo), "after it") == "after it"
            assert recorder.instance.seen == []

    run(main)


@on_each_loop
def test_a_timer_can_carry_an_exit_request_and_a_failing_message(
    run: RunOn, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        with actor_system() as (system, base):
            system.createActor(Recorder).instance.call_after(0, ActorExitRequest())
            fragile = system.createActor(Fragile).instance
            fragile.call_after(0, "fail")
            await until(lambda: not base.actors_alive)
            assert [message for _, message, _ in fragile.failures] == ["fail"]

    run(main)
    assert "failed on str" in caplog.text


@on_each_loop
def test_the_timers_of_a_dead_actor_are_cancelled_and_do_not_keep_it(run: RunOn) -> None:
    async def main() -> None:
        with actor_system() as (system, base):
            address = system.createActor(Recorder)
            actor = weakref.ref(address.instance)
            message = Fragile()  # anything that can be referred to weakly
            kept = weakref.ref(message)
            timer = address.instance.call_after(3600, message)
            del message
            gc.disable()
            try:
                system.tell(address, ActorExitRequest())
                await until(lambda: not base.actors_alive)
                await until(lambda: actor() is None and kept() is None)
            finally:
                gc.enable()
            timer.cancel()

    run(main)


@on_each_loop
def test_a_timer_that_a_dead_actor_sets_is_not_armed(run: RunOn) -> None:
    async def main() -> None:
        with actor_system() as (system, base):
            address = system.createActor(Recorder)
            recorder = address.instance
            system.tell(address, ActorExitRequest())
            await until(lambda: not base.actors_alive)
            recorder.call_after(0, "late")
            assert await base.ask_soon(system.createActor(Echo), 1) == 1
            assert recorder.seen == [ActorExitRequest()]

    run(main)


# Stopping


@on_each_loop
def test_an_actor_that_stops_finishes_its_handler_and_hears_nothing_more(run: RunOn) -> None:
    async def main() -> None:
        with actor_system() as (system, base):
            parent = system.createActor(Parent)
            recorder = system.createActor(Recorder)
            system.tell(parent, Caller)
            await until(lambda: parent.instance.children)
            [child] = parent.instance.children

            def stop(actor: LoopActor, sender: Any) -> None:
                actor.createActor(Echo)
                actor.stop()
                actor.send(recorder, "still here")

            system.tell(child, stop)
            system.tell(child, lambda actor, sender: actor.send(recorder, "never"))
            await until(lambda: parent.instance.seen)
            assert parent.instance.seen == [ChildActorExited(child)]
            await until(lambda: base.actors_alive == 2)
            assert recorder.instance.seen == ["still here"]
            assert base.dead_letters == 1

    run(main)


@on_each_loop
def test_an_actor_that_stops_and_then_fails_ends_once(run: RunOn) -> None:
    async def main() -> None:
        with actor_system() as (system, base):
            parent = system.createActor(Parent)
            system.tell(parent, Caller)
            await until(lambda: parent.instance.children)
            [child] = parent.instance.children

            def stop_and_fail(actor: LoopActor, sender: Any) -> None:
                actor.stop()
                raise ValueError

            system.tell(child, stop_and_fail)
            await until(lambda: base.actors_alive == 1)
            assert await base.ask_soon(system.createActor(Echo), 1) == 1
            assert parent.instance.seen == [ChildActorExited(child)]

    run(main)
