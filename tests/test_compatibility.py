"""In the place of pulsar-relay 0.2.1: that the tests exist which `docs/compatibility.md` names, and tests of
those of its defects that no other module has one for.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import valkey as valkey_client

from tests.account_relays import AccountRelay
from tests.account_relays import account_relay as account_relay
from tests.people import Pair, Person, accounts_of
from tests.people import pair as pair
from tests.valkeys import RealValkey

HERE = Path(__file__).parent
GUIDE = (HERE.parent / "docs" / "compatibility.md").read_text()
ROW = re.compile(r"^\| D(\d+) \| (.+) \| (.+) \|$", re.MULTILINE)
TEST = re.compile(r"`(test_\w+\.py)::(test_\w+)`")
DEFECTS = 48


def names_in(file: str) -> Iterator[str]:
    for node in ast.walk(ast.parse((HERE / file).read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield node.name


def test_every_defect_has_its_row() -> None:
    assert [int(number) for number, _, _ in ROW.findall(GUIDE)] == list(range(1, DEFECTS + 1))


@pytest.mark.parametrize(("number", "here"), [(row[0], row[2]) for row in ROW.findall(GUIDE)])
def test_what_shows_that_a_defect_is_none_here_exists(number: str, here: str) -> None:
    named = TEST.findall(here)
    assert named, f"D{number} names no test"
    missing = [f"{file}::{name}" for file, name in named if name not in set(names_in(file))]
    assert not missing


def test_of_a_deleted_user_no_message_is_left(
    account_relay: AccountRelay, relay_valkey: RealValkey, topic: str
) -> None:
    user, admin = account_relay.new_user("read", "write"), account_relay.token()
    token = account_relay.token(user["username"], user["password"])
    body = {"topic": topic, "payload": "theirs"}
    assert account_relay.ask("POST", "/api/v1/messages", token, json=body).status_code == 201
    stream = f"topic:{user['user_id']}/{topic}:stream"
    with valkey_client.Valkey(unix_socket_path=relay_valkey.socket_path) as store:
        assert store.exists(stream) == 1
        assert account_relay.ask("DELETE", f"/auth/users/{user['user_id']}", admin).status_code == 204
        assert store.exists(stream) == 0


def test_the_first_publishes_to_a_topic_may_come_together(pair: Pair, topic: str) -> None:
    person = Person(pair.one)
    with ThreadPoolExecutor(8) as pool:
        for round_ in range(5):
            relays = [pair.one, pair.two] * 4
            sent = [pool.submit(person.at(relay).publish, f"{topic}-{round_}") for relay in relays]
            assert [one.result().status_code for one in sent] == [201] * len(relays)


@pytest.mark.parametrize("changes", [{"is_active": False}, {"permissions": ("read",)}])
def test_a_publish_brings_nothing_back_that_was_taken_from_its_user(
    pair: Pair, topic: str, changes: dict[str, object]
) -> None:
    person = Person(pair.one)
    assert person.at(pair.two).publish(f"{topic}-before").status_code == 201
    person.patch(**changes)
    for relay in pair:
        assert person.at(relay).publish(f"{topic}-after").status_code in (401, 403)
    again = pair.two.wait(accounts_of(pair.two).users.find(person.id))
    for name, value in changes.items():
        assert getattr(again, name) == value
