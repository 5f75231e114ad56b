"""Without a fault a run is clean. What else would the faults show?"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.load import Load
from tests.relays import RelayProcess
from tests.valkeys import RealValkey

pytestmark = [pytest.mark.faults, pytest.mark.timeout(90)]


@pytest.mark.parametrize("relays", [1, 2])
def test_a_run_without_fault_is_clean(
    relays: int,
    make_valkey: Callable[..., RealValkey],
    make_relay_on: Callable[..., RelayProcess],
    make_load: Callable[..., Load],
) -> None:
    valkey = make_valkey().start()
    urls = [make_relay_on(valkey).url for _ in range(relays)]
    with make_load(urls, valkey) as load:
        load.wait_for_acks(400)
        verdict = load.finish()
    assert verdict.acknowledged >= 400
    assert verdict.most_attempts == 1
    assert verdict.longest_without_ok < 1
    assert verdict.largest_lag < 1
