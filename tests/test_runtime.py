from __future__ import annotations

import asyncio
import copy
import gc
import logging
import pickle
import threading
import weakref
from datetime import timedelta
from typing import Any

import pytest
from thespian.actors import (
    Actor,
    ActorAddress,
    ActorExitRequest,
    ActorSystem,
    ActorSystemFailure,
    ChildActorExited,
    DeadEnvelope,
    NoCompatibleSystemForActor,
    PoisonMessage,
    Thespian_ActorStatus,
    Thespian_StatusReq,
    Thespian_SystemStatus,
    WakeupMessage,
    requireCapability,
)
from thespian.system import simpleSystemBase

from actors.outside import UNHEARD_MESSAGES_KEPT
from actors.runtime import AskFailed, AsyncioSystemBase, LoopActor, Performed, PerformFailed
from tests.actor_systems import (
    PATIENCE_SECONDS,
    Caller,
    Echo,
    PlainCaller,
    Recorder,
    RunOn,
    actor_system,
    on_each_loop,
    until,
)


class PlainEcho(Actor):  # type: ignore[misc]
    def receiveMessage(self, message: Any, sender: Any) -> None:
        self.send(sender, message)


class PlainRecorder(Actor):  # type: ignore[misc]
    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.senders: list[Any] = []

    def receiveMessage(self, message: Any, sender: Any) -> None:
        self.seen.append(message)
        self.senders.append(sender)


class Family(Recorder):
    """Creates a child of each class it is sent; `children` are their addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.children: list[Any] = []

    def receiveMessage(self, message: Any, sender: Any) -> None:
        if isinstance(message, type):
            self.children.append(self.createActor(message))
        super().receiveMessage(message, sender)


async def child_of(system: ActorSystem, parent: Any, child_class: type) -> Any:
    count = len(parent.instance.children)
    system.tell(parent, child_class)
    await until(lambda: len(parent.instance.children) > count)
    return parent.instance.children[-1]


# On a running loop


@on_each_loop
def test_tell_returns_before_any_actor_runs_and_also_from_within_a_handler(run: RunOn) -> None:
    async def main() -> None:
        with actor_system() as (system, _):
            recorder = system.createActor(Recorder)
            system.tell(recorder, 1)
            assert recorder.instance.seen == []
            await until(lambda: recorder.instance.seen == [1])

            def tell(actor: LoopActor, sender: Any) -> None:
                system.tell(recorder, 2)
                assert recorder.instance.seen == [1]

            system.tell(system.createActor(Caller), tell)
            await until(lambda: recorder.instance.seen == [1, 2])

    run(main)


@on_each_loop
def test_a_burst_of_100_000_sends_lets_the_loop_do_other_things(run: RunOn) -> None:
    class Counter(LoopActor):
        def receiveMessage(self, message: int, sender: Any) -> None:
            self.count = message
            if message < 100_000:
                self.send(self.myAddress, message + 1)

    async def main() -> None:
        with actor_system() as (system, base):
            counter = system.createActor(Counter)
            system.tell(counter, 1)
            counts: list[int] = []
            loop = asyncio.get_running_loop()

            def look() -> None:
                counts.append(getattr(counter.instance, "count", 0))
                if counts[-1] < 100_000:
                    loop.call_later(0.001, look)

            look()
            await until(lambda: counts[-1] == 100_000)
            assert len(set(counts) - {0, 100_000}) > 2
            assert base.messages_delivered >= 100_000

    run(main)


@on_each_loop
def test_a_base_made_before_its_loop_runs_on_it_and_on_the_next_one(run: RunOn) -> None:
    with actor_system() as (system, base):
        recorder = system.createActor(Recorder)

        async def main() -> None:
            seen = len(recorder.instance.seen)
            system.tell(recorder, "hello")
            await until(lambda: len(recorder.instance.seen) == seen + 1)
            assert await base.ask_soon(system.createActor(Echo), 1) == 1

        run(main)
        run(main)
        system.tell(recorder, "and without")
        assert recorder.instance.seen == ["hello", "hello", "and without"]


@on_each_loop
def test_timers_move_to_the_next_loop_and_work_that_cannot_has_failed(run: RunOn) -> None:
    with actor_system() as (system, _):
        recorder = system.createActor(Recorder)

        async def first() -> None:
            recorder.instance.call_after(0, "moved")
            recorder.instance.perform(asyncio.Event().wait(), "left")

        async def second() -> None:
            system.tell(recorder, "second")
            await until(lambda: len(recorder.instance.seen) == 3)

        run(first)
        run(second)
        assert {"second", "moved"} <= {each for each in recorder.instance.seen if isinstance(each, str)}
        [failed] = [each for each in recorder.instance.seen if isinstance(each, PerformFailed)]
        assert failed.tag == "left"
        assert isinstance(failed.error, asyncio.CancelledError)


@on_each_loop
def test_blocking_calls_are_refused_where_the_loop_runs(run: RunOn) -> None:
    async def main() -> None:
        with actor_system() as (system, _):
            echo = system.createActor(Echo)
            with pytest.raises(RuntimeError, match="ask_soon"):
                system.ask(echo, 1, 1)
            with pytest.raises(RuntimeError, match="ask_soon"):
                system.listen(1)
            with system.private() as private, pytest.raises(RuntimeError, match="ask_soon"):
                private.ask(echo, 1, 1)

    run(main)


@on_each_loop
def test_other_threads_can_tell_ask_and_create_while_the_loop_runs(run: RunOn) -> None:
    async def main() -> None:
        with actor_system() as (system, _):
            echo = system.createActor(Echo)
            recorder = system.createActor(Recorder)

            def ask_privately(number: int) -> Any:
                with system.private() as private:
                    private.tell(recorder, number)
                    own = private.createActor(PlainEcho)
                    answer = private.ask(echo, number, PATIENCE_SECONDS)
                    return answer, private.ask(own, -number, PATIENCE_SECONDS)

            asks = [asyncio.to_thread(ask_privately, number) for number in range(20)]
            assert await asyncio.gather(*asks) == [(number, -number) for number in range(20)]
            assert sorted(recorder.instance.seen) == list(range(20))
            assert await asyncio.to_thread(system.ask, echo, "shared", PATIENCE_SECONDS) == "shared"

    run(main)


# Blocking, with no loop


def test_without_a_loop_tell_runs_actors_until_nothing_is_left_to_do() -> None:
    with actor_system() as (system, _):
        recorder, caller = system.createActor(Recorder), system.createActor(Caller)
        system.tell(caller, lambda actor, sender: actor.send(recorder, "done"))
        assert recorder.instance.seen == ["done"]


def test_without_a_loop_ask_waits_for_timers_and_work() -> None:
    class Slow(LoopActor):
        def receiveMessage(self, message: Any, sender: Any) -> None:
            if message == "timer":
                self.asker = sender
                self.call_after(0.001, "ring")
            elif message == "work":
                self.asker = sender
                self.perform(asyncio.sleep(0.001, "worked"))
            else:
                self.send(self.asker, message)

    with actor_system() as (system, _):
        slow = system.createActor(Slow)
        assert system.ask(slow, "timer", PATIENCE_SECONDS) == "ring"
        assert system.ask(slow, "timer", None) == "ring"
        assert system.ask(slow, "work", timedelta(seconds=PATIENCE_SECONDS)) == Performed(None, "worked")


def test_without_a_loop_an_ask_that_nobody_will_answer_ends_at_once() -> None:
    with actor_system() as (system, _):
        recorder = system.createActor(Recorder)
        assert system.ask(recorder, "hello", None) is None
        assert system.ask(recorder, "hello", 3600) is None
        recorder.instance.call_after(7200, "too late for that ask")
        assert system.listen(3600) is None


def test_without_a_loop_timers_that_are_due_come_before_what_is_told() -> None:
    with actor_system() as (system, _):
        recorder = system.createActor(Recorder)
        recorder.instance.call_after(0, "due")
        system.tell(recorder, "told")
        assert recorder.instance.seen == ["due", "told"]


def test_a_thread_with_a_context_of_its_own_is_served_by_the_thread_that_blocks() -> None:
    with actor_system() as (system, _):
        echo = system.createActor(PlainEcho)
        collector = system.createActor(Caller)
        answers: list[Any] = []
        asker: list[Any] = []

        def work() -> None:
            with system.private() as private:
                answers.extend(private.ask(echo, number, PATIENCE_SECONDS) for number in range(10))
                private.tell(collector, lambda actor, sender: actor.send(asker[0], "finished"))

        system.tell(collector, lambda actor, sender: asker.append(sender))
        thread = threading.Thread(target=work)
        with system.private():  # so that listen knows that others may speak
            thread.start()
            assert system.listen(PATIENCE_SECONDS) == "finished"
        thread.join()
        assert answers == list(range(10))


def test_a_private_context_hears_only_what_is_meant_for_it_and_keeps_its_timeout() -> None:
    with actor_system() as (system, _), system.private() as private:
        echo = system.createActor(PlainEcho)
        assert system.ask(echo, "main", 1) == "main"
        assert private.listen(0.001) is None
        private.tell(echo, "private")
        assert system.listen(0.001) is None
        assert private.listen(1) == "private"


def test_actors_of_two_systems_talk_while_one_blocks() -> None:
    with actor_system() as (system, _), actor_system() as (other, _):
        far = other.createActor(Echo)

        class Relaying(LoopActor):
            def receiveMessage(self, message: Any, sender: Any) -> None:
                if sender == far:
                    self.send(self.asker, ("from afar", message))
                else:
                    self.asker = sender
                    self.send(far, message)

        assert system.ask(system.createActor(Relaying), "hello", PATIENCE_SECONDS) == ("from afar", "hello")
        assert other.ask(far, "still there", PATIENCE_SECONDS) == "still there"


def test_the_processing_limit_ends_a_blocking_call() -> None:
    with actor_system(burst_messages=5) as (system, base):
        forever = system.createActor(Caller)

        def again(actor: LoopActor, sender: Any) -> None:
            actor.send(actor.myAddress, again)

        base.setProcessingLimit(10)
        with pytest.raises(RuntimeError, match="Too many"):
            system.tell(forever, again)
        assert base.messages_delivered < 20
        base.population.end(forever, recursive=True)


def test_what_nobody_listens_to_is_forgotten_oldest_first() -> None:
    with actor_system() as (system, _):
        caller = system.createActor(Caller)

        def answer_much(actor: LoopActor, sender: Any) -> None:
            for number in range(UNHEARD_MESSAGES_KEPT + 5):
                actor.send(sender, number)

        system.tell(caller, answer_much)
        heard = iter(lambda: system.listen(0), None)
        assert list(heard) == list(range(5, UNHEARD_MESSAGES_KEPT + 5))


# Thespian's promises


@on_each_loop
def test_a_plain_actor_gets_a_message_twice_and_then_its_sender_gets_it_back_as_poison(
    run: RunOn, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        with actor_system() as (system, base):
            recorder, target = system.createActor(PlainRecorder), system.createActor(PlainCaller)
            runs: list[int] = []

            def fail(actor: Actor, sender: Any) -> None:
                runs.append(1)
                raise ValueError("as told")

            caller = system.createActor(Caller)
            system.tell(caller, lambda actor, sender: actor.forward(target, fail, recorder))
            await until(lambda: recorder.instance.seen)
            assert len(runs) == 2
            [poison] = recorder.instance.seen
            assert isinstance(poison, PoisonMessage)
            assert poison.poisonMessage is fail
            assert "ValueError: as told" in poison.details
            assert recorder.instance.senders == [target]
            assert base.actors_alive == 3

    run(main)


@on_each_loop
def test_a_plain_actor_that_succeeds_at_the_second_try_has_succeeded(run: RunOn) -> None:
    async def main() -> None:
        with actor_system() as (system, base):
            runs: list[int] = []

            def fail_once(actor: Actor, sender: Any) -> None:
                runs.append(1)
                if len(runs) == 1:
                    raise ValueError
                actor.send(sender, "done")

            assert await base.ask_soon(system.createActor(PlainCaller), fail_once) == "done"

    run(main)


@on_each_loop
def test_a_plain_actor_may_replace_its_own_receive_message(run: RunOn) -> None:
    class Becoming(Actor):  # type: ignore[misc]
        def receiveMessage(self, message: Any, sender: Any) -> None:
            self.receiveMessage = self.other  # type: ignore[method-assign]
            self.send(sender, "first")

        def other(self, message: Any, sender: Any) -> None:
            self.send(sender, "other")

    async def main() -> None:
        with actor_system() as (system, base):
            becoming = system.createActor(Becoming)
            assert [await base.ask_soon(becoming, 1), await base.ask_soon(becoming, 1)] == ["first", "other"]

    run(main)


@on_each_loop
def test_an_exit_request_is_delivered_then_ends_the_actor_and_its_children(run: RunOn) -> None:
    async def main() -> None:
        with actor_system() as (system, base):
            grandparent = system.createActor(Family)
            parent = await child_of(system, grandparent, Family)
            child = await child_of(system, parent, Recorder)
            parent_actor, child_actor = parent.instance, child.instance
            system.tell(parent, ActorExitRequest())
            await until(lambda: base.actors_alive == 1)
            assert parent_actor.seen[-1] == ActorExitRequest()
            assert child_actor.seen == [ActorExitRequest()]
            assert grandparent.instance.seen == [Family, ChildActorExited(parent)]
            assert parent.instance is child.instance is None

    run(main)


@on_each_loop
def test_an_exit_request_that_is_not_recursive_leaves_the_children_alive(run: RunOn) -> None:
    async def main() -> None:
        with actor_system() as (system, base):
            parent = system.createActor(Family)
            child = await child_of(system, parent, Echo)
            system.tell(parent, ActorExitRequest(recursive=False))
            await until(lambda: base.actors_alive == 1)
            assert await base.ask_soon(child, "alive") == "alive"

    run(main)


@on_each_loop
def test_wakeup_after_takes_seconds_or_a_timedelta(run: RunOn) -> None:
    async def main() -> None:
        with actor_system() as (system, _):
            recorder = system.createActor(PlainRecorder)
            recorder.instance.wakeupAfter(timedelta(milliseconds=1), "timedelta")
            recorder.instance.wakeupAfter(0.001, "seconds")
            await until(lambda: len(recorder.instance.seen) == 2)
            assert sorted(recorder.instance.seen, key=lambda wakeup: wakeup.payload) == [
                WakeupMessage(0.001, "seconds"),
                WakeupMessage(timedelta(milliseconds=1), "timedelta"),
            ]
            assert recorder.instance.senders == [recorder] * 2

    run(main)


@on_each_loop
def test_a_global_name_is_one_actor_until_it_ends(run: RunOn) -> None:
    async def main() -> None:
        with actor_system() as (system, base):
            first = system.createActor(Recorder, globalName="the one")
            assert system.createActor(Echo, globalName="the one") is first
            assert first.instance.globalName == "the one"
            assert system.createActor(Echo).instance.globalName is None
            caller = system.createActor(Caller)
            found: list[Any] = []
            system.tell(
                caller, lambda actor, sender: found.append(actor.createActor(Echo, globalName="the one"))
            )
            await until(lambda: found == [first])
            system.tell(first, ActorExitRequest())
            await until(lambda: first.instance is None)
            second = system.createActor(Echo, globalName="the one")
            assert await base.ask_soon(second, 1) == 1

    run(main)


@on_each_loop
def test_what_is_sent_to_the_dead_goes_to_the_last_dead_letter_handler(run: RunOn) -> None:
    async def main() -> None:
        with actor_system() as (system, base):
            dead, asker = system.createActor(Recorder), system.createActor(Caller)
            first, second = system.createActor(PlainRecorder), system.createActor(PlainRecorder)
            system.tell(dead, ActorExitRequest())
            await until(lambda: dead.instance is None)

            async def send(message: Any) -> None:
                letters = base.dead_letters
                system.tell(asker, lambda actor, sender: actor.send(dead, message))
                await until(lambda: base.dead_letters > letters and not base.messages_waiting)

            await send("nobody cares")
            first.instance.handleDeadLetters()
            await send("to the first")
            second.instance.handleDeadLetters()
            first.instance.handleDeadLetters(False)  # it is not the handler any more
            await send("to the second")
            system.tell(second, ActorExitRequest())
            await until(lambda: second.instance is None)
            await send("nobody again")
            assert first.instance.seen == [DeadEnvelope(dead, "to the first")]
            assert first.instance.senders == [asker]
            assert base.dead_letters == 4

    run(main)


@on_each_loop
def test_the_second_dead_letter_handler_gets_them_with_the_original_sender(run: RunOn) -> None:
    async def main() -> None:
        with actor_system() as (system, _):
            dead, handler = system.createActor(Recorder), system.createActor(PlainRecorder)
            handler.instance.handleDeadLetters()
            system.tell(dead, ActorExitRequest())
            system.tell(dead, "late")
            await until(lambda: handler.instance.seen)
            assert handler.instance.seen == [DeadEnvelope(dead, "late")]

    run(main)


def test_an_actor_whose_init_raises_is_reported_to_its_creator() -> None:
    class Broken(LoopActor):
        def __init__(self) -> None:
            raise ValueError("as told")

    with actor_system() as (system, base):
        with pytest.raises(ValueError, match="as told"):
            system.createActor(Broken)
        family = system.createActor(Family)
        system.tell(family, Broken)
        [stillborn] = family.instance.children
        assert family.instance.seen == [Broken, ChildActorExited(stillborn)]
        assert base.actors_alive == 1


def test_capabilities_decide_and_are_given_to_an_init_that_wants_them() -> None:
    @requireCapability("colour", "red")
    class Red(LoopActor):
        def __init__(self, requirements: Any = None, capabilities: Any = None) -> None:
            self.given = (requirements, capabilities["colour"])

    with actor_system(capabilities={"colour": "green"}) as (system, base):
        with pytest.raises(NoCompatibleSystemForActor):
            system.createActor(Red)
        system.updateCapability("colour", "red")
        assert system.createActor(Red, {"shape": "round"}).instance.given == ({"shape": "round"}, "red")
        base.updateCapability("colour")
        with pytest.raises(NoCompatibleSystemForActor):
            system.createActor(Red)


def test_thespian_can_construct_it_as_it_does_its_own_bases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simpleSystemBase, "ActorSystemBase", AsyncioSystemBase)
    system = ActorSystem("simpleSystemBase", {"colour": "red"}, transientUnique=True)
    assert isinstance(system._systemBase, AsyncioSystemBase)
    assert system.capabilities["Thespian ActorSystem Name"] == "asyncioSystem"
    assert system._systemBase.population.capabilities["colour"] == "red"
    assert system.ask(system.createActor(PlainEcho), "hello", 1) == "hello"
    another = AsyncioSystemBase(system, capabilities={"shape": "round"})
    assert (system.capabilities["colour"], system.capabilities["shape"]) == ("red", "round")
    another.shutdown()
    system.shutdown()


def test_logging_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: Any, **_options: Any) -> None:
        raise AssertionError("logging was configured")

    monkeypatch.setattr("logging.config.dictConfig", refuse)
    monkeypatch.setattr("logging.basicConfig", refuse)
    monkeypatch.setattr(simpleSystemBase, "dictConfig", refuse)
    handlers = list(logging.getLogger().handlers)
    AsyncioSystemBase(None, {"version": 1}).shutdown()
    AsyncioSystemBase(None, None).shutdown()
    assert logging.getLogger().handlers == handlers


def test_actors_and_the_system_tell_their_status() -> None:
    with actor_system() as (system, base):
        family = system.createActor(Family, globalName="family")
        system.tell(family, Echo)
        family.instance.call_after(3600, "far away")
        actor = system.ask(family, Thespian_StatusReq(), 1)
        assert isinstance(actor, Thespian_ActorStatus)
        assert actor.childActors == family.instance.children
        assert [owner for owner, _ in actor.pendingWakeups] == [family]
        status = system.ask(base.population.system_address, Thespian_StatusReq(), 1)
        assert isinstance(status, Thespian_SystemStatus)
        assert status.childActors == [family]
        assert status.globalActors == {"family": family}


# Addresses


def test_an_address_survives_copies_and_finds_its_actor_by_name_when_it_was_pickled() -> None:
    with actor_system() as (system, _):
        echo = system.createActor(PlainEcho)
        assert copy.copy(echo) is copy.deepcopy([echo])[0] is echo
        by_name = pickle.loads(pickle.dumps(echo))  # noqa: S301  # our own bytes
        assert type(by_name) is ActorAddress
        assert by_name == echo
        assert echo == by_name
        assert system.ask(by_name, "hello", 1) == "hello"
        assert echo != system.createActor(PlainEcho)
        with pytest.raises(TypeError):
            hash(echo)


@on_each_loop
def test_ten_thousand_actors_that_came_and_went_leave_nothing(run: RunOn) -> None:
    async def main() -> None:
        with actor_system() as (system, base):
            parent = system.createActor(Family)
            gc.disable()  # what is left must be nothing without a collection
            try:
                for number in range(10_000):
                    system.tell(parent, (Recorder, Echo, PlainEcho, PlainRecorder)[number % 4])
                await until(lambda: base.actors_alive == 10_001)
                addresses = parent.instance.children
                actors = [weakref.ref(address.instance) for address in addresses]
                cells = [weakref.ref(address) for address in addresses]
                del addresses
                for cell in cells:
                    system.tell(cell(), ActorExitRequest())
                await until(lambda: base.actors_alive == 1)
                await until(lambda: not base.messages_waiting)
                assert not [actor for actor in actors if actor() is not None]
                assert parent.children == {}
                parent.instance.children.clear()
                parent.instance.seen.clear()
                await asyncio.sleep(0)
                assert not [cell for cell in cells if cell() is not None]
            finally:
                gc.enable()

    run(main)


# Shutdown


@on_each_loop
def test_shutdown_delivers_what_waits_then_ends_the_newest_first_and_answers_everybody(run: RunOn) -> None:
    log: list[Any] = []

    class Logging(Family):
        name = "unnamed"

        def receiveMessage(self, message: Any, sender: Any) -> None:
            if isinstance(message, str):
                self.name = message
            log.append((self.name, type(message).__name__))
            super().receiveMessage(message, sender)

    async def main() -> None:
        with actor_system() as (system, base):
            first, second = system.createActor(Logging), system.createActor(Logging)
            child = await child_of(system, second, Logging)
            log.clear()
            first.instance.call_after(3600, "never")
            held = base.ask_soon(second, 1, 3600)
            for address, name in ((first, "first"), (second, "second"), (child, "child")):
                system.tell(address, name)
            base.shutdown()
            assert log == [
                ("unnamed", "int"),
                ("first", "str"),
                ("second", "str"),
                ("child", "str"),
                ("second", "ActorExitRequest"),
                ("first", "ActorExitRequest"),
                ("child", "ActorExitRequest"),
            ]
            assert base.actors_alive == base.messages_waiting == 0
            for ask in (held, base.ask_soon(first, "late", 3600)):
                with pytest.raises(AskFailed):
                    await ask
            with pytest.raises(ActorSystemFailure):
                base.newPrimaryActor(Echo)

    run(main)


@on_each_loop
def test_an_actor_can_shut_the_system_down(run: RunOn) -> None:
    async def main() -> None:
        with actor_system() as (system, base):
            recorder = system.createActor(Recorder)
            seen = recorder.instance.seen

            def shut_down(actor: LoopActor, sender: Any) -> None:
                actor.actorSystemShutdown()
                assert seen == []

            system.tell(system.createActor(Caller), shut_down)
            await until(lambda: base.actors_alive == 0)
            assert seen == [ActorExitRequest()]

    run(main)


def test_an_actor_can_shut_a_blocking_system_down() -> None:
    with actor_system() as (system, base):
        system.tell(system.createActor(Caller), lambda actor, sender: actor.actorSystemShutdown())
        assert base.actors_alive == 0
        with pytest.raises(RuntimeError, match="shut down"):
            base.tell(system._systemBase.population.system_address, 1)


@on_each_loop
def test_another_thread_can_shut_the_system_down(run: RunOn) -> None:
    async def main() -> None:
        with actor_system() as (system, base):
            recorder = system.createActor(Recorder)
            system.tell(recorder, 1)
            seen = recorder.instance.seen
            await until(lambda: seen)
            await asyncio.to_thread(base.shutdown)
            assert seen == [1, ActorExitRequest()]

    run(main)


def test_shutdown_ends_what_handlers_leave_behind_in_a_blocking_system() -> None:
    ended = threading.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    class Orphaning(Family):
        def receiveMessage(self, message: Any, sender: Any) -> None:
            if isinstance(message, ActorExitRequest):
                message.notRecursive()
            super().receiveMessage(message, sender)

    with actor_system() as (system, base):
        parent = system.createActor(Orphaning)
        system.tell(parent, Recorder)
        child = parent.instance.children[0].instance
        child.perform(work())
        system.tell(parent, "let the work start")
        base.shutdown()
        assert child.seen == [ActorExitRequest()]
        assert ended.is_set()
        assert base.carrier.work_in_flight == 0


# What an operator may ask


@on_each_loop
def test_a_base_tells_how_it_is_doing(run: RunOn) -> None:
    async def main() -> None:
        with actor_system() as (system, base):
            recorder = system.createActor(Recorder)
            for number in range(10):
                system.tell(recorder, number)
            assert (base.actors_alive, base.messages_waiting, base.messages_delivered) == (1, 10, 0)
            assert len(base.mailbox.waiting_for(recorder)) == 10
            await until(lambda: not base.messages_waiting)
            assert (base.messages_delivered, base.dead_letters) == (10, 0)
            assert 0 < base.longest_burst_milliseconds < PATIENCE_SECONDS * 1000

    run(main)
