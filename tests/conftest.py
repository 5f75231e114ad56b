from __future__ import annotations

from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.valkeys", "tests.workers", "tests.relays", "tests.commands"]

# Examples are not timed: on a busy machine a pause of the whole process would count as a slow example.
settings.register_profile("relay", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("relay")
