"""What somebody wrote as a setting, before anybody judges it; and the refusal of all that cannot be meant."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable
from dataclasses import dataclass


class ConfigError(Exception):
    """The settings cannot be used; `problems` holds a line for each reason, none with a secret in it."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True, slots=True)
class Given:
    """A value as somebody wrote it, and where.

    `origin` is `flag --port`, `environment VALKEY_PORT` or `config.yaml:12`.
    """

    key: str
    text: str = dataclasses.field(repr=False)
    origin: str


def nearest(name: str, known: Iterable[str]) -> str:
    """A question to put behind "no such setting", if any of `known` is spelled much alike."""
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""
