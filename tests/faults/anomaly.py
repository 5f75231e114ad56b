"""A broken promise, as `history.py` finds and names it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Anomaly:
    """One broken promise. `at` is the time of the record that shows it, 0 if none has one."""

    kind: str
    topic: str
    text: str
    who: str = ""
    where: str = ""
    at: float = 0.0

    def __str__(self) -> str:
        words = (self.kind, self.where, self.topic, self.who, self.text)
        return " ".join(word for word in words if word)
