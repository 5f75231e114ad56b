"""How far a connection's request has come, and how long a server that stops still listens to it."""

from __future__ import annotations

from enum import Enum, auto

HEARING_SECONDS = 0.2
"""A stopping server still hears who was answered, or connected, less than this ago: the next request may be
on its way, and a connection that is closed under it leaves its outcome unknown."""


class Stage(Enum):
    AWAITED = auto()
    RECEIVING = auto()
    ANSWERING = auto()
    REFUSED = auto()
    GONE = auto()
    """The connection is closed, or somebody else's."""


def heard_until(stage: Stage, since: float) -> float:
    """Until when a stopping server listens to a connection that was answered or made at `since`, in the
    loop's time; 0 if it has heard.
    """
    return since + HEARING_SECONDS if stage in (Stage.AWAITED, Stage.RECEIVING) else 0.0
