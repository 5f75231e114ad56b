"""Who asks, behind proxies; and that nobody can say that it is somebody else."""

from __future__ import annotations

import pytest

from pulsar_relay.limits.client_address import MOST_HOPS, TrustedProxies, household

PROXY = "10.0.0.1"
CLIENT = "198.51.100.7"


def client(peer: str, *header: str, trusted: str = "10.0.0.0/8", name: str = "x-forwarded-for") -> str:
    return TrustedProxies(trusted.split(), name).client(peer, header)


def test_without_a_proxy_the_client_is_who_connects_whatever_it_says() -> None:
    assert client(CLIENT, "203.0.113.1") == CLIENT
    assert TrustedProxies([], "x-forwarded-for").client("127.0.0.1", ["203.0.113.1"]) == "127.0.0.1"


def test_a_trusted_proxy_says_who_the_client_is() -> None:
    assert client(PROXY, CLIENT) == CLIENT


@pytest.mark.parametrize(
    "header",
    [
        ["203.0.113.1, 198.51.100.7"],
        ["203.0.113.1", "198.51.100.7"],
        ["10.9.9.9, 198.51.100.7"],
        ["198.51.100.7, 10.0.0.2"],
        ["203.0.113.1, 198.51.100.7, 10.0.0.3, 10.0.0.2"],
        [", ".join(["203.0.113.1"] * 10_000) + ", 198.51.100.7"],
        ["garbage, 198.51.100.7"],
        ["198.51.100.7:4711"],
        ["::ffff:198.51.100.7"],
        ["  198.51.100.7  "],
    ],
    ids=lambda header: header[0][-40:],
)
def test_what_the_client_says_of_itself_stands_left_of_the_hop_that_counts(header: list[str]) -> None:
    assert client(PROXY, *header) == CLIENT


@pytest.mark.parametrize(
    "header", [[], [""], ["unknown"], [f"{CLIENT}, "], [f"{CLIENT}, _hidden"], ["1.2.3.4.5"]]
)
def test_a_hop_that_cannot_be_read_ends_the_way_at_the_proxy(header: list[str]) -> None:
    assert client(PROXY, *header) == PROXY


def test_where_all_hops_are_proxies_the_first_of_them_asks() -> None:
    assert client(PROXY, "10.0.0.3, 10.0.0.2") == "10.0.0.3"
    hops = ", ".join(["10.0.0.9"] + ["10.0.0.2"] * (MOST_HOPS - 1))
    assert client(PROXY, hops) == "10.0.0.9"


def test_of_two_headers_only_the_one_that_the_proxy_sets_is_believed() -> None:
    # The other came from the client, through the proxy: whoever calls hands over one header's values only.
    assert TrustedProxies(["10.0.0.0/8"], "forwarded").header == "forwarded"
    assert client(PROXY, f"for={CLIENT}") == PROXY
    assert client(PROXY, CLIENT, name="forwarded") == PROXY


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("for=198.51.100.7", CLIENT),
        ('for="198.51.100.7:80";proto=https', CLIENT),
        ("proto=https; For=198.51.100.7", CLIENT),
        ('for="[2001:db8::7]:4711"', "2001:db8::7"),
        ("for=203.0.113.1, for=198.51.100.7;by=10.0.0.1", CLIENT),
        ("for=203.0.113.1, for=198.51.100.7, for=10.0.0.2", CLIENT),
        ("xfor=198.51.100.7", PROXY),
        ("for=_secret", PROXY),
        ('by="for=198.51.100.7"', PROXY),
        ("", PROXY),
    ],
)
def test_the_standard_header_is_read(header: str, expected: str) -> None:
    assert client(PROXY, header, name="forwarded") == expected


@pytest.mark.parametrize("peer", ["::ffff:10.0.0.1", "10.0.0.1"])
def test_a_proxy_is_known_in_either_form_of_its_address(peer: str) -> None:
    assert client(peer, CLIENT) == CLIENT


def test_a_proxy_may_have_an_ipv6_address() -> None:
    assert client("fd00::1%eth0", CLIENT, trusted="fd00::/8") == CLIENT
    assert client("fe80::1", CLIENT, trusted="fd00::/8") == "fe80::1"


def test_a_peer_without_an_address_is_no_proxy() -> None:
    assert client("", CLIENT) == ""
    assert client("unix:", CLIENT, trusted="0.0.0.0/0 ::/0") == "unix:"


def test_an_ipv6_household_is_one_and_ipv4_addresses_are_many() -> None:
    assert household("2001:db8:1:2::1") == household("2001:db8:1:2:ffff::9") == "2001:db8:1:2::/64"
    assert household("2001:db8:1:3::1") != household("2001:db8:1:2::1")
    assert household("::ffff:198.51.100.7") == household("198.51.100.7") == "198.51.100.7"
    assert household("") == ""
