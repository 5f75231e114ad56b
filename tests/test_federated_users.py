"""Which user somebody is whom a provider vouches for, over a real Valkey."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pulsar_relay.accounts.user import FederatedIdentity, NewUser, User, UserPatch
from pulsar_relay.accounts.users import Users
from pulsar_relay.errors import RelayError
from pulsar_relay.identity_providers import IdentityProvider, IdentityProviders
from pulsar_relay.oidc.federated_users import FederatedUsers, username_candidates
from pulsar_relay.oidc.provider import Provider
from pulsar_relay.oidc.provider_calls import ProviderCalls
from pulsar_relay.oidc.relying_party import Person
from tests.accounts import cheap_passwords, nothing, now_ms
from tests.stores import Where, in_loop, open_store


def configured(name: str = "campus", **fields: str) -> IdentityProvider:
    given = {"display_name": "Campus", "client_id": "relay", "client_secret": "secret", **fields}
    addresses = ("authorization_endpoint", "token_endpoint", "jwks_uri")
    given |= {address: f"https://{name}.example/{address}" for address in addresses}
    (settings,) = IdentityProviders().parse(
        json.dumps({name: {"issuer": f"https://{name}.example", **given}})
    )
    return settings


class Opened:
    def __init__(self, users: Users, calls: ProviderCalls) -> None:
        self.users = users
        self.federated = FederatedUsers(users, ("read", "write"))
        self._calls = calls

    def person(self, subject: str, provider: IdentityProvider | None = None, **claims: Any) -> Person:
        provider = provider or configured()
        assert provider.issuer is not None
        claims = {"sub": subject, **claims}
        return Person(Provider(provider, self._calls), provider.issuer, subject, claims, None)

    async def user(self, subject: str, provider: IdentityProvider | None = None, **claims: Any) -> User:
        return await self.federated.user_of(self.person(subject, provider, **claims))


@asynccontextmanager
async def open_federated(where: Where) -> AsyncIterator[Opened]:
    passwords, calls = cheap_passwords(), ProviderCalls()
    async with open_store(where) as opened:
        yield Opened(Users(opened.client, passwords, now_ms, nothing), calls)
    passwords.close()
    calls.close()


async def refusal(attempt: Awaitable[object]) -> str:
    with pytest.raises(RelayError) as refused:
        await attempt
    return refused.value.code


def verified(email: str) -> dict[str, Any]:
    return {"email": email, "email_verified": True}


def unique() -> str:
    return uuid.uuid4().hex


@in_loop
async def test_who_is_known_is_that_user_whatever_the_provider_says_now(where: Where) -> None:
    async with open_federated(where) as opened:
        name = f"{unique()}@campus.example"
        subject = unique()
        user = await opened.user(subject, **verified(name))
        assert (user.username, user.email, user.permissions) == (name, name, ("read", "write"))
        assert user.federated == FederatedIdentity("https://campus.example", subject)
        assert await opened.user(subject, **verified("another@campus.example")) == user
        assert await opened.user(subject) == user
        assert await opened.user(subject, configured("other"), **verified(name)) != user


@in_loop
async def test_somebody_who_comes_twice_at_the_same_time_is_one_user(where: Where) -> None:
    async with open_federated(where) as opened:
        subject, claims = unique(), verified(f"{unique()}@campus.example")
        users = await asyncio.gather(*[opened.user(subject, **claims) for _ in range(10)])
        assert len(set(users)) == 1


@in_loop
async def test_people_of_one_name_at_the_same_time_are_users_of_different_names(where: Where) -> None:
    async with open_federated(where) as opened:
        claims = verified(f"{unique()}@campus.example")
        users = await asyncio.gather(*[opened.user(unique(), **claims) for _ in range(6)])
        assert len({user.username for user in users}) == len({user.user_id for user in users}) == 6


@in_loop
async def test_a_name_that_another_has_gets_an_ending(where: Where) -> None:
    async with open_federated(where) as opened:
        name = unique()
        subjects = [start + unique() for start in ("aaaaaaaa", "aaaaaaaa", "bb|bbbbb", "bb|bbbbb")]
        names = [(await opened.user(subject, preferred_username=name)).username for subject in subjects]
        assert names[:2] == [name, f"{name}-campus"]
        assert re.fullmatch(rf"{name[:30]}\w*-campus-bb-bbbbb", names[2])
        assert re.fullmatch(rf"{name[:30]}\w*-campus-[0-9a-f]{{8}}", names[3])


@in_loop
async def test_an_account_with_a_password_is_not_taken_by_its_name(where: Where) -> None:
    async with open_federated(where) as opened:
        name = f"{unique()}@campus.example"
        await opened.users.create(NewUser(name, name, ("admin",)), "its password")
        assert await refusal(opened.user(unique(), **verified(name))) == "name_is_local"


@in_loop
async def test_who_is_not_active_gets_nothing(where: Where) -> None:
    async with open_federated(where) as opened:
        subject = unique()
        user = await opened.user(subject, preferred_username=unique())
        await opened.users.patch(user.user_id, UserPatch(is_active=False))
        assert await refusal(opened.user(subject)) == "user_inactive"


@in_loop
async def test_an_address_that_nobody_verified_is_not_kept(where: Where) -> None:
    async with open_federated(where) as opened:
        for claim in (False, "true", 1, None):
            claims = {"email": f"{unique()}@campus.example", "email_verified": claim}
            user = await opened.user(unique(), **claims)
            assert user.email is None
            assert "@" not in user.username


@pytest.mark.parametrize(
    ("claims", "name"),
    [
        (verified("a@b.example") | {"preferred_username": "ann"}, "a@b.example"),
        ({"email": "a@b.example", "preferred_username": "ann"}, "ann"),
        ({"email": "a@b.example", "email_verified": "true"}, "the-subject-of-it"),
        ({"preferred_username": " "}, "the-subject-of-it"),
        ({"preferred_username": 5, "email": ["x"]}, "the-subject-of-it"),
        ({"preferred_username": "J\u00f6rg <script>/\u202e\n"}, "J-rg--script----"),
        ({"preferred_username": "x" * 200}, "x" * 50),
        ({"preferred_username": "ab"}, "ab-campus"),
    ],
)
def test_a_new_user_is_called_as_the_provider_says(claims: dict[str, Any], name: str) -> None:
    assert next(username_candidates(configured(), claims, "the/subject|of it")) == name


def test_the_claim_that_is_configured_comes_first_unless_it_is_an_address_that_nobody_verified() -> None:
    claims = {"nick": "ann", "preferred_username": "mary", "mail": "a@b.example"}
    assert next(username_candidates(configured(claim_username="nick"), claims, "s")) == "ann"
    by_mail = configured(claim_username="mail", claim_email="mail")
    assert next(username_candidates(by_mail, claims, "s")) == "mary"
    assert next(username_candidates(by_mail, claims | {"email_verified": True}, "s")) == "a@b.example"


def test_every_name_can_be_a_users() -> None:
    for name in ("", "x" * 100):
        provider = configured("p" * 32)
        names = list(username_candidates(provider, {"preferred_username": name}, "s" * 255))
        assert len(set(names)) == len(names)
        for one in names:
            NewUser(one)
