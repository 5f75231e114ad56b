from __future__ import annotations

import pytest

from pulsar_relay.kinds import Kind
from pulsar_relay.network_kinds import HostNames, Networks, Origins, WebAddress


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Origins(), "https://A.example.org:443/, http://b:8080", ("https://a.example.org", "http://b:8080")),
        (Origins(), '["http://[::1]:80"]', ("http://[::1]",)),
        (Origins(), "*", ("*",)),
        (HostNames(), "Relay.example.org, *.internal", ("relay.example.org", "*.internal")),
        (HostNames(), "[::1], 10.0.0.1", ("[::1]", "10.0.0.1")),
        (Networks(), "10.0.0.0/8, ::1, 192.0.2.7", ("10.0.0.0/8", "::1/128", "192.0.2.7/32")),
        (WebAddress(), "https://relay.example.org/", "https://relay.example.org"),
        (WebAddress(), "http://localhost:8080", "http://localhost:8080"),
    ],
)
def test_a_value_is_read_and_what_is_shown_of_it_reads_back(kind: Kind, text: str, value: object) -> None:
    assert kind.parse(text) == value
    assert kind.parse(kind.show(value)) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Origins(), "relay.example.org"),
        (Origins(), "https://a/path"),
        (Origins(), "https://u:p@a"),
        (Origins(), "ftp://a"),
        (Origins(), "https://a:99999"),
        (Origins(), "https://a,"),
        (Origins(), "[1]"),
        (HostNames(), "https://a"),
        (HostNames(), "a:8080"),
        (HostNames(), "a b"),
        (HostNames(), "a.*.b"),
        (Networks(), "10.0.0.1/8"),
        (Networks(), "proxy.example.org"),
        (WebAddress(), "http://relay.example.org"),
        (WebAddress(), "https://relay.example.org/relay"),
        (WebAddress(), "https://u@relay.example.org"),
        (WebAddress(), "https://"),
        (WebAddress(), "javascript:alert(1)"),
    ],
)
def test_text_of_another_kind_is_refused(kind: Kind, text: str) -> None:
    with pytest.raises(ValueError):
        kind.parse(text)
