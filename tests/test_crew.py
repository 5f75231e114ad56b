from __future__ import annotations

import asyncio

import pytest

from pulsar_relay.errors import RelayError
from pulsar_relay.supervision import crew as crews
from pulsar_relay.supervision.crew import Supervised
from pulsar_relay.supervision.notes import Answered, Asked
from pulsar_relay.supervision.parts import Holdings, Question, Waiting, What
from tests.conditions import until_in_loop


def test_an_answer_goes_to_who_asked_that_question() -> None:
    async def scenario() -> None:
        asked: list[Asked] = []
        crew = Supervised(asked.append)
        waiting = asyncio.create_task(crew.waiting())
        holdings = asyncio.create_task(crew.holdings("a"))
        await until_in_loop(lambda: len(asked) == 2, "both are asked")
        by_question = {one.question: one.number for one in asked}
        crew.take(Answered(by_question[Question(What.HOLDINGS, "a")], Holdings(1, 2, 3, 4)))
        crew.take(Answered(by_question[Question(What.WAITING)], Waiting(7)))
        assert await waiting == Waiting(7)
        assert await holdings == Holdings(1, 2, 3, 4)

    asyncio.run(scenario())


def test_a_crowd_of_clients_is_one_question() -> None:
    async def scenario() -> None:
        asked: list[Asked] = []
        crew = Supervised(asked.append)
        crowd = [asyncio.create_task(crew.waiting()) for _ in range(100)]
        await until_in_loop(lambda: asked, "it is asked")
        crew.take(Answered(asked[0].number, Waiting(1)))
        await until_in_loop(lambda: len(asked) == 2, "those who came later are asked for together")
        crew.take(Answered(asked[1].number, Waiting(2)))
        assert {answer.active for answer in await asyncio.gather(*crowd)} <= {1, 2}
        assert len(asked) == 2

    asyncio.run(scenario())


def test_a_supervisor_that_says_nothing_is_an_error_worth_trying_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(crews, "ANSWER_SECONDS", 0.01)

    async def scenario() -> None:
        asked: list[Asked] = []
        crew = Supervised(asked.append)
        with pytest.raises(RelayError) as caught:
            await crew.metrics()
        assert (caught.value.kind.code, caught.value.kind.status) == ("workers_silent", 503)
        assert caught.value.kind.is_retryable
        # Too late, and for nobody.
        crew.take(Answered(asked[0].number, Waiting(1)))

    asyncio.run(scenario())
