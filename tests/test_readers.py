"""Readers: every fetch is open until it is answered, and nobody is answered twice."""

from __future__ import annotations

from actors.protocol import Fetch
from actors.readers import Reader, Readers
from tests.scripted_store import nth


def reader_of(subscriber_id: int, cursor: int = 0, ticket: int = 1) -> Reader:
    return Reader(Fetch("t", subscriber_id, ticket, nth(cursor), 10), f"s{subscriber_id}")


def opened(readers: Readers, *made: Reader) -> None:
    for reader in made:
        readers.open(reader)


def test_readers_of_one_page_share_a_read() -> None:
    readers = Readers()
    one, two, other = reader_of(1), reader_of(2), reader_of(3, cursor=5)
    opened(readers, one, two, other)
    assert [readers.read(reader) for reader in (one, two, other)] == [True, False, True]
    assert readers.take_page(one.key) == [one, two]
    assert readers.take_page(one.key) == []
    assert len(readers) == 3, "taken, not answered yet"


def test_a_reader_that_left_gets_no_page() -> None:
    readers = Readers()
    one, two = reader_of(1), reader_of(2)
    opened(readers, one, two)
    readers.read(one)
    readers.read(two)
    readers.close(1)
    assert readers.take_page(one.key) == [two]


def test_a_reader_that_asked_anew_gets_one_answer() -> None:
    readers = Readers()
    old, new = reader_of(1), reader_of(1, ticket=2)
    opened(readers, old)
    readers.read(old)
    opened(readers, new)
    readers.read(new)
    assert readers.take_page(old.key) == [new]


def test_who_waits_longest_comes_first() -> None:
    readers = Readers()
    made = [reader_of(number) for number in (3, 1, 2)]
    opened(readers, *made)
    for reader in made:
        readers.wait(reader)
    assert readers.has_waiting
    assert [readers.next_waiting() for _ in range(4)] == [*made, None]
    assert not readers.has_waiting


def test_a_reader_that_left_does_not_wait() -> None:
    readers = Readers()
    one = reader_of(1)
    opened(readers, one)
    readers.wait(one)
    readers.close(1)
    assert readers.next_waiting() is None


def test_a_reader_that_asked_anew_does_not_wait_with_its_old_question() -> None:
    readers = Readers()
    opened(readers, reader_of(1))
    readers.wait(reader_of(1))
    opened(readers, reader_of(1, ticket=2))
    assert not readers.has_waiting


def test_at_the_end_everybody_open_is_there_wherever_they_wait() -> None:
    readers = Readers()
    waiting, reading, neither = reader_of(1), reader_of(2), reader_of(3)
    opened(readers, waiting, reading, neither)
    readers.wait(waiting)
    readers.read(reading)
    assert readers.drain() == [waiting, reading, neither]
    assert len(readers) == 0 and readers.next_waiting() is None and readers.take_page(reading.key) == []
