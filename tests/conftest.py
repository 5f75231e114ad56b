from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings

pytest_plugins = [
    "tests.valkeys",
    "tests.sentinels",
    "tests.clusters",
    "tests.workers",
    "tests.relays",
    "tests.commands",
    "tests.predecessors",
    "tests.faults.disks",
    "tests.faults.preload",
    "tests.faults.proxy",
]

# Examples are not timed: on a busy machine a pause of the whole process would count as a slow example.
settings.register_profile("relay", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("relay")

# A shell starts what it runs in the background with SIGINT ignored, and ignored it stays in every process
# below, where tests mean it as Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
