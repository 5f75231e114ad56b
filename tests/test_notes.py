from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pulsar_relay.keys import KEYS
from pulsar_relay.settings import Settings
from pulsar_relay.store.probe import Leg
from pulsar_relay.supervision.notes import (
    Answered,
    Asked,
    Begin,
    Collect,
    Contributed,
    CrewStanding,
    FromWorker,
    MetricsText,
    Ready,
    Refused,
    Reload,
    ToWorker,
    decode_from_worker,
    decode_to_worker,
    encode,
)
from pulsar_relay.supervision.parts import (
    CrewReadiness,
    Family,
    Holdings,
    Metered,
    Question,
    Readiness,
    Waiting,
    What,
    WorkerReadiness,
)
from tests.workers import make_settings

QUESTION = Question(What.HOLDINGS, "topic")
READINESS = Readiness((Leg("feed", None, 0.5), Leg("delivery", "not_delivered", None)), accepts=True)
SETTINGS = make_settings(valkey={"unix_socket": Path("/run/valkey"), "password": "pass word"})


def begin(settings: Settings) -> Begin:
    return Begin("1.0", 3, settings, "/run/socket", Path("/data/identity"), "store", [7, 8], [9])


@pytest.mark.parametrize(
    "note",
    [
        begin(SETTINGS),
        Begin("1.0", 0, Settings(), None, None, None, [7], []),
        Reload(SETTINGS),
        Collect(1, QUESTION),
        Answered(1, MetricsText(b"\xff text")),
        Answered(2, CrewStanding(CrewReadiness([WorkerReadiness(0, True, READINESS)]))),
        Answered(3, Waiting(2, {"a": 2})),
        Answered(4, Holdings(1, 2, 3, 4)),
    ],
    ids=lambda note: type(note).__name__,
)
def test_what_a_worker_is_told_arrives_as_it_was(note: ToWorker) -> None:
    assert decode_to_worker(encode(note)) == note


@pytest.mark.parametrize(
    "note",
    [
        Ready(),
        Refused(["one", "two"]),
        Asked(1, QUESTION),
        Contributed(1, READINESS, None),
        Contributed(2, Metered([Family("x", "about", "counter", [("x_total", {"a": "b"}, 1.5)])]), "store"),
        Contributed(3, Waiting(), None),
        Contributed(4, Holdings(), None),
    ],
    ids=lambda note: type(note).__name__,
)
def test_what_a_worker_says_arrives_as_it_was(note: FromWorker) -> None:
    assert decode_from_worker(encode(note)) == note


@pytest.mark.parametrize("key", KEYS.values(), ids=lambda key: key.name)
def test_each_setting_arrives_with_its_value_and_type(key: Any) -> None:
    settings = Settings()
    section = getattr(settings, key.section)
    for text in ("1MiB", "7", "2s", "true", "./some/path", "debug", "json", "disk", "a:1"):
        try:
            value = key.parse(text)
        except ValueError:
            continue
        changed = dataclasses.replace(section, **{key.attribute: value})
        sent = dataclasses.replace(settings, **{key.section: changed})
        note = decode_to_worker(encode(begin(sent)))
        assert isinstance(note, Begin)
        arrived = key.value_in(note.settings)
        assert arrived == value and type(arrived) is type(value)


def test_a_note_of_another_version_is_refused() -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_to_worker(msgspec.msgpack.encode({"type": "Sing"}))
    with pytest.raises(msgspec.DecodeError):
        decode_from_worker(b"\xc1")
