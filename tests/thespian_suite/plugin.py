"""Runs Thespian's own tests on our system base: wherever a test asks for `simpleSystemBase`, it gets ours.

Loaded with `-p tests.thespian_suite.plugin`, in the controlling process and in each worker of pytest-xdist.
The run fails if a test ran on another base after all, if our base was never made, or if fewer tests passed
than `--at-least-passed` says: a suite that silently ran nothing would look like success.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from thespian.system import simpleSystemBase

from actors.runtime import AsyncioSystemBase

ORIGINAL_BASE = simpleSystemBase.ActorSystemBase
INSTANCES_KEY = "asyncio_system_bases"

# A hundred threads have actors sleep for 70 seconds in all (one after the other, in a base of one thread) and
# give each answer five seconds. On simpleSystemBase that passes because its private contexts ignore their
# timeout. Ours keep it; so in this test, and in no other, a sleep is a tenth as long.
OVERCOMMITTED = "test_multiple_threads_private_context_ask[simpleSystemBase-100]"
QUICKER_TIME = SimpleNamespace(sleep=lambda seconds: time.sleep(seconds / 10))


class CountedBase(AsyncioSystemBase):
    """Thespian compares bases by their class, so the count needs a class, not a function."""

    instances = 0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        type(self).instances += 1
        super().__init__(*arguments, **options)


class Evidence:
    """That our base was used, and by how much."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._instances_elsewhere = 0
        self._passed = 0

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        system = getattr(item, "funcargs", {}).get("asys")
        if system is not None and not isinstance(system._systemBase, AsyncioSystemBase):
            pytest.fail(f"this test runs on {type(system._systemBase)}", pytrace=False)
        with pytest.MonkeyPatch.context() as patch:
            if item.name == OVERCOMMITTED:
                patch.setattr("thespian.test.test_threadedExternal.time", QUICKER_TIME)
            return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self._passed += 1

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        self._instances_elsewhere += getattr(node, "workeroutput", {}).get(INSTANCES_KEY, 0)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if hasattr(self._config, "workeroutput"):
            self._config.workeroutput[INSTANCES_KEY] = CountedBase.instances
        elif self.failings():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        terminalreporter.section("Thespian's suite on AsyncioSystemBase")
        terminalreporter.line(f"system bases made: {self.instances()}; tests passed: {self._passed}")
        for failing in self.failings():
            terminalreporter.line(failing, red=True)

    def instances(self) -> int:
        return CountedBase.instances + self._instances_elsewhere

    def failings(self) -> list[str]:
        failings = []
        if self.instances() == 0:
            failings.append("our system base was never made")
        at_least = self._config.getoption("at_least_passed")
        if self._passed < at_least:
            failings.append(f"only {self._passed} tests passed of the {at_least} expected")
        return failings


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--at-least-passed", type=int, default=1, help="fail unless so many tests passed")


def pytest_configure(config: pytest.Config) -> None:
    simpleSystemBase.ActorSystemBase = CountedBase
    config.pluginmanager.register(Evidence(config), "evidence")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slowest tests stand next to each other, and one worker would run them all: spread them out."""
    slow = [item for item in items if "test_troupe" in item.nodeid]
    if slow:
        rest = [item for item in items if item not in slow]
        for position, item in enumerate(slow):
            rest.insert(position * (len(items) // len(slow)), item)
        items[:] = rest


def pytest_unconfigure() -> None:
    simpleSystemBase.ActorSystemBase = ORIGINAL_BASE
