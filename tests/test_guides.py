"""What stands in docs/: the index leads to all of them, links lead somewhere, and what they say is so."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from benchmarks import footprint
from pulsar_relay.cli import commands as main
from pulsar_relay.errors import ERRORS
from tests.conditions import WAIT_SECONDS
from tests.relays import REPOSITORY, RelayProcess, command, environment
from tools import sizing

INDEX = REPOSITORY / "docs" / "index.md"
DOCUMENTS = sorted(
    [*(REPOSITORY / "docs").glob("*.md"), *REPOSITORY.glob("*.md"), REPOSITORY / "deploy" / "README.md"]
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")

each_document = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY))
)


def prose(document: Path) -> str:
    return FENCE.sub("", document.read_text("utf-8"))


def links(document: Path) -> Iterator[tuple[Path, str]]:
    """Where its links to other files, or within itself, lead: path and anchor."""
    for link in LINK.findall(prose(document)):
        if not re.match(r"\w+:", link):
            path, _, anchor = link.partition("#")
            yield (document.parent / path).resolve() if path else document, anchor


def anchors(document: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", prose(document), re.MULTILINE)
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading).strip().replace(" ", "-") for heading in plain}


def test_whoever_starts_at_the_index_finds_each_document() -> None:
    found, to_read = {INDEX}, [INDEX]
    while to_read:
        for path, _anchor in links(to_read.pop()):
            if path.suffix == ".md" and path.exists() and path not in found:
                found.add(path)
                to_read.append(path)
    assert set(DOCUMENTS) <= found


def test_the_index_leads_to_each_page_of_docs_by_itself() -> None:
    assert {path for path in DOCUMENTS if path.parent == INDEX.parent} <= {
        path for path, _ in links(INDEX)
    } | {INDEX}


@each_document
def test_links_and_anchors_lead_somewhere(document: Path) -> None:
    for path, anchor in links(document):
        assert path.exists(), path
        if anchor and path.suffix == ".md":
            assert anchor in anchors(path), f"{path.name}#{anchor}"


def commands(document: Path) -> Iterator[list[str]]:
    """Each call of `pulsar-relay` in it, in a line for a shell or in the middle of a sentence."""
    text = document.read_text("utf-8")
    fenced = "\n".join(body for kind, body in FENCE.findall(text) if kind in ("sh", "bash"))
    spoken = re.findall(r"`(pulsar-relay [^`]+)`", FENCE.sub("", text))
    lines = fenced.replace("\\\n", " ").splitlines() + spoken
    for line in lines:
        for call in re.findall(r"(?:^|[\s/\"(])pulsar-relay ([^|>)]+)", line):
            # A substitution is one word to the command, whatever is in it.
            words = shlex.split(re.sub(r"\$\(\S*( [^)]*)?", "X", call), comments=True)
            if words and not words[0].isupper() and words[0] != "&&":
                yield words


@each_document
def test_commands_that_it_shows_exist_with_their_options(document: Path) -> None:
    for words in commands(document):
        called: click.Command = main
        context = click.Context(main, info_name="pulsar-relay")
        rest = list(words)
        while isinstance(called, click.Group) and rest and not rest[0].startswith("-"):
            found = called.get_command(context, rest[0])
            assert found is not None, words
            called, rest = found, rest[1:]
        known = {
            option for parameter in called.params for option in (*parameter.opts, *parameter.secondary_opts)
        }
        if called.name != "valkey":
            given = {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
            assert given <= known | {"--help", "-h"}, words


# ------------------------------------------------------------------------------------------ what is answered


@dataclass(frozen=True, slots=True)
class Session:
    """What is typed into a shell, and what it answers."""

    typed: str
    answered: str


def sessions(name: str) -> list[Session]:
    """The blocks for a shell that are followed by a block of plain text: what they print."""
    text = (REPOSITORY / "docs" / name).read_text("utf-8")
    found = re.findall(
        r"^```sh\n((?:(?!```).)*?)^```\n[^`]*?^```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL
    )
    return [Session(*pair) for pair in found]


@pytest.mark.parametrize("session", sessions("sizing.md"), ids=lambda session: session.typed[26:40])
def test_the_sums_in_sizing_follow_from_its_tables(
    session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    python, _, module, *words = shlex.split(session.typed)
    assert (python, module) == ("python", "tools.sizing")
    sizing.main(words)
    assert capsys.readouterr().out == session.answered


# Each of its commands is a Python program to start.
@pytest.mark.timeout(180)
def test_the_crash_drill_of_operations_ends_as_it_says(
    make_relay_process: Callable[..., RelayProcess],
) -> None:
    relay = make_relay_process().start()
    [session] = [session for session in sessions("operations.md") if "kill -9" in session.typed]
    # As installed, whether or not it is.
    program = relay.directory / "bin" / "pulsar-relay"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.join(command())} "$@"\n')
    program.chmod(0o700)
    variables = {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "PULSAR_RELAY_URL": relay.url,
        "RELAY_EMBEDDED_DATA_DIR": str(relay.data_dir),
    }
    done = subprocess.run(
        ["sh", "-e", "-c", session.typed],
        capture_output=True,
        text=True,
        check=False,
        cwd=relay.directory,
        env=environment(variables),
        timeout=2 * WAIT_SECONDS,
    )
    assert done.stdout == session.answered, done.stdout + done.stderr


def test_what_is_measured_for_sizing_is_what_its_tables_have() -> None:
    tables = sizing.measured((REPOSITORY / "docs" / "sizing.md").read_text("utf-8"))
    assert tuple(tables.by_payload) == footprint.MESSAGE_ROWS
    assert all(tuple(size for size, _ in row) == footprint.SIZES for row in tables.by_payload.values())
    assert set(footprint.LABELS.values()) <= tables.single.keys()


@pytest.mark.timeout(180)
def test_messages_take_about_what_sizing_says() -> None:
    tables = sizing.measured((REPOSITORY / "docs" / "sizing.md").read_text("utf-8"))
    memory, one_by_one, together, rewritten, _hot = footprint.messages(1_000, 1, singles=100)
    for value, row in zip((memory, one_by_one, together, rewritten), footprint.MESSAGE_ROWS, strict=False):
        assert value == pytest.approx(tables.of_message(row, 1_000), rel=0.1), row


def test_the_runbook_has_each_code_that_a_publish_can_be_refused_with() -> None:
    text = (REPOSITORY / "docs" / "runbook.md").read_text("utf-8")
    section = text.partition("### Publishes are answered 503")[2].partition("\n### ")[0]
    named = set(re.findall(r"`(\w+)`", section))
    assert {code for code, kind in ERRORS.items() if kind.status == 503} <= named
