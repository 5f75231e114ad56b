from __future__ import annotations

import pytest

from pulsar_relay.device import user_code


def test_a_code_is_two_halves_of_letters_that_cannot_be_mistaken() -> None:
    drawn = {user_code.draw() for _ in range(500)}
    assert len(drawn) == 500
    for code in drawn:
        assert len(code) == 9
        assert code[4] == "-"
        assert set(code.replace("-", "")) <= set("BCDFGHJKLMNPQRSTVWXZ23456789")


def test_a_code_that_was_drawn_is_read_as_itself() -> None:
    code = user_code.draw()
    assert user_code.read(code) == code


@pytest.mark.parametrize(
    "typed",
    ["BCDF-2345", "bcdf-2345", "bcdf2345", " BCDF 2345 ", "BCDF\u20132345", "B C D F 2 3 4 5", "bcdf--2345"],
)
def test_a_code_is_read_however_it_is_typed(typed: str) -> None:
    assert user_code.read(typed) == "BCDF-2345"


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "-",
        "BCDF-234",
        "BCDF-23456",
        "ABCD-2345",
        "BCDF-2340",
        "BCDF-234\u0665",
        "x" * 10_000,
        "BCDF" + "-" * 90,
    ],
)
def test_what_is_no_code_is_none(typed: str) -> None:
    assert user_code.read(typed) is None
