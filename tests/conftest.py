from __future__ import annotations

pytest_plugins = ["tests.valkeys", "tests.workers", "tests.relays", "tests.commands"]
