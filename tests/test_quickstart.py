"""docs/quickstart.md is true: its commands, typed into a terminal top to bottom, show what it says."""

from __future__ import annotations

import re
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from pulsar_relay.keys import KEYS
from tests import programs
from tests.quick_start import DOCUMENT, Step, blocks, headings, read, shows, steps
from tests.readers import STEP_SECONDS, Project, Reader
from tests.relays import REPOSITORY
from tests.terminals import Terminal
from tests.test_compose import SERVICES

STEPS = steps(read())
DOCKER = [step for step in STEPS if step.docker]

# What a quick start for operators has to have, in this order.
HEADINGS = """\
# Quick start
## Architecture overview
## Option 1: Docker Compose (recommended)
### Start the stack
### Verify Valkey persistence
### Test the system
## Option 2: Manual setup
### 1. Start Valkey with persistence
### 2. Build and run the relay
## Understanding Valkey persistence
### AOF (append-only file)
### RDB (snapshots)
### Recovery testing
## Monitoring persistence
### Key metrics to watch
### Prometheus metrics
### Grafana dashboards
## Message retention & cleanup
### Automatic stream trimming
### Configuration
## Backup & recovery
### Manual backup
### Automated backups
### Restore from backup
## Performance tuning
### Valkey configuration
### Application configuration
## Troubleshooting
### Valkey won't start
### Messages not persisting
### High memory usage
### Slow performance
## Next steps
"""

OPTION_1 = ("Start the stack",)
OPTION_2 = ("1. Start Valkey with persistence", "2. Build and run the relay")
NEEDED = ("bash", "make", "curl", "ss")


@pytest.fixture
def project() -> Iterator[Project]:
    # Not pytest's own directory: its path is too long for a socket, and the document says where that is.
    with tempfile.TemporaryDirectory(prefix="quickstart-") as directory:
        yield Project(Path(directory) / "pulsar-relay")


@pytest.fixture
def reader(project: Project) -> Iterator[Reader]:
    for name in NEEDED:
        programs.program(name)
    with ExitStack() as stack:
        yield Reader(project, lambda: stack.enter_context(Terminal(project.directory, project.variables)))


def route(found: list[Step], option: tuple[str, ...]) -> list[Step]:
    """How one gets through the document with one of the options."""
    ways = OPTION_1 + OPTION_2
    first = [step for step in found if step.plain.section in option]
    return first + [step for step in found if step.plain.section not in ways]


@pytest.mark.timeout(10 * STEP_SECONDS)
def test_all_of_it_works_with_the_relays_own_valkey(reader: Reader, project: Project) -> None:
    for step in route(steps(read(project.ports)), OPTION_1):
        reader.take(step)


@pytest.mark.system
@pytest.mark.timeout(10 * STEP_SECONDS)
def test_all_of_it_works_with_a_valkey_that_was_started_by_hand(reader: Reader, project: Project) -> None:
    for step in route(steps(read(project.ports)), OPTION_2):
        reader.take(step)


def test_every_command_is_walked_through() -> None:
    walked = route(STEPS, OPTION_1) + route(STEPS, OPTION_2)
    assert {step.place for step in walked} == {step.place for step in STEPS}
    assert {block.kind for block in blocks(read())} == {"", "sh", "crontab", "text", "conf", "yaml"}


@pytest.mark.parametrize(
    ("text", "expected", "is_as_expected"),
    [
        ("(integer) 1\n", "(integer) 1\n", True),
        ("(integer) 10\n", "(integer) 1\n", False),
        ("a\n(integer) 1\n", "(integer) 1\n", False),
        ("(integer) 1\nError\n", "(integer) 1\n", False),
        ("a\nb\nx:7\n", "…\nx:…\n", True),
        ("x:7\n", "…\nx:…\n…\n", True),
        ("y:7\n", "…\nx:…\n…\n", False),
    ],
)
def test_what_is_shown_is_compared_line_by_line(text: str, expected: str, is_as_expected: bool) -> None:
    assert shows(text, expected) is is_as_expected


@pytest.mark.parametrize(
    "alone",
    [
        "```sh\ndocker ps\n```\n",
        "```sh\ndocker ps\n```\n\nOr:\n\n```sh\nps\n```\n",
        "```sh\ndocker ps\n```\n\n```sh\nsudo docker ps\n```\n",
        "```sh\ndocker ps\n```\n\n```text\nps\n```\n",
    ],
)
def test_a_docker_command_without_another_beside_it_is_noticed(alone: str) -> None:
    with pytest.raises(AssertionError, match=r"quickstart.md:1: nothing beside it"):
        steps(alone)


def test_it_has_every_section() -> None:
    assert headings(read()) == HEADINGS.splitlines()


@pytest.mark.system
def test_debians_client_finds_the_embedded_valkey_where_it_says(reader: Reader, project: Project) -> None:
    first = steps(read(project.ports))[0]
    reader.take(first)
    (command,) = re.findall(r"`(redis-cli [^`]+)`", read())
    programs.program("redis-cli")
    reader.take(replace(first, plain=replace(first.plain, text=command), shown="PONG"))


# ------------------------------------------------------------------------------------------- with docker


COMPOSE = {
    "up": {"-d", "--wait"},
    "ps": set(),
    "logs": {"--tail"},
    "exec": {"-T"},
    "run": {"--rm"},
    "restart": set(),
    "kill": set(),
    "cp": set(),
}
"""What is used of `docker compose`, and the options, all of which its reference has."""
WITH_A_VALUE = {"--tail"}
ELSEWHERE = (
    (r"docker compose exec relay (?=pulsar-relay )", "", "backups"),
    (r"docker compose exec valkey valkey-cli ", "pulsar-relay valkey ", ""),
    (r"docker compose exec valkey ", "", "data/valkey"),
)
"""What is to be asked without docker, and what the container's /data is there."""


def compose_commands() -> Iterator[tuple[str, list[str]]]:
    """Each with where it stands: its words after `docker compose`."""
    for step in DOCKER:
        assert step.docker is not None
        for line in step.docker.lines:
            for command in re.split(r"\||&&", line.replace("\\%", "%")):
                if "docker compose " in command:
                    words = shlex.split(command.partition("docker compose ")[2])
                    yield f"docs/quickstart.md:{step.docker.first}", words


def split_options(words: list[str]) -> tuple[set[str], list[str]]:
    """The options before the first word that is none, and what follows."""
    options = set()
    rest = list(words)
    while rest and rest[0].startswith("-"):
        options.add(rest[0])
        rest = rest[2 if rest[0] in WITH_A_VALUE else 1 :]
    return options, rest


@pytest.mark.parametrize(("place", "words"), list(compose_commands()))
def test_a_docker_command_names_what_the_stack_has(place: str, words: list[str]) -> None:
    options, rest = split_options(words[1:])
    assert options <= COMPOSE[words[0]], place
    if words[0] == "cp":
        # Of source and target one is in a container.
        (inside,) = (word for word in rest if ":" in word)
        rest = list(inside.partition(":")[::2])
    if words[0] not in ("up", "ps", "logs") or rest:
        volumes = SERVICES[rest[0]]["volumes"]
        needs_data = any(word.startswith("/data") for word in rest[1:])
        assert not needs_data or any(volume.endswith(":/data") for volume in volumes), place


@pytest.mark.parametrize("step", DOCKER, ids=lambda step: step.place)
def test_without_docker_the_same_is_asked(step: Step) -> None:
    assert step.docker is not None
    for line in step.docker.lines:
        for pattern, instead, data in ELSEWHERE:
            same, count = re.subn(f"^{pattern}", instead, line)
            if count:
                assert same.replace("/data", data) in step.plain.text, line
                break


def test_the_valkey_of_docker_run_is_the_stacks() -> None:
    (run,) = (line for step in DOCKER for line in step.docker.lines if line.startswith("docker run "))
    valkey = SERVICES["valkey"]
    # This one is reached from the same machine only, and so has no password.
    command, _, _ = " ".join(valkey["command"]).partition(" --requirepass ")
    assert re.sub(r"\s{2,}", "  ", run).endswith(f" {valkey['image']}  {command}")
    for option in (f"-p {valkey['ports'][0]}", "valkey.conf:/etc/valkey/valkey.conf:ro", ":/data"):
        assert option in run
    assert "./valkey.conf:/etc/valkey/valkey.conf:ro" in valkey["volumes"]


# ------------------------------------------------------------------------------------- files and addresses


def test_what_it_shows_of_files_stands_in_them() -> None:
    shipped = (REPOSITORY / "valkey.conf").read_text("utf-8").splitlines()
    config = yaml.safe_load((REPOSITORY / "config.yaml").read_text("utf-8"))
    for block in blocks(read()):
        if block.kind == "conf":
            assert set(block.lines) <= set(shipped), block
        elif block.kind == "yaml":
            for section, values in yaml.safe_load(block.text).items():
                assert values.items() <= config[section].items(), block


def test_variables_and_flags_are_those_of_settings() -> None:
    variables = {name for key in KEYS.values() for name in key.environment}
    assert set(re.findall(r"\b(?:RELAY|VALKEY)_[A-Z_]+", read())) <= variables
    named = re.findall(r"`((?:storage|embedded|valkey|server)\.\w+)`", read())
    assert named and set(named) <= {*KEYS, "valkey.conf"}


def anchor_of(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lstrip("# ").lower()).replace(" ", "-")


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", read()):
        name, _, anchor = target.partition("#")
        if not name.startswith("https://"):
            path = (DOCUMENT.parent / name) if name else DOCUMENT
            assert path.exists(), target
            if anchor:
                made = [
                    re.sub(r"[^\w\- ]", "", h.lstrip("# ").lower()).replace(" ", "-")
                    for h in headings(path.read_text("utf-8"))
                ]
                assert anchor in made, target


def test_addresses_are_those_of_the_stack() -> None:
    open_ports = {port.split(":")[1] for service in SERVICES.values() for port in service.get("ports", ())}
    assert set(re.findall(r"localhost:(\d+)", read())) <= open_ports
