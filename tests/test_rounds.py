from __future__ import annotations

import asyncio

import pytest

from pulsar_relay.supervision.rounds import Rounds


class Oracle:
    """Answers a question when told to, with the number of the round."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self._answers: list[asyncio.Future[int]] = []

    async def ask(self, question: str) -> int:
        self.begun.append(question)
        self._answers.append(asyncio.get_running_loop().create_future())
        return await self._answers[-1]

    async def says(self, answer: int | Exception) -> None:
        open_ = [future for future in self._answers if not future.done()]
        while not open_:
            await asyncio.sleep(0)
            open_ = [future for future in self._answers if not future.done()]
        future = open_[0]
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)


def test_who_asks_during_a_round_gets_what_the_next_one_brings_and_all_of_them_together() -> None:
    async def scenario() -> None:
        oracle = Oracle()
        rounds = Rounds(oracle.ask)
        first = asyncio.create_task(rounds.answer("q"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        later = [asyncio.create_task(rounds.answer("q")) for _ in range(5)]
        await asyncio.sleep(0)
        assert oracle.begun == ["q"]
        await oracle.says(1)
        assert await first == 1
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert oracle.begun == ["q", "q"]
        assert not any(one.done() for one in later)
        await oracle.says(2)
        assert await asyncio.gather(*later) == [2] * 5
        again = asyncio.create_task(rounds.answer("q"))
        await asyncio.sleep(0)
        await oracle.says(3)
        assert await again == 3 and oracle.begun == ["q"] * 3

    asyncio.run(scenario())


def test_different_questions_do_not_wait_for_each_other() -> None:
    async def scenario() -> None:
        oracle = Oracle()
        rounds = Rounds(oracle.ask)
        asked = [asyncio.create_task(rounds.answer(question)) for question in ("a", "b")]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert oracle.begun == ["a", "b"]
        await oracle.says(1)
        await oracle.says(2)
        assert await asyncio.gather(*asked) == [1, 2]

    asyncio.run(scenario())


def test_a_failure_is_for_those_who_waited_and_the_next_round_begins_all_the_same() -> None:
    async def scenario() -> None:
        oracle = Oracle()
        rounds = Rounds(oracle.ask)
        first = asyncio.create_task(rounds.answer("q"))
        await asyncio.sleep(0)
        second = asyncio.create_task(rounds.answer("q"))
        await asyncio.sleep(0)
        await oracle.says(OSError("no"))
        with pytest.raises(OSError, match="no"):
            await first
        await oracle.says(2)
        assert await second == 2

    asyncio.run(scenario())


def test_a_caller_that_is_cancelled_takes_nobodys_answer_away() -> None:
    async def scenario() -> None:
        oracle = Oracle()
        rounds = Rounds(oracle.ask)
        first = asyncio.create_task(rounds.answer("q"))
        await asyncio.sleep(0)
        both = [asyncio.create_task(rounds.answer("q")) for _ in range(2)]
        await asyncio.sleep(0)
        first.cancel()
        both[0].cancel()
        await oracle.says(1)
        await asyncio.sleep(0)
        await oracle.says(2)
        assert await both[1] == 2

    asyncio.run(scenario())


def test_stopped_it_leaves_nobody_waiting() -> None:
    async def scenario() -> None:
        rounds = Rounds(Oracle().ask)
        asked = [asyncio.create_task(rounds.answer("q")) for _ in range(2)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        rounds.stop()
        done = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(one) for one in done] == [asyncio.CancelledError] * 2

    asyncio.run(scenario())
