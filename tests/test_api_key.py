"""API keys as values: what they look like, what they open, what they are for."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from pulsar_relay.accounts.api_key import ApiKey, split
from pulsar_relay.errors import RelayError


def made(*topics: str, actions: tuple[str, ...] = ("write",)) -> tuple[ApiKey, str]:
    return ApiKey.make("owner", "a sensor", actions, topics or ("*",), 5)


def test_a_key_keeps_a_digest_of_its_secret_and_not_the_secret() -> None:
    key, text = made()
    parts = split(text)
    assert parts is not None
    key_id, secret = parts
    assert key_id == key.key_id
    assert key.opens_with(secret)
    assert key.digest == hashlib.sha256(secret.encode()).hexdigest()
    assert secret.encode() not in key.encode()
    assert ApiKey.decode(key.encode()) == key
    assert made()[1] != text


@pytest.mark.parametrize("wrong", ["", "x", "A" * 43])
def test_another_secret_does_not_open_it(wrong: str) -> None:
    assert not made()[0].opens_with(wrong)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "prk_",
        "prk_0123456789abcdef_",
        "prk_0123456789abcdef_" + "A" * 42,
        "prk_0123456789abcdef_" + "A" * 44,
        "prk_0123456789abcdeX_" + "A" * 43,
        "prk_0123456789abcdef_" + "A" * 43 + "\n",
        "a.jwt.token",
    ],
)
def test_what_is_no_key_is_not_split(text: str) -> None:
    assert split(text) is None


@pytest.mark.parametrize(
    ("pattern", "owner", "topic", "covers"),
    [
        ("jobs", "owner", "jobs", True),
        ("jobs", "owner", "jobs2", False),
        ("jobs", "other", "jobs", False),
        ("jobs*", "owner", "jobs", True),
        ("jobs*", "owner", "jobs_2", True),
        ("jobs*", "owner", "job", False),
        ("jobs*", "other", "jobs", False),
        ("*", "owner", "anything", True),
        ("*", "other", "anything", False),
        ("other/jobs", "other", "jobs", True),
        ("other/jobs", "owner", "jobs", False),
        ("other/*", "other", "anything", True),
        ("other/*", "others", "anything", False),
        ("owner/jobs", "owner", "jobs", True),
    ],
)
def test_a_pattern_covers_the_topics_it_names(pattern: str, owner: str, topic: str, covers: bool) -> None:
    assert made(pattern)[0].covers(owner, topic) == covers
    assert made("something-else", pattern)[0].covers(owner, topic) == covers


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"name": ""}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"actions": []}, "actions"),
        ({"actions": ["admin"]}, "actions"),
        ({"actions": "read"}, "actions"),
        ({"topics": []}, "topics"),
        ({"topics": "jobs"}, "topics"),
        ({"topics": ["a*b"]}, "topics"),
        ({"topics": ["**"]}, "topics"),
        ({"topics": ["a/b/c"]}, "topics"),
        ({"topics": ["*/jobs"]}, "topics"),
        ({"topics": ["jobs\n"]}, "topics"),
        ({"topics": [7]}, "topics"),
        ({"topics": ["x"] * 51}, "topics"),
        ({"expires_at_ms": 5}, "expires_at"),
    ],
)
def test_a_key_that_means_nothing_is_refused(changes: dict[str, Any], wrong: str) -> None:
    arguments: dict[str, Any] = {"name": "n", "actions": ["read"], "topics": ["*"], "now_ms": 5, **changes}
    with pytest.raises(RelayError) as refused:
        ApiKey.make("owner", **arguments)
    assert [error.loc[-1] for error in refused.value.errors] == [wrong]
