from __future__ import annotations

import pytest

from pulsar_relay.store import schema
from pulsar_relay.store.slots import SLOTS, SlotMap, slot_of, slot_of_command, tag_of

HERE, THERE = ("10.0.0.1", 6379), ("10.0.0.2", 6379)


def test_a_topics_keys_and_channel_share_the_slot_of_its_stream() -> None:
    slot = slot_of(schema.stream("jobs"))
    own = [schema.meta("jobs"), schema.batch("jobs", "a"), schema.idempotency("jobs", "s:k")]
    assert {slot_of(key) for key in (*own, schema.staging("jobs"), schema.feed("jobs"))} == {slot}


def test_slots_are_those_of_valkey() -> None:
    # As CLUSTER KEYSLOT says.
    assert (slot_of("123456789"), slot_of(b"foo{bar}baz"), slot_of("{}x")) == (12739, 5061, slot_of("{}x"))
    assert slot_of("foo{bar}baz") == slot_of("bar")


@pytest.mark.parametrize("slot", [0, 1, 256, 8191, SLOTS - 1])
def test_a_tag_takes_a_key_to_its_slot(slot: int) -> None:
    assert slot_of(schema.mark(tag_of(slot))) == slot


def test_a_command_has_the_slot_of_its_key() -> None:
    assert slot_of_command(("GET", "a")) == slot_of("a")
    assert slot_of_command(("EVALSHA", "sha", 2, "{a}x", "{a}y", "b")) == slot_of("a")
    assert slot_of_command(("EVALSHA", "sha", 0, "a")) is None
    assert slot_of_command(("SPUBLISH", b"a", "text")) == slot_of("a")
    assert slot_of_command(("INFO", "memory")) is None


def test_a_map_tells_owners_and_can_be_corrected() -> None:
    ranges = [[0, 99, [b"10.0.0.1", 6379, b"id"]], [100, SLOTS - 2, [b"10.0.0.2", 6379, b"id"], [b"r", 1]]]
    slots = SlotMap.of(ranges, 7, HERE)
    assert (slots.owner(99), slots.owner(100), slots.owner(SLOTS - 1)) == (HERE, THERE, None)
    assert slots.primaries == [HERE, THERE]
    assert not slots.is_whole
    slots.move(SLOTS - 1, HERE)
    assert slots.is_whole
    for slot in range(100):
        slots.move(slot, THERE)
    assert slots.primaries == [THERE, HERE]
    assert slots.owned(HERE, range(0, SLOTS, 256)) == []


def test_a_node_without_a_name_goes_by_the_one_it_was_asked_under() -> None:
    slots = SlotMap.of([[0, SLOTS - 1, [b"", 7000, b"id"]]], 1, ("relay.example", 6379))
    assert slots.primaries == [("relay.example", 7000)]
