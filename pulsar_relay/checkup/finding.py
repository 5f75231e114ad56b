"""Finding: one thing that was looked at, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Severity(Enum):
    """`PROBLEM`: messages, or the relay's service, are at risk. `ADVICE`: will be some day, or under load."""

    OK = "ok"
    UNSEEN = "unseen"
    ADVICE = "advice"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """`about` names the check. `cure` is empty where there is nothing to do."""

    about: str
    severity: Severity
    text: str
    cure: str = ""


def ok(about: str, text: str) -> Finding:
    return Finding(about, Severity.OK, text)


def unseen(about: str, text: str, cure: str = "") -> Finding:
    return Finding(about, Severity.UNSEEN, text, cure)


def advice(about: str, text: str, cure: str) -> Finding:
    return Finding(about, Severity.ADVICE, text, cure)


def problem(about: str, text: str, cure: str) -> Finding:
    return Finding(about, Severity.PROBLEM, text, cure)
