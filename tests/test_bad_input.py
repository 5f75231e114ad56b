"""Whatever comes in, on every path: it is taken and comes out byte for byte, or it is refused with a 4xx."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest
import requests
from websockets.exceptions import ConnectionClosed

from tests.conditions import WAIT_SECONDS
from tests.quiet_logs import quiet_logs as quiet_logs
from tests.raw_http import RawConnection
from tests.talks import Talk
from tests.workers import RunningWorker

GOOD = {
    "null": b"null",
    "true": b"true",
    "zero": b"0",
    "minus-zero": b"-0.0",
    "smallest-double": b"5e-324",
    "beyond-64-bits": str(2**70).encode(),
    "minus-beyond-64-bits": str(-(2**70)).encode(),
    "trailing-zero": b"1.10",
    "exponents": b"[1E5,1e+05,1E-05,1e5]",
    "largest-double": b"1.7976931348623157e308",
    "almost-nothing": b"1e-400",
    "long-fraction": b"0." + b"1" * 5000,
    "empty-string": b'""',
    "empty-object": b"{}",
    "empty-array": b"[]",
    "white-space": b' { "a" :\t1 ,\r\n "b"\n:\r[ ] } ',
    "keys-twice": b'{"a":1,"a":2,"A":3}',
    "keys-in-order": b'{"z":1,"a":2,"m":{"y":1,"b":2}}',
    "escapes": rb'"\u0041\/\b\f\n\r\t\"\\\u00e9\u2028"',
    "escaped-nul": rb'"a\u0000b"',
    "escaped-pair": rb'"\ud83d\ude00"',
    "raw-characters": '"é ü \u2028 \u2029 \x7f \U0001f600 \uffff"'.encode(),
    "names-of-javascript": b'{"__proto__":{"x":1},"constructor":null}',
    "looks-like-html": b'"<script>alert(1)</script>&amp;"',
    "looks-like-ours": b'{"type":"message","payload":null,"timestamp":"2024","metadata":{}}',
    "deepest": b"[" * 100 + b"]" * 100,
    "wide": b"[" + b"[]," * 5000 + b"[]]",
    "a-mebibyte": b'"' + b"x" * (1 << 20) + b'"',
}

BAD = {
    "nothing": b"",
    "nan": b"NaN",
    "infinity": b"Infinity",
    "minus-infinity": b"[-Infinity]",
    "too-large": b"1e400",
    "just-too-large": b"1.8e308",
    "minus-too-large": b"-1e400",
    "too-many-digits": b"9" * 400,
    "lone-high-surrogate": rb'"\ud800"',
    "lone-low-surrogate": rb'"\udc00"',
    "surrogates-in-wrong-order": rb'"\ude00\ud83d"',
    "surrogate-in-key": rb'{"\ud800":1}',
    "raw-surrogate": b'"\xed\xa0\x80"',
    "no-utf-8": b'"\xff"',
    "overlong": b'"\xc0\xaf"',
    "latin-1": '"é"'.encode("latin-1"),
    "too-deep": b"[" * 101 + b"]" * 101,
    "far-too-deep": b"[" * 1000 + b"]" * 1000,
    "abyss": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "leading-zero": b"01",
    "no-integer-part": b".5",
    "no-fraction": b"1.",
    "plus": b"+1",
    "hexadecimal": b"0x10",
    "single-quotes": b"'a'",
    "trailing-comma": b"[1,]",
    "comment": b"1/* one */",
    "raw-newline": b'"a\nb"',
    "raw-nul": b'"a\x00b"',
    "bad-escape": rb'"\x41"',
    "unfinished": b'{"a":',
    "python": b"None",
    "javascript": b"undefined",
    "bare-key": b"{a:1}",
    "half-an-abyss": b"[" * 1000,
}

Payloads = dict[str, bytes]


def message(topic: str, payload: bytes) -> bytes:
    return b'{"topic":"%b","payload":%b}' % (topic.encode(), payload)


def post(relay: RunningWorker, path: str, body: bytes, **headers: str) -> requests.Response:
    return requests.post(
        relay.url + path,
        data=body,
        headers={"Content-Type": "application/json", **headers},
        timeout=WAIT_SECONDS,
    )


# ---------------------------------------------------------------------------------------- the ways in and out


def by_post(relay: RunningWorker, topic: str, payload: bytes) -> str | None:
    """Publish; None if it was stored, else the error's code."""
    answer = post(relay, "/api/v1/messages", message(topic, payload))
    assert answer.status_code == 201 or 400 <= answer.status_code < 500, answer.text
    return None if answer.status_code == 201 else str(answer.json()["error"])


def by_bulk(relay: RunningWorker, topic: str, payload: bytes) -> str | None:
    answer = post(relay, "/api/v1/messages/bulk", b'{"messages":[%b]}' % message(topic, payload))
    assert answer.status_code == 207 or 400 <= answer.status_code < 500, answer.text
    if answer.status_code != 207:
        return str(answer.json()["error"])
    [result] = answer.json()["results"]
    assert (result["status"] == "accepted") == (result["code"] is None) == (result["error"] is None)
    return None if result["code"] is None else str(result["code"])


def by_atomic_bulk(relay: RunningWorker, topic: str, payload: bytes) -> str | None:
    body = b'{"messages":[%b]}' % message(topic, payload)
    answer = post(relay, "/api/v1/messages/bulk?atomic=true", body)
    assert answer.status_code == 207 or 400 <= answer.status_code < 500, answer.text
    return None if answer.status_code == 207 else str(answer.json()["error"])


def by_websocket(relay: RunningWorker, topic: str, payload: bytes) -> str | None:
    with Talk(relay.ws_url) as talk:
        talk.say_raw(b'{"type":"publish","topic":"%b","payload":%b}' % (topic.encode(), payload))
        try:
            answer = talk.hear()
        except ConnectionClosed:
            code, reason = talk.closing()
            assert code == 1007
            return reason
        return None if answer["type"] == "published" else str(answer["code"])


WAYS_IN = [by_post, by_bulk, by_atomic_bulk, by_websocket]


def payload_in(item: bytes) -> bytes:
    """The payload inside one message as it stands on the wire."""
    start = item.index(b'"payload":') + len(b'"payload":')
    return item[start : item.rindex(b',"timestamp":"')]


def from_websocket(relay: RunningWorker, topic: str, count: int) -> list[bytes]:
    with Talk(relay.ws_url) as talk:
        talk.subscribe(topic, offset="earliest")
        return [payload_in(talk.hear_raw()) for _ in range(count)]


def from_live_websocket(relay: RunningWorker, topic: str, count: int) -> list[bytes]:
    with Talk(relay.ws_url) as talk:
        talk.subscribe(topic)
        payloads = list(GOOD.values())
        for payload in payloads[:count]:
            assert by_post(relay, topic, payload) is None
        return [payload_in(talk.hear_raw()) for _ in range(count)]


def from_stream(relay: RunningWorker, topic: str, count: int) -> list[bytes]:
    return list(_from_stream(relay, {"topics": topic, "since": "earliest"}, count))


def from_stream_of_two(relay: RunningWorker, topic: str, count: int) -> list[bytes]:
    return list(_from_stream(relay, {"topics": f"{topic},other", "since": f"{topic}:0-0"}, count))


def _from_stream(relay: RunningWorker, query: dict[str, str], count: int) -> Iterator[bytes]:
    address = f"{relay.url}/api/v1/stream"
    with requests.get(address, params=query, stream=True, timeout=WAIT_SECONDS) as answer:
        assert answer.status_code == 200
        text = b""
        for part in answer.iter_content(None):
            text += part
            *events, text = text.split(b"\n\n")
            for event in events:
                # As EventSource does: any line end ends a line, and the data lines are joined by newlines.
                lines = event.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
                if b"event: message" in lines:
                    yield payload_in(b"\n".join(line[6:] for line in lines if line.startswith(b"data: ")))
                    count -= 1
            if not count:
                return


def from_poll(relay: RunningWorker, topic: str, count: int) -> list[bytes]:
    payloads, cursor = [], "0-0"
    for _ in range(count):
        body: dict[str, Any] = {"topics": [topic], "since": {topic: cursor}, "limit": 1, "timeout": 1}
        answer = requests.post(f"{relay.url}/messages/poll", json=body, timeout=WAIT_SECONDS)
        payloads.append(payload_in(answer.content))
        cursor = answer.json()["cursors"][topic]
    return payloads


def from_get_poll(relay: RunningWorker, topic: str, count: int) -> list[bytes]:
    payloads, cursor = [], "earliest"
    for _ in range(count):
        query: dict[str, Any] = {"topics": topic, "since": cursor, "limit": 1, "timeout": 1}
        answer = requests.get(f"{relay.url}/api/v1/poll", params=query, timeout=WAIT_SECONDS)
        payloads.append(payload_in(answer.content))
        cursor = answer.json()["cursors"][topic]
    return payloads


def from_history(relay: RunningWorker, topic: str, count: int) -> list[bytes]:
    return _from_history(relay, topic, count, "asc")


def from_history_backwards(relay: RunningWorker, topic: str, count: int) -> list[bytes]:
    return _from_history(relay, topic, count, "desc")[::-1]


def _from_history(relay: RunningWorker, topic: str, count: int, order: str) -> list[bytes]:
    payloads, cursor = [], ""
    for _ in range(count):
        query: dict[str, Any] = {"limit": 1, "order": order, "cursor": cursor}
        address = f"{relay.url}/api/v1/topics/{topic}/messages"
        answer = requests.get(address, params=query, timeout=WAIT_SECONDS)
        payloads.append(payload_in(answer.content))
        cursor = answer.json()["next_cursor"]
    return payloads


WAYS_OUT = [
    from_websocket,
    from_live_websocket,
    from_stream,
    from_stream_of_two,
    from_poll,
    from_get_poll,
    from_history,
    from_history_backwards,
]
Way = Callable[..., Any]


def _way(way: Way) -> str:
    return str(way.__name__)


# --------------------------------------------------------------------------------------------------- payloads


@pytest.mark.parametrize("way_in", WAYS_IN, ids=_way)
def test_every_good_payload_is_taken(relay: RunningWorker, topic: str, way_in: Way) -> None:
    for payload in GOOD.values():
        assert way_in(relay, topic, payload) is None
    assert from_history(relay, topic, len(GOOD)) == [payload.strip() for payload in GOOD.values()]


@pytest.mark.parametrize("way_out", WAYS_OUT, ids=_way)
def test_every_good_payload_comes_out_byte_for_byte(relay: RunningWorker, topic: str, way_out: Way) -> None:
    if way_out is not from_live_websocket:
        for payload in GOOD.values():
            assert by_post(relay, topic, payload) is None
    expected = [payload.strip() for payload in GOOD.values()]
    if way_out in (from_stream, from_stream_of_two):
        # Line ends inside an event cannot be kept apart. Between JSON's values they mean the same.
        expected = [payload.replace(b"\r\n", b"\n").replace(b"\r", b"\n") for payload in expected]
    assert way_out(relay, topic, len(GOOD)) == expected


@pytest.mark.parametrize("way_in", WAYS_IN, ids=_way)
def test_no_bad_payload_is_taken(relay: RunningWorker, topic: str, way_in: Way) -> None:
    codes = {name: way_in(relay, topic, payload) for name, payload in BAD.items()}
    assert None not in codes.values(), codes
    allowed = {"invalid_json", "invalid_encoding", "nested_too_deeply", "invalid_request"}
    assert set(codes.values()) <= allowed, codes
    assert requests.get(f"{relay.url}/api/v1/topics/{topic}", timeout=WAIT_SECONDS).status_code == 404


@pytest.mark.parametrize("way_in", [by_bulk, by_websocket], ids=_way)
def test_all_ways_in_refuse_a_payload_for_the_same_reason(
    relay: RunningWorker, topic: str, way_in: Way
) -> None:
    for name, payload in BAD.items():
        assert way_in(relay, topic, payload) == by_post(relay, topic, payload), name


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"null",
        b"[]",
        b'"a"',
        b"{}",
        b"\xef\xbb\xbf" + message("a", b"1"),
        message("a", b"1").decode().encode("utf-16"),
        message("a", b"1") + b"x",
        message("a", b"1") + message("a", b"1"),
        b'{"topic":"a"}',
        b'{"payload":1}',
        b'{"topic":null,"payload":1}',
        b'{"topic":["a"],"payload":1}',
        b'{"topic":"a","payload":1,"ttl":0}',
        b'{"topic":"a","payload":1,"ttl":1.5}',
        b'{"topic":"a","payload":1,"ttl":1e300}',
        b'{"topic":"a","payload":1,"ttl":"x"}',
        b'{"topic":"a","payload":1,"ttl":99999999999999999999999}',
        b'{"topic":"a","payload":1,"metadata":[]}',
        b'{"topic":"a","payload":1,"metadata":{"a":1}}',
        b'{"topic":"a","payload":1,"metadata":{"a":"\\ud800"}}',
        b'{"topic":"a","payload":1,"metadata":{"a":"' + b"x" * 70_000 + b'"}}',
        b'{"messages":null}',
        b'{"messages":[]}',
        b'{"messages":{}}',
        b'{"messages":[' + b"," * 1000 + b"]}",
        b'{"topics":[],"timeout":1}',
        b'{"topics":"a"}',
        b'{"topics":[1]}',
        b'{"topics":["a"],"timeout":"x"}',
        b'{"topics":["a"],"timeout":1e999}',
        b'{"topics":["a"],"limit":0}',
        b'{"topics":["a"],"since":[]}',
        b'{"topics":["a"],"since":{"a":1}}',
        b'{"topics":["a"],"since":{"a":{}}}',
    ],
)
@pytest.mark.parametrize("path", ["/api/v1/messages", "/api/v1/messages/bulk", "/messages/poll"])
def test_a_body_that_is_no_request_is_refused_in_the_usual_shape(
    relay: RunningWorker, path: str, body: bytes
) -> None:
    answer = post(relay, path, body)
    assert answer.status_code in (400, 422), answer.text
    assert answer.json().keys() == {"error", "message", "detail", "retry"}
    assert answer.json()["retry"] is False


# ---------------------------------------------------------------------------------------------------- cursors

LAST_ID = "18446744073709551615-18446744073709551615"
CURSORS = [
    "abc",
    "-",
    "+",
    "$",
    ">",
    "*",
    "0",
    "5",
    "1-",
    "-1",
    "1-1-1",
    "1-x",
    " 1-1",
    "1-1 ",
    "1.5-0",
    "١-١",
    "msg_0123456789ab",
    "EARLIEST",
    LAST_ID,
    "18446744073709551616-0",
    "99999999999999999999-99999999999999999999",
    "9" * 1000 + "-0",
    "0-0",
    "0-1",
    "1700000000000-0",
    "\x00",
    "a\nb",
    "null",
    "{}",
    "é",
    "😀",
    "x" * 5000,
    "1-1,2-2",
    "a:b:c",
    "..",
    "0.abc-1",
]


@pytest.fixture(scope="module")
def kept(relay: RunningWorker) -> str:
    """A topic with three messages."""
    for payload in (b"1", b"2", b"3"):
        assert by_post(relay, "kept-for-cursors", payload) is None
    return "kept-for-cursors"


def _ask_poll(relay: RunningWorker, topic: str, cursor: str) -> requests.Response:
    since = {topic: cursor, "unrelated": cursor}
    body: dict[str, Any] = {"topics": [topic], "since": since, "timeout": 1}
    return requests.post(f"{relay.url}/messages/poll", json=body, timeout=WAIT_SECONDS)


def _ask_get_poll(relay: RunningWorker, topic: str, cursor: str) -> requests.Response:
    query: dict[str, Any] = {"topics": topic, "since": cursor, "timeout": 1}
    return requests.get(f"{relay.url}/api/v1/poll", params=query, timeout=WAIT_SECONDS)


def _ask_history(relay: RunningWorker, topic: str, cursor: str) -> requests.Response:
    address = f"{relay.url}/api/v1/topics/{topic}/messages"
    return requests.get(address, params={"cursor": cursor, "order": "asc"}, timeout=WAIT_SECONDS)


@pytest.mark.parametrize("cursor", CURSORS, ids=ascii)
@pytest.mark.parametrize("ask", [_ask_poll, _ask_get_poll, _ask_history], ids=_way)
def test_no_cursor_is_an_error_and_an_unknown_one_reads_from_the_oldest(
    relay: RunningWorker, kept: str, cursor: str, ask: Way
) -> None:
    answer = ask(relay, kept, cursor)
    assert answer.status_code == 200, answer.text
    payloads = [message["payload"] for message in answer.json()["messages"]]
    # A history is a page of what there is: after the last id there can be, there is nothing.
    assert payloads == ([] if ask is _ask_history and cursor == LAST_ID else [1, 2, 3])


@pytest.mark.parametrize("cursor", CURSORS, ids=ascii)
def test_no_offset_is_an_error(relay: RunningWorker, kept: str, cursor: str) -> None:
    for offset in (cursor, {kept: cursor}):
        with Talk(relay.ws_url) as talk:
            talk.subscribe(kept, offset=offset)
            frames = [talk.hear()]
            while frames[-1]["type"] != "message":
                frames.append(talk.hear())
            assert frames[-1]["payload"] == 1
            assert {frame["type"] for frame in frames[:-1]} <= {"gap", "reset"}


@pytest.mark.parametrize("cursor", CURSORS, ids=ascii)
@pytest.mark.parametrize("place", ["since", "last-event-id"])
def test_no_place_of_a_stream_is_an_error(relay: RunningWorker, kept: str, cursor: str, place: str) -> None:
    address = f"/api/v1/stream?topics={kept}"
    headers = {}
    if place == "since":
        address += f"&since={quote(cursor)}"
    elif any(character in cursor for character in "\n\x00"):
        pytest.skip("no header can hold it")
    else:
        headers["Last_Event_ID"] = cursor.encode().decode("latin-1")
    with RawConnection(relay.ports.api) as connection:
        connection.send(_request(address, headers))
        answer = connection.response(has_body=False)
        assert answer.status == 200
        text = b""
        while b"event: message" not in text:
            text += connection.chunk()
        assert b'"payload":1,' in text


def _request(path: str, headers: dict[str, str]) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: a"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


# ------------------------------------------------------------------------------------------------ topic names

NAMES = [
    "",
    " ",
    "-",
    "__",
    "a b",
    "a/b",
    "a:b",
    "a.b",
    "{a}",
    "a}",
    "a,b",
    "a\nb",
    "a\x00b",
    "jöbs",
    "jobs²",
    "\u0661",
    "😀",
    "x" * 256,
    "../../etc/passwd",
    "topic:a:stream",
    "%2e",
    "*",
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_what_is_no_topic_name_is_refused_everywhere(relay: RunningWorker, name: str) -> None:
    body = json.dumps({"topic": name, "payload": 1}).encode()
    assert post(relay, "/api/v1/messages", body).status_code == 422
    bulk = post(relay, "/api/v1/messages/bulk", b'{"messages":[%b]}' % body).json()["results"]
    assert [(result["status"], result["topic"]) for result in bulk] == [("rejected", None)]
    assert post(relay, "/api/v1/messages/bulk?atomic=1", b'{"messages":[%b]}' % body).status_code == 422
    poll = json.dumps({"topics": ["a", name], "timeout": 1}).encode()
    assert post(relay, "/messages/poll", poll).status_code == 422
    with Talk(relay.ws_url) as talk:
        assert talk.ask("subscribe", "error", topics=["a", name])["code"] == "invalid_request"
        assert talk.ask("publish", "error", topic=name, payload=1)["code"] == "invalid_request"
        assert talk.ask("unsubscribe", "error", topics=[name])["code"] == "invalid_request"
    for path in ("/api/v1/poll?timeout=1&topics=", "/api/v1/stream?topics="):
        if "," not in name:  # there that is two names
            answer = requests.get(relay.url + path + quote(name), timeout=WAIT_SECONDS)
            assert answer.status_code == 422, path
    if name:
        for suffix in ("", "/messages"):
            path = f"{relay.url}/api/v1/topics/{quote(name, safe='')}{suffix}"
            assert requests.get(path, timeout=WAIT_SECONDS).status_code == 404
            assert requests.delete(path, timeout=WAIT_SECONDS).status_code in (404, 405)


@pytest.mark.parametrize("path", ["%ff", "%", "%zz", "a%", "%00", "%ed%a0%80"])
def test_a_path_that_is_no_text_is_not_found(relay: RunningWorker, path: str) -> None:
    for suffix in ("", "/messages"):
        with RawConnection(relay.ports.api) as connection:
            answer = connection.request("GET", f"/api/v1/topics/{path}{suffix}")
            assert answer.status in (400, 404)
            assert answer.error in ("bad_request", "topic_not_found", "not_found")


# ---------------------------------------------------------------------------------------- queries and headers


@pytest.mark.parametrize(
    "query",
    [
        "limit=",
        "limit=abc",
        "limit=-1",
        "limit=0",
        "limit=1.5",
        "limit=1e3",
        "limit=99999999999999999999999999",
        "limit=%ff",
        "limit=%00",
        "limit=1&limit=x",
        "timeout=",
        "timeout=abc",
        "timeout=nan",
        "timeout=inf",
        "timeout=%ff",
        "since=%ff",
        "topics=%ff",
        "cursor=%ff",
        "order=",
        "order=DESC",
        "order=%ff",
        "after=%ff",
        "atomic=perhaps",
        "=",
        "&&&",
        "%",
        "a=%zz",
        ";",
        "limit=١",
    ],
)
def test_no_query_is_a_5xx(relay: RunningWorker, kept: str, query: str) -> None:
    paths = [
        f"/api/v1/poll?topics={kept}&since=earliest&{query}",
        f"/api/v1/topics/{kept}/messages?{query}",
        f"/api/v1/topics?{query}",
        f"/api/v1/topics/{kept}?{query}",
        f"/health?{query}",
    ]
    for path in paths:
        with RawConnection(relay.ports.api) as connection:
            connection.send(_request(path.encode().decode("latin-1"), {}))
            answer = connection.response()
            assert answer.status in (200, 400, 422), (path, answer)
            if answer.status != 200:
                assert answer.error
    bulk = post(relay, f"/api/v1/messages/bulk?{query}", b'{"messages":[%b]}' % message("a", b"1"))
    assert bulk.status_code in (207, 422)


@pytest.mark.parametrize(
    ("key", "status"),
    [
        ("", 201),
        ("k" * 255, 201),
        ("k" * 256, 422),
        ("k" * 5000, 422),
        ("é", 422),
        ("a\tb", 422),
        ("\x7f", 400),
        ("{a}:b", 201),
        ("a b", 201),
    ],
    ids=ascii,
)
def test_an_idempotency_key_is_good_or_refused(
    relay: RunningWorker, topic: str, key: str, status: int
) -> None:
    for _ in range(2):
        with RawConnection(relay.ports.api) as connection:
            body = message(topic, b"1")
            answer = connection.request("POST", "/api/v1/messages", body, Idempotency_Key=key)
            assert answer.status == status, answer


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text/plain",
        "application/jsonx",
        "json",
        "application/x+jsonx",
        "text/json",
        "\xff",
        "multipart/form-data",
    ],
)
def test_another_type_of_body_is_422(relay: RunningWorker, content_type: str) -> None:
    with RawConnection(relay.ports.api) as connection:
        for path in ("/api/v1/messages", "/api/v1/messages/bulk", "/messages/poll"):
            answer = connection.request("POST", path, message("a", b"1"), Content_Type=content_type)
            assert (answer.status, answer.error) == (422, "unsupported_media_type")


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "Application/JSON; charset=utf-8", "application/vnd.api+json", "application/json;"],
)
def test_every_name_of_json_is_known(relay: RunningWorker, topic: str, content_type: str) -> None:
    with RawConnection(relay.ports.api) as connection:
        body = message(topic, b"1")
        answer = connection.request("POST", "/api/v1/messages", body, Content_Type=content_type)
        assert answer.status == 201


def test_a_compressed_body_is_refused_by_name(relay: RunningWorker, topic: str) -> None:
    body = gzip.compress(message(topic, b"1"))
    for path in ("/api/v1/messages", "/api/v1/messages/bulk", "/messages/poll"):
        answer = post(relay, path, body, **{"Content-Encoding": "gzip"})
        assert (answer.status_code, answer.json()["error"]) == (422, "unsupported_media_type")
        assert answer.json()["detail"][0]["type"] == "content_encoding"
    answer = post(relay, "/api/v1/messages", message(topic, b"1"), **{"Content-Encoding": "identity"})
    assert answer.status_code == 201


@pytest.mark.parametrize("timeout", [0, 61, 1.5, 30.0, 1e9, -3, "5", "2.5", True, None, 1e-9])
def test_any_number_is_a_time_to_wait(relay: RunningWorker, kept: str, timeout: Any) -> None:
    body: dict[str, Any] = {"topics": [kept], "since": {kept: "0-0"}, "timeout": timeout}
    answer = requests.post(f"{relay.url}/messages/poll", json=body, timeout=WAIT_SECONDS)
    assert (answer.status_code, len(answer.json()["messages"])) == (200, 3)


def test_no_refusal_repeats_what_was_sent(relay: RunningWorker) -> None:
    secret = "a-secret-in-the-wrong-place"
    bodies = [
        {"topic": secret + "!", "payload": 1},
        {"topic": "a", "payload": 1, "ttl": secret},
        {"topic": "a", "payload": 1, "metadata": {"a": [secret]}},
        {"topics": [secret + "!"], "since": {"a": secret}, "timeout": secret, "limit": secret},
        {"messages": [{"topic": secret + "!"}]},
    ]
    for body in bodies:
        for path in ("/api/v1/messages", "/api/v1/messages/bulk", "/messages/poll"):
            answer = post(relay, path, json.dumps(body).encode())
            assert secret not in answer.text, path
        answer = post(relay, "/api/v1/messages", json.dumps(body).encode() + secret.encode())
        assert secret not in answer.text
    for path in (f"/{secret}", f"/api/v1/topics/{secret}!", f"/api/v1/poll?topics={secret}!"):
        assert secret not in requests.get(relay.url + path, timeout=WAIT_SECONDS).text
    with Talk(relay.ws_url) as talk:
        talk.say_raw(json.dumps({"type": secret}))
        assert secret.encode() not in talk.hear_raw()
