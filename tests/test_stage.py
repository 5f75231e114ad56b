"""How long a server that stops still listens to a connection."""

from __future__ import annotations

import pytest

from pulsar_relay.web.stage import HEARING_SECONDS, Stage, heard_until


@pytest.mark.parametrize("stage", [Stage.AWAITED, Stage.RECEIVING])
def test_who_may_be_asking_is_heard_for_a_moment(stage: Stage) -> None:
    assert heard_until(stage, 100.0) == 100.0 + HEARING_SECONDS


@pytest.mark.parametrize("stage", [Stage.ANSWERING, Stage.REFUSED, Stage.GONE])
def test_who_has_asked_is_not_waited_for_so(stage: Stage) -> None:
    assert heard_until(stage, 100.0) == 0.0
