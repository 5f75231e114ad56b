"""The secrets of refresh tokens, which can be told again and tell their number."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulsar_relay.accounts.refresh_secrets import RefreshSecrets, digest
from tests.accounts import SECRET

OTHER = "another secret for tests, of 32 bytes"
ours = RefreshSecrets([SECRET])


@given(st.uuids(version=4), st.integers(0, 2**32 - 1))
def test_a_secret_is_always_the_same_and_tells_its_number(jti: object, number: int) -> None:
    made = ours.make(str(jti), number)
    assert len(made) == 43
    assert made == ours.make(str(jti), number)
    assert ours.number_of(str(jti), made) == number
    assert ours.again(str(jti), number, digest(made)) == made


def test_no_two_are_the_same() -> None:
    made = {
        secrets.make(jti, n) for secrets in (ours, RefreshSecrets([OTHER])) for jti in "ab" for n in range(9)
    }
    assert len(made) == 36


@given(st.text(max_size=60) | st.binary(min_size=32, max_size=32).map(lambda data: str(data, "latin-1")))
def test_what_was_not_made_here_has_no_number(text: str) -> None:
    assert ours.number_of("jti", text) is None


def test_a_changed_character_is_noticed_wherever_it_is() -> None:
    made = ours.make("jti", 7)
    for at in range(42):
        changed = made[:at] + ("A" if made[at] != "A" else "B") + made[at + 1 :]
        assert ours.number_of("jti", changed) is None
    assert ours.number_of("another", made) is None
    assert base64.urlsafe_b64decode(made + "=")[:4] == bytes([0, 0, 0, 7])


def test_of_several_secrets_the_first_makes_and_all_know() -> None:
    between = RefreshSecrets([OTHER, SECRET])
    made = ours.make("jti", 3)
    assert between.number_of("jti", made) == 3
    assert between.again("jti", 3, digest(made)) == made
    assert between.make("jti", 3) == RefreshSecrets([OTHER]).make("jti", 3)
    assert ours.number_of("jti", between.make("jti", 3)) is None
    assert ours.again("jti", 3, digest(between.make("jti", 3))) is None


@pytest.mark.parametrize("text", ["", "\ud800" * 43, "A" * 43, "=" * 43, "A" * 42 + "\n"])
def test_nonsense_has_a_digest_and_no_number(text: str) -> None:
    assert len(digest(text)) == 64
    assert ours.number_of("jti", text) is None
