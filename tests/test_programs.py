"""Programs of Debian packages: what tests ask for is what is installed for them."""

from __future__ import annotations

import re

import pytest

from tests.programs import PACKAGES, program, run
from tests.relays import REPOSITORY


def test_each_package_is_installed_by_the_script() -> None:
    script = (REPOSITORY / "tests" / "system_packages").read_text()
    [listed] = re.findall(r"^packages=\(([^)]*)\)$", script, re.MULTILINE)
    # Which are there or not: nobody installs systemd for a test, and who runs these tests has the others.
    assert set(listed.split()) == set(PACKAGES.values()) - {"systemd", "bash", "make"}


def test_a_program_that_is_absent_skips_with_its_packages_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PACKAGES, "no-such-program", "no-such-package")
    with pytest.raises(pytest.skip.Exception, match="apt-get install no-such-package"):
        program("no-such-program")


def test_a_program_that_fails_fails_the_test_with_what_it_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PACKAGES, "sh", "dash")
    assert run("sh", "-c", "echo fine") == "fine\n"
    with pytest.raises(AssertionError, match="broken"):
        run("sh", "-c", "echo broken >&2; exit 3")
