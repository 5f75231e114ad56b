"""docs/quickstart.md, read as its first lines say: pairs of commands, and what comes out.

A fenced block `sh` (or `crontab`) is commands, `text` is what they show. Of two blocks of commands side by
side the first is for docker.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tests.relays import REPOSITORY

DOCUMENT = REPOSITORY / "docs/quickstart.md"
COMMANDS = ("sh", "crontab")
ANY = "…"


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block under the heading `section`; `first` and `last` are the lines of its fences."""

    kind: str
    text: str
    section: str
    first: int
    last: int

    @property
    def lines(self) -> list[str]:
        """Its commands; those that go on over several lines are joined."""
        return self.text.replace("\\\n", " ").splitlines()

    @property
    def is_for_docker(self) -> bool:
        return any(re.search(r"\bdocker\b", line) for line in self.lines)


@dataclass(frozen=True, slots=True)
class Step:
    """What a reader does at once: one block of commands, or one of a pair."""

    docker: Block | None
    plain: Block
    shown: str | None

    @property
    def place(self) -> str:
        return f"docs/quickstart.md:{self.plain.first}"


def read(ports: Mapping[int, int] | None = None) -> str:
    """The document, with other ports where these are taken."""
    text = DOCUMENT.read_text("utf-8")
    for documented, real in (ports or {}).items():
        text = re.sub(rf"\b{documented}\b", str(real), text)
    return text


def headings(text: str) -> list[str]:
    """With their marks: `## Troubleshooting`."""
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"^#+ .*$", outside, re.MULTILINE)


def blocks(text: str) -> Iterator[Block]:
    section, kind, first = "", None, 0
    content: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```") and kind is None:
            kind, first, content = line[3:], number, []
        elif line == "```" and kind is not None:
            yield Block(kind, "".join(content), section, first, number)
            kind = None
        elif kind is not None:
            content.append(line + "\n")
        elif line.startswith("#"):
            section = line.lstrip("# ")


def steps(text: str) -> list[Step]:
    """Fails where a block for docker has no other beside it."""
    found: list[Step] = []
    docker: Block | None = None
    for block in [*blocks(text), None]:
        if docker is not None:
            beside = block is not None and block.first == docker.last + 2 and block.kind == docker.kind
            alone = f"docs/quickstart.md:{docker.first}: nothing beside it for those without docker"
            assert beside and not block.is_for_docker, alone
        if block is None:
            break
        if block.kind in COMMANDS and block.is_for_docker:
            docker = block
        elif block.kind in COMMANDS:
            found.append(Step(docker, block, None))
            docker = None
        elif block.kind == "text":
            assert found[-1].shown is None, f"docs/quickstart.md:{block.first}: shown by no command"
            found[-1] = Step(found[-1].docker, found[-1].plain, block.text)
    return found


def shows(text: str, expected: str) -> bool:
    """Whether a terminal's `text` is what is expected. A line that is `…` is any number of lines."""
    lines = (line.strip() for line in expected.splitlines())
    pattern = "".join(
        r"(?:.*\n)*?" if line == ANY else re.escape(line).replace(ANY, ".*") + r"\n" for line in lines
    )
    return re.fullmatch(pattern, text) is not None
