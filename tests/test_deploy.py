"""What stands in deploy/ and around it names settings, variables, alerts and pages that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pulsar_relay.keys import KEYS
from pulsar_relay.settings import Settings
from tests.relays import REPOSITORY

WRITTEN = [path for path in sorted((REPOSITORY / "deploy").rglob("*")) if path.is_file()]
FILES = [
    *(REPOSITORY / name for name in ("Dockerfile", "docker-compose.yml", "docs/metrics.md")),
    *(path for path in WRITTEN if path.suffix != ".json"),
]
SECTIONS = "|".join(Settings.__dataclass_fields__)
VARIABLES = {name for key in KEYS.values() for name in key.environment} | {"RELAY_CONFIG"}

each_file = pytest.mark.parametrize("file", FILES, ids=lambda path: str(path.relative_to(REPOSITORY)))


@each_file
def test_settings_and_variables_that_a_file_names_exist(file: Path) -> None:
    text = file.read_text("utf-8")
    assert set(re.findall(rf"(?<![-\w./])(?:{SECTIONS})\.(?!service)[a-z_]+\b(?![.(])", text)) <= KEYS.keys()
    assert set(re.findall(r"\b(?:RELAY|VALKEY)_[A-Z_]+\b", text)) <= VARIABLES


@each_file
def test_pages_and_files_that_a_file_leads_to_exist(file: Path) -> None:
    text = file.read_text("utf-8")
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (file.parent / link).exists(), link
    for name in re.findall(r"\b(?:docs|deploy)/[\w./-]+\.\w+", text):
        assert (REPOSITORY / name).exists(), name
