"""ArchiveActor: each question is the store's to answer, and is answered."""

from __future__ import annotations

from typing import Any

import pytest

from actors.archive import ArchiveActor
from actors.consumer_protocol import AcknowledgeFor, DescribeConsumer, ForgetConsumer, ListConsumers
from actors.ports import HistoryPage, TopicTerms
from actors.protocol import (
    ChangeTopic,
    CountTopics,
    CreateTopic,
    Describe,
    ListTopics,
    ReadHistory,
    Refused,
    StartArchive,
)
from tests.scripted_store import Call, nth
from tests.stand_ins import Outsider, StandInRef, StandInSystem

TERMS = TopicTerms("about jobs", {"max_messages": 5})


class AnsweringArchive:
    """The `Archive` port: answers with what it was asked."""

    def __getattr__(self, name: str) -> Any:
        def ask(*arguments: Any, **named: Any) -> Call:
            return Call(name, lambda: (name, *arguments, *named.items()), arguments)

        return ask


def start_archive() -> tuple[StandInSystem, StandInRef]:
    system = StandInSystem()
    archive = system.create(ArchiveActor)
    archive.tell(StartArchive(AnsweringArchive()))
    return system, archive


@pytest.mark.parametrize(
    ("question", "asked"),
    [
        (ReadHistory("t", nth(3), 10, 1000, True), ("history", "t", nth(3), 10, 1000, ("descends", True))),
        (Describe("t"), ("describe", "t")),
        (CreateTopic("t", TERMS), ("create", "t", TERMS)),
        (ChangeTopic("t", TERMS), ("change", "t", TERMS)),
        (ListTopics("a", 5), ("topics", "a", 5)),
        (CountTopics(), ("topic_count",)),
        (AcknowledgeFor("c", {"t": nth(3)}), ("acknowledge", "c", None, {"t": nth(3)}, ("proves", True))),
        (DescribeConsumer("c"), ("consumer", "c")),
        (ListConsumers("a", 5), ("consumers", "a", 5)),
        (ForgetConsumer("c"), ("forget", "c")),
    ],
)
def test_a_question_is_answered_by_the_store(question: Any, asked: tuple[Any, ...]) -> None:
    system, archive = start_archive()
    asker = Outsider()
    archive.tell(question, asker)
    system.settle()
    assert asker.received == [asked]


def test_answers_go_to_who_asked_in_whatever_order_they_come() -> None:
    system, archive = start_archive()
    one, other = Outsider(), Outsider()
    archive.tell(Describe("one"), one)
    archive.tell(Describe("other"), other)
    first, second = archive.works
    second.answer(HistoryPage([], False, None))
    first.answer(None)
    system.run()
    assert one.received == [None] and other.received == [HistoryPage([], False, None)]


def test_a_store_that_is_away_refuses_by_its_own_word() -> None:
    system, archive = start_archive()
    asker = Outsider()
    archive.tell(Describe("t"), asker)
    archive.work("describe").fail("store_loading")
    system.run()
    assert asker.received == [Refused("store_loading")]


def test_a_store_with_a_bug_costs_one_answer() -> None:
    system, archive = start_archive()
    asker = Outsider()
    archive.tell(Describe("t"), asker)
    archive.work("describe").fail_with(ZeroDivisionError())
    system.run()
    assert asker.received == [Refused("internal_error")]
    archive.tell(Describe("t"), asker)
    system.settle()
    assert asker.received[1:] == [("describe", "t")]
