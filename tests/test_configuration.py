from __future__ import annotations

from pulsar_relay.keys import KEYS
from tools import configuration

CURE = "run `make configuration`"


def test_the_shipped_file_is_what_the_table_makes() -> None:
    assert configuration.YAML_PATH.read_text() == configuration.yaml_text(), CURE


def test_the_reference_page_is_what_the_table_makes() -> None:
    assert configuration.MANUAL_PATH.read_text() == configuration.manual_text(), CURE


def test_both_explain_every_key_and_no_line_is_too_long_to_read() -> None:
    for text in (configuration.yaml_text(), configuration.manual_text()):
        words = " ".join(text.replace("#", " ").split())
        for key in KEYS.values():
            assert key.declaration.text in words, key.name
        assert max(map(len, text.splitlines())) <= 110
