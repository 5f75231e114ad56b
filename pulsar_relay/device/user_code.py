"""User codes: what a device shows and a person types. Pure.

Without vowels, so that no code is a word, and without what looks alike: 28 letters and digits, eight of them,
some 378 thousand million codes.
"""

from __future__ import annotations

import secrets

ALPHABET = "BCDFGHJKLMNPQRSTVWXZ23456789"
HALF = 4
LONGEST = 32
"""Characters looked at of what was typed."""


def draw() -> str:
    letters = "".join(secrets.choice(ALPHABET) for _ in range(2 * HALF))
    return _written(letters)


def read(typed: str) -> str | None:
    """The code as it is written, whatever was typed: in small letters, with other hyphens or spaces, or with
    none. None if it is no code.
    """
    if len(typed) > LONGEST:
        return None
    letters = "".join(character for character in typed if character.isascii() and character.isalnum()).upper()
    if len(letters) != 2 * HALF or not set(letters) <= set(ALPHABET):
        return None
    return _written(letters)


def _written(letters: str) -> str:
    return f"{letters[:HALF]}-{letters[HALF:]}"
