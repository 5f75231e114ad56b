from __future__ import annotations

import dataclasses
import re
from collections import Counter
from pathlib import Path

import pytest

from pulsar_relay.keys import KEYS, SECTIONS, Key, make_settings
from pulsar_relay.settings import Settings

ALL_KEYS = pytest.mark.parametrize("key", list(KEYS.values()), ids=list(KEYS))


def test_no_two_keys_share_an_environment_variable_or_a_flag() -> None:
    variables = Counter(variable for key in KEYS.values() for variable in key.environment)
    flags = Counter(key.declaration.flag for key in KEYS.values() if key.declaration.flag)
    assert max(variables.values()) == 1
    assert max(flags.values()) == 1
    assert "RELAY_CONFIG" not in variables


def test_every_field_of_every_section_is_a_key() -> None:
    defaults = Settings()
    fields = [
        (section.name, field.name)
        for section in dataclasses.fields(Settings)
        for field in dataclasses.fields(getattr(defaults, section.name))
    ]
    assert [(key.section, key.attribute) for key in KEYS.values()] == fields
    assert list(SECTIONS) == [section.name for section in dataclasses.fields(Settings)]


@ALL_KEYS
def test_a_default_is_within_its_own_bounds_and_reads_back(key: Key) -> None:
    value = key.value_in(Settings())
    assert key.parse(key.show(value)) == value
    assert type(key.parse(key.show(value))) is type(value)


@ALL_KEYS
def test_null_is_taken_exactly_where_it_is_explained(key: Key) -> None:
    if key.declaration.null:
        assert key.parse("null") is None
    elif isinstance(key.default, str) and key.name.endswith("host"):
        assert key.parse("null") == "null"
    elif isinstance(key.default, Path):
        assert key.parse("null") == Path("null")
    else:
        with pytest.raises(ValueError, match=r".+"):
            key.parse("null")


@ALL_KEYS
def test_an_empty_text_is_never_a_value(key: Key) -> None:
    with pytest.raises(ValueError, match="is empty"):
        key.parse("")


@ALL_KEYS
def test_an_attribute_carries_its_unit_and_a_key_of_a_duration_does_not(key: Key) -> None:
    kind = type(key.declaration.kind).__name__
    assert key.attribute.endswith("_seconds") == (kind == "Duration")
    assert key.attribute.endswith("_bytes") == (kind == "Size")
    assert not key.name.endswith("_seconds")


@ALL_KEYS
def test_every_key_is_explained_in_a_sentence(key: Key) -> None:
    assert re.fullmatch(r"[A-Z`].*\.", key.declaration.text)


def test_values_land_in_their_sections_and_nothing_else_changes() -> None:
    settings = make_settings({"server.port": 1, "hot_buffer.max_age": 2.0})
    assert (settings.server.port, settings.hot_buffer.max_age_seconds) == (1, 2.0)
    assert (
        dataclasses.replace(settings, server=Settings().server, hot_buffer=Settings().hot_buffer)
        == Settings()
    )


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().server.port = 1  # type: ignore[misc]


def test_a_password_is_not_in_the_text_form_of_the_settings() -> None:
    assert "hunter2" not in repr(make_settings({"valkey.host": "h", "valkey.password": "hunter2"}))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_addresses_are_not_beyond_loopback(host: str) -> None:
    assert make_settings({"server.host": host, "server.metrics_host": host}).server.beyond_loopback == ()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "relay.example.org", "localhost.example.org"])
def test_other_addresses_and_names_are_beyond_loopback(host: str) -> None:
    assert make_settings({"server.host": host}).server.beyond_loopback == ("server.host",)
    assert make_settings({"server.metrics_host": host}).server.beyond_loopback == ("server.metrics_host",)


def test_the_metrics_address_does_not_count_when_there_is_no_metrics_port() -> None:
    settings = make_settings({"server.metrics_host": "0.0.0.0", "server.metrics_port": None})
    assert settings.server.beyond_loopback == ()
