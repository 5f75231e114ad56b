"""Who may do what: the whole table, and what a denial tells."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulsar_relay.accounts.access import NOTHING, Grant, may, refusal
from pulsar_relay.accounts.api_key import ApiKey
from pulsar_relay.accounts.principal import Principal
from pulsar_relay.errors import ERRORS, RelayError
from tests.accounts import SECRET
from tests.test_access_tokens import NOW, ours
from tests.test_user import somebody

ACTIONS = ("read", "write")
SETS = [frozenset[str](), frozenset({"read"}), frozenset({"write"}), frozenset(ACTIONS)]


def signed_in(user_id: str, *permissions: str) -> Principal:
    user = somebody(user_id=user_id, permissions=permissions)
    return Principal.of_token(user, ours(NOW, SECRET).issue(user))


def with_key(user_id: str, permissions: frozenset[str], actions: tuple[str, ...], *topics: str) -> Principal:
    user = somebody(user_id=user_id, permissions=tuple(permissions))
    return Principal.of_key(user, ApiKey.make(user_id, "k", actions, topics, 0)[0])


def grants() -> Iterator[Grant]:
    for public, everybody, user in itertools.product(SETS, repeat=3):
        yield Grant(public, everybody, {"friend": user} if user else {})


def test_the_whole_table_of_those_who_have_signed_in() -> None:
    cases = 0
    for grant, action, user_id, permissions in itertools.product(
        grants(), ACTIONS, ("owner", "friend", "stranger"), [*SETS, frozenset({"admin"})]
    ):
        principal = signed_in(user_id, *permissions)
        allowed_to_user = (
            user_id == "owner"
            or action in grant.signed_in
            or (user_id == "friend" and action in grant.users.get("friend", ()))
        )
        expected = action in grant.public or (action in permissions and allowed_to_user)
        assert may(principal, action, "owner", "t", grant) == expected
        cases += 1
    assert cases == 64 * 2 * 3 * 5


def test_the_whole_table_of_those_who_have_not() -> None:
    for grant, action in itertools.product(grants(), ACTIONS):
        expected = None if action in grant.public else "unauthenticated"
        assert refusal(None, action, "owner", "t", grant) == expected


def test_the_whole_table_of_keys() -> None:
    for grant, action, user_id, permissions, actions, topic in itertools.product(
        grants(),
        ACTIONS,
        ("owner", "friend"),
        SETS,
        SETS[1:],
        ("t", "t*", "*", "other", "owner/t", "owner/*"),
    ):
        key = with_key(user_id, permissions, tuple(actions), topic)
        is_covered = topic != "other" and (user_id == "owner" or topic.startswith("owner/"))
        as_the_user = may(signed_in(user_id, *permissions), action, "owner", "t", grant)
        # A key is never for more than its user may, nor for more than it is for.
        assert may(key, action, "owner", "t", grant) == (is_covered and action in actions and as_the_user)


def test_an_admin_neither_reads_nor_writes_by_being_one() -> None:
    admin = signed_in("admin", "admin")
    for action in ACTIONS:
        assert refusal(admin, action, "admin", "own", NOTHING) == "permission_required"
        assert not may(signed_in("admin", "admin", "read", "write"), action, "owner", "t", NOTHING)


names = st.text("abcdefgh-_", min_size=1, max_size=8)


@given(st.sampled_from(ACTIONS), names, names, st.frozensets(st.sampled_from(("admin", *ACTIONS))))
def test_a_denial_is_the_same_for_a_topic_that_does_not_exist(
    action: str, owner: str, topic: str, permissions: frozenset[str]
) -> None:
    """What is granted to others does not show in it."""
    stranger = signed_in("stranger", *permissions)
    others = Grant(users={"friend": frozenset(ACTIONS)})
    there = refusal(stranger, action, owner, topic, others)
    not_there = refusal(stranger, action, f"no-{owner}", topic, NOTHING)
    if owner != "stranger":
        assert there == not_there
        assert there in {"permission_required", "topic_not_found"}


@pytest.mark.parametrize(
    "grant", [NOTHING, Grant(frozenset({"read"}), frozenset(), {"u": frozenset({"write"})})]
)
def test_a_grant_is_read_as_it_was_written(grant: Grant) -> None:
    assert Grant.decode(grant.encode()) == grant


def test_every_refusal_is_an_error_that_can_be_told() -> None:
    for code in ("key_out_of_scope", "unauthenticated", "permission_required", "topic_not_found"):
        assert ERRORS[code].status in (401, 403, 404)


def test_a_principal_has_what_its_user_has_and_its_key_is_for() -> None:
    user = somebody(permissions=("admin", "read", "write"))
    key = ApiKey.make("u", "k", ["write"], ["*"], 0, 9000)[0]
    principal = Principal.of_key(user, key)
    principal.require("write")
    for missing in ("admin", "read"):
        with pytest.raises(RelayError, match=f"Permission '{missing}' required"):
            principal.require(missing)
    assert principal.expires_at == 9.0
    assert signed_in("u").expires_at == NOW + 600
