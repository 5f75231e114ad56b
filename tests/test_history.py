"""The judge of fault runs is judged: a clean history is clean, and each planted bug is found, by its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.faults.history import History, Verdict, judge
from tests.faults.records import (
    Answered,
    Attached,
    Content,
    Log,
    LogReader,
    Noticed,
    Received,
    Record,
    Sent,
    Stored,
    payload_of,
)

MESSAGES = 12
TOPIC = "t"


def _id(n: int) -> str:
    return f"{1000 + n}-{n}"


def _content(n: int) -> Content:
    """The n-th message of the stream, counted from 1: two producers take turns."""
    return Content("ab"[n % 2], n // 2, 0)


def _sent_at(n: int) -> float:
    return n * 10.0


def _received(consumer: str, n: int, **changes: object) -> Received:
    record = Received(_sent_at(n) + 2, consumer, TOPIC, _id(n), _content(n))
    return msgspec.structs.replace(record, **changes)


class Run:
    """The clean history, in lists that a test may spoil.

    Three consumers: one stays, one comes back twice with its cursor (once with an older one), and for one the
    relay keeps the place.
    """

    def __init__(self) -> None:
        numbers = range(1, MESSAGES + 1)
        self.sent = [Sent(_sent_at(n), TOPIC, _content(n)) for n in numbers]
        self.answered = [
            Answered(_sent_at(n) + 1, TOPIC, _content(n), "ok", _id(n), 1.0, 201) for n in numbers
        ]
        self.stays: list[Record] = [Attached(0, "stays", {TOPIC: "0-0"})]
        self.stays += [_received("stays", n) for n in numbers]
        self.returns: list[Record] = [Attached(0, "returns", {TOPIC: "earliest"})]
        self.returns += [_received("returns", n) for n in range(1, 5)]
        self.returns += [Attached(_sent_at(5), "returns", {TOPIC: _id(4)})]
        self.returns += [_received("returns", n) for n in range(5, 9)]
        # It had not written down where it was: messages behind the cursor come again, and may.
        self.returns += [Attached(_sent_at(9), "returns", {TOPIC: _id(6)})]
        self.returns += [_received("returns", n) for n in range(7, MESSAGES + 1)]
        self.kept: list[Record] = [Attached(0, "kept", {TOPIC: "0-0"})]
        self.kept += [_received("kept", n) for n in range(1, 7)]
        self.kept += [Attached(_sent_at(7), "kept", None)]
        self.kept += [_received("kept", n) for n in range(7, MESSAGES + 1)]
        self.stored = [Stored(TOPIC, _id(n), _content(n)) for n in numbers]

    def add(self, n: int, *outcomes: Answered) -> None:
        """Add a message with these outcomes of its attempts."""
        self.sent += [Sent(outcome.at - 1, TOPIC, _content(n)) for outcome in outcomes]
        self.answered += outcomes

    def store(self, n: int) -> None:
        """Have it stored, and everybody receive it."""
        self.stored.append(Stored(TOPIC, _id(n), _content(n)))
        for name, records in (("stays", self.stays), ("returns", self.returns), ("kept", self.kept)):
            records.append(_received(name, n))

    def judge(self, **given: object) -> Verdict:
        records: list[Record] = [*self.sent, *self.answered, *self.stays, *self.returns, *self.kept]
        return judge(History.of([*records, *self.stored]), **given)  # type: ignore[arg-type]


def _answer(n: int, outcome: str, **more: object) -> Answered:
    return msgspec.structs.replace(
        Answered(_sent_at(n) + 1, TOPIC, _content(n), "info"), outcome=outcome, **more
    )


def _lose(n: int) -> Callable[[Run], None]:
    """The store has forgotten the n-th message, and nobody ever saw it."""

    def spoil(run: Run) -> None:
        del run.stored[n - 1]
        for records in (run.stays, run.returns, run.kept):
            records[:] = [r for r in records if not (isinstance(r, Received) and r.message_id == _id(n))]

    return spoil


def _stored_after_fail(run: Run) -> None:
    run.add(13, _answer(13, "fail", code="refused"), _answer(13, "fail", code="refused"))
    run.store(13)


def _unexpected(run: Run) -> None:
    run.store(13)


def _altered_in_the_store(run: Run) -> None:
    other = _content(3)._replace(digest=7)
    run.stored[2] = Stored(TOPIC, _id(3), other)
    for name in ("stays", "returns", "kept"):
        records = getattr(run, name)
        records[records.index(_received(name, 3))] = _received(name, 3, content=other)
    del run.sent[2], run.answered[2]


def _stored_twice(run: Run) -> None:
    run.stored.append(Stored(TOPIC, _id(13), _content(12)))
    for name, records in (("stays", run.stays), ("returns", run.returns), ("kept", run.kept)):
        records.append(_received(name, 13, content=_content(12)))


def _acknowledged_as_another(run: Run) -> None:
    run.add(12, _answer(13, "ok", content=_content(12), message_id=_id(13)))


def _acknowledged_as_what_it_is_not(run: Run) -> None:
    run.answered[-1] = _answer(12, "ok", message_id=_id(14))


def _swap(run: Run, n: int, other: int) -> None:
    """Two messages change places in the stream, whole: in the acknowledgements and at all consumers too."""
    places = {_content(n): _id(other), _content(other): _id(n)}
    contents = {_id(other): _content(n), _id(n): _content(other)}
    run.answered = [
        msgspec.structs.replace(a, message_id=places.get(a.content, a.message_id)) for a in run.answered
    ]
    run.stored = [Stored(TOPIC, s.message_id, contents.get(s.message_id, s.content)) for s in run.stored]
    for records in (run.stays, run.returns, run.kept):
        records[:] = [
            msgspec.structs.replace(r, content=contents.get(r.message_id, r.content))
            if isinstance(r, Received)
            else r
            for r in records
        ]


def _swap_of_one_producer(run: Run) -> None:
    # Sent before the other's answers came, so that only their own order is wrong.
    run.sent = [msgspec.structs.replace(sent, at=0) for sent in run.sent]
    _swap(run, 5, 7)


def _skip(run: Run) -> None:
    run.stays.remove(_received("stays", 6))


def _skip_and_deliver_in_the_next_session(run: Run) -> None:
    run.returns.remove(_received("returns", 7))


def _come_late(run: Run) -> None:
    record = run.stays.pop(6)
    run.stays.insert(7, record)


def _come_twice(run: Run) -> None:
    run.stays.insert(7, run.stays[6])


def _come_again_before_the_cursor(run: Run) -> None:
    index = run.returns.index(Attached(_sent_at(5), "returns", {TOPIC: _id(4)}))
    run.returns.insert(index + 1, _received("returns", 4))


def _come_again_though_the_place_is_kept(run: Run) -> None:
    index = run.kept.index(Attached(_sent_at(7), "kept", None))
    run.kept.insert(index + 1, _received("kept", 6))


def _lost_between_two_sessions(run: Run) -> None:
    """The consumer was handed a cursor that is past a message it never got."""
    index = run.returns.index(Attached(_sent_at(5), "returns", {TOPIC: _id(4)}))
    run.returns[index : index + 2] = [Attached(_sent_at(5), "returns", {TOPIC: _id(5)})]


def _miss_the_end(run: Run) -> None:
    del run.stays[-2:]


def _see_nothing(run: Run) -> None:
    del run.stays[1:]


def _see_what_is_not_there(run: Run) -> None:
    run.stays.append(_received("stays", 13))


def _see_another(run: Run) -> None:
    run.stays[4] = _received("stays", 4, content=_content(99))


def _see_an_altered_payload(run: Run) -> None:
    run.stays[4] = _received("stays", 4, content=_content(4)._replace(digest=1))


def _wait_too_long(run: Run) -> None:
    run.answered[4] = msgspec.structs.replace(run.answered[4], seconds=10.5)


def _plain_500(run: Run) -> None:
    run.add(12, _answer(12, "info", status=500, code="internal_error", retry_after="1"))


def _no_retry_after(run: Run) -> None:
    run.add(12, _answer(12, "info", status=503, code="store_unavailable"))


def _refused_for_good(run: Run) -> None:
    run.add(13, _answer(13, "fail", status=422, code="invalid_request"))


def _no_code(run: Run) -> None:
    run.add(12, _answer(12, "info", status=503, retry_after="1"))


MUTANTS: dict[str, list[Callable[[Run], None]]] = {
    "lost-acked": [_lose(1), _lose(6), _lose(12)],
    "stored-after-fail": [_stored_after_fail],
    "unexpected": [_unexpected, _altered_in_the_store],
    "store-duplicate": [_stored_twice],
    "ack-id-changed": [_acknowledged_as_another, _acknowledged_as_what_it_is_not],
    "realtime-order": [lambda run: _swap(run, 5, 6)],
    "producer-reorder": [_swap_of_one_producer],
    "gap": [_skip, _skip_and_deliver_in_the_next_session],
    "backwards": [_come_late],
    "duplicate": [_come_twice, _come_again_before_the_cursor, _come_again_though_the_place_is_kept],
    "never-delivered": [_lost_between_two_sessions],
    "not-caught-up": [_miss_the_end, _see_nothing],
    "phantom": [_see_what_is_not_there],
    "id-reused": [_see_another, _see_an_altered_payload],
    "late-answer": [_wait_too_long],
    "rude-answer": [_plain_500, _no_retry_after, _no_code, _refused_for_good],
}


def test_a_clean_history_is_clean() -> None:
    verdict = Run().judge()
    assert verdict.anomalies == []
    assert verdict.notices == []
    assert verdict.acknowledged == MESSAGES
    assert verdict.longest_without_ok == 10.0
    assert verdict.largest_lag == 1.0
    assert verdict.most_attempts == 1


@pytest.mark.parametrize(
    ("kind", "spoil"), [(kind, spoil) for kind, mutants in MUTANTS.items() for spoil in mutants]
)
def test_a_planted_bug_is_found_and_nothing_else(kind: str, spoil: Callable[[Run], None]) -> None:
    run = Run()
    spoil(run)
    assert run.judge().kinds == {kind}


def test_every_anomaly_that_is_promised_is_planted() -> None:
    text = str(judge.__globals__["__doc__"])
    promised = {line.split("`")[1] for line in text.splitlines() if line.startswith("| `")}
    assert promised == set(MUTANTS)


@pytest.mark.parametrize(("n", "where"), [(1, "prefix"), (6, "middle"), (12, "tail")])
def test_what_was_lost_is_told_by_where_it_was(n: int, where: str) -> None:
    run = Run()
    _lose(n)(run)
    (anomaly,) = run.judge().anomalies
    assert anomaly.where == where
    assert anomaly.at == _sent_at(n) + 1


def test_what_power_took_is_a_tail_though_more_was_published_since() -> None:
    run = Run()
    for n in (7, 6):
        _lose(n)(run)
    assert {anomaly.where for anomaly in run.judge().anomalies} == {"middle"}
    assert {anomaly.where for anomaly in run.judge(cuts=[_sent_at(7) + 1.5]).anomalies} == {"tail"}


def test_what_a_message_that_is_taken_back_was_ahead_of_is_announced_with_the_reset_that_takes_it_back() -> (
    None
):
    run = Run()
    # One primary gives it while another, whose messages stay, is at the third.
    ahead = _received("stays", 3, message_id="1005-3", content=Content("b", 99, 0))
    run.sent.append(Sent(_sent_at(3), TOPIC, Content("b", 99, 0)))
    run.stays[3:6] = [ahead]
    assert run.judge().kinds == {"gap", "phantom"}
    reset = Noticed(_sent_at(5), "stays", TOPIC, "reset", _id(6), "unknown_cursor")
    run.stays.insert(4, reset)
    assert run.judge().kinds == set()


def test_a_lost_tail_that_was_delivered_is_a_phantom_until_a_reset_says_so() -> None:
    run = Run()
    del run.stored[-1]
    assert run.judge().kinds == {"lost-acked", "phantom"}
    for name, records in (("stays", run.stays), ("returns", run.returns), ("kept", run.kept)):
        records.append(Noticed(200, name, TOPIC, "gap", None))
    assert run.judge().kinds == {"lost-acked", "phantom"}
    for name, records in (("stays", run.stays), ("returns", run.returns), ("kept", run.kept)):
        records.append(Noticed(201, name, TOPIC, "reset", None))
    assert run.judge().kinds == {"lost-acked"}


@pytest.mark.parametrize("kind", ["gap", "reset"])
def test_an_announced_gap_is_no_anomaly(kind: str) -> None:
    run = Run()
    run.stays[5:8] = [Noticed(80, "stays", TOPIC, kind, _id(8))]
    verdict = run.judge()
    assert verdict.anomalies == []
    assert len(verdict.notices) == 1


def test_what_is_missing_behind_an_announced_gap_is_found() -> None:
    run = Run()
    run.stays[5:9] = [Noticed(80, "stays", TOPIC, "gap", _id(8))]
    (anomaly,) = run.judge().anomalies
    assert (anomaly.kind, anomaly.text) == ("gap", f"1 missing, from {_id(8)} to {_id(8)}")


def test_a_gap_announced_after_the_next_message_is_a_gap() -> None:
    run = Run()
    run.stays[5:9] = [_received("stays", 8), Noticed(80, "stays", TOPIC, "gap", _id(8))]
    assert "gap" in run.judge().kinds


def test_after_a_reset_that_names_no_first_message_a_poll_may_begin_again_before_all() -> None:
    run = Run()
    # All went, and the first that came after it is the ninth; the poll was handed the very beginning.
    run.stored = run.stored[8:]
    run.stays[9:] = [
        Noticed(85, "stays", TOPIC, "reset", None),
        Attached(86, "stays", {TOPIC: "0-0"}),
        *(_received("stays", n) for n in range(9, MESSAGES + 1)),
    ]
    verdict = run.judge(wipes=[_sent_at(8) + 5])
    assert not [anomaly for anomaly in verdict.anomalies if anomaly.who == "stays"]


def test_a_reset_may_begin_again_from_anywhere() -> None:
    run = Run()
    again = [_received("stays", n) for n in range(3, MESSAGES + 1)]
    run.stays[8:] = [Noticed(80, "stays", TOPIC, "reset", None), *again]
    assert run.judge().anomalies == []
    run.stays[8:] = [Noticed(80, "stays", TOPIC, "reset", _id(3)), *again]
    assert run.judge().anomalies == []


def test_an_outcome_that_nobody_knows_is_neither_a_loss_nor_a_surprise() -> None:
    run = Run()
    run.add(13, _answer(13, "info", code="timeout"), _answer(13, "fail", code="refused"))
    run.add(14, _answer(14, "info", status=503, code="store_unavailable", retry_after="1"))
    run.store(14)
    assert run.judge().anomalies == []


def test_an_attempt_that_was_never_answered_may_have_been_stored() -> None:
    run = Run()
    run.add(13, _answer(13, "fail", code="refused"))
    run.sent.append(Sent(140, TOPIC, _content(13)))
    run.store(13)
    assert run.judge().anomalies == []


def test_what_was_sent_before_the_store_was_wiped_may_be_gone() -> None:
    run = Run()
    del run.stored[:6]
    assert run.judge(wipes=[_sent_at(6)]).anomalies == []
    assert run.judge(wipes=[_sent_at(6) - 1]).kinds == {"lost-acked", "phantom"}


def test_a_repetition_whose_key_was_wiped_meanwhile_may_be_stored_again() -> None:
    run = Run()
    run.add(
        13,
        _answer(13, "info", code="reset"),
        Answered(_sent_at(15), TOPIC, _content(13), "ok", _id(14), 1.0, 201),
    )
    run.store(13)
    run.stored.append(Stored(TOPIC, _id(14), _content(13)))
    for name, records in (("stays", run.stays), ("returns", run.returns), ("kept", run.kept)):
        records.append(_received(name, 14, content=_content(13)))
    assert run.judge(wipes=[_sent_at(14)]).anomalies == []
    assert run.judge(wipes=[_sent_at(12)]).kinds == {"store-duplicate"}
    assert run.judge(wipes=[_sent_at(16)]).kinds == {"store-duplicate"}


def test_who_silently_skips_what_was_wiped_is_found() -> None:
    run = Run()
    del run.stored[:6]
    run.stays.remove(_received("stays", 5))
    assert run.judge(wipes=[_sent_at(6)]).kinds == {"gap"}


def test_what_retention_took_may_be_gone() -> None:
    run = Run()
    del run.stored[:6]
    assert run.judge(trimmed={TOPIC: _id(6)}).anomalies == []
    assert "lost-acked" in run.judge(trimmed={TOPIC: _id(5)}).kinds


def test_the_time_until_the_next_acknowledgement_is_told() -> None:
    verdict = Run().judge()
    assert verdict.until_ok(since=_sent_at(3)) == 1.0
    assert verdict.until_ok(since=_sent_at(20)) == float("inf")


def test_the_content_of_a_payload_tells_whether_it_is_whole() -> None:
    payload = payload_of("a", 3, "pad")
    assert Content.of(payload) == Content("a", 3, 0)
    assert Content.of({**payload, "pad": "pat"}).digest != 0
    assert Content.of({**payload, "s": 4}) == Content("a", 4, 0)
    assert Content.of("text").producer == "?"


def test_a_log_is_read_as_it_was_written_also_while_it_grows(tmp_path: Path) -> None:
    reader = LogReader(tmp_path / "log")
    assert list(reader.new()) == []
    with Log(tmp_path / "log") as log:
        for record in (*Run().sent, *Run().answered, *Run().stays, *Run().stored):
            log.write(record)
    assert list(reader.new()) == [*Run().sent, *Run().answered, *Run().stays, *Run().stored]
    with open(tmp_path / "log", "ab") as file:
        file.write(b'{"type":"Sto')
    assert list(reader.new()) == []
    with open(tmp_path / "log", "ab") as file:
        file.write(b'red","topic":"t","message_id":"1-1","content":["a",1,0]}\n')
    assert list(reader.new()) == [Stored("t", "1-1", Content("a", 1, 0))]
