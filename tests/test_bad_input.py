"""Bad input on every path: 2xx or 4xx, never 5xx; what is accepted comes out byte for byte everywhere."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any
from urllib.parse import quote

import pytest
import requests
from websockets.asyncio.client import connect

from tests.workers import RunningWorker

WAIT_SECONDS = 20

ACCEPTED = [
    b"null",
    b"true",
    b'""',
    b"0",
    b"-0",
    b"1.10",
    b"1E+2",
    b"18446744073709551616",
    b"1180591620717411303424",
    b"1.7976931348623157e308",
    b"5e-324",
    b"1e-400",
    b'{"b": 1, "a": 2}',
    b'{"a": 1, "a": 2}',
    b'{"__proto__": {"x": 1}}',
    b"[1 , 2,\t3]",
    b'"\\u0000"',
    b'"\\ud83d\\ude00"',
    '"😀 \u2028 \x7f"'.encode(),
    b'"</script><!-- \\u003c"',
    b"[" * 100 + b"]" * 100,
]
REFUSED = [
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"1e400",
    b"-1e400",
    b"1" * 400,
    b'"\\ud800"',
    b'"\xed\xa0\x80"',
    b'"\xff"',
    b'"\x00"',
    b'"\n"',
    b"01",
    b"+1",
    b"1.",
    b".5",
    b"0x10",
    b"[1,]",
    b'{"a":1,}',
    b"{a:1}",
    b"'a'",
    b"undefined",
    b"// comment\n1",
    b"",
    b"[" * 101 + b"]" * 101,
    b"[" * 100_000 + b"]" * 100_000,
    b"[" * 1000,
]
BAD_NAMES = [
    *("", " ", "a b", "a/b", "a:b", "a{b}", "a.b", "..", "%00", "\x00", "a\n", "---", "__", "jöbs", "\u0661"),
    "a" * 256,
]
ODD_CURSORS = [
    *(
        "abc",
        "-",
        "$",
        "+",
        "(",
        "1",
        "1-",
        "-1",
        "1-2-3",
        "0-0",
        "msg_0123456789ab",
        "\u0661-\u0661",
        "1-1 ",
    ),
    "18446744073709551615-18446744073709551615",
    "18446744073709551616-0",
    "9" * 21 + "-1",
    "1-" + "9" * 5000,
    "",
]


def _post(relay: RunningWorker, body: bytes, path: str = "/api/v1/messages") -> requests.Response:
    headers = {"Content-Type": "application/json"}
    return requests.post(relay.url + path, data=body, headers=headers, timeout=WAIT_SECONDS)


def _message(topic: str, payload: bytes) -> bytes:
    return b'{"topic":"' + topic.encode() + b'","payload":' + payload + b"}"


def _check_refused(answer: requests.Response) -> None:
    assert 400 <= answer.status_code < 500, (answer.status_code, answer.text)
    told = answer.json()
    assert told["error"] and told["message"]
    assert told["retry"] is False
    assert "Traceback" not in answer.text


def _payload_in(text: bytes) -> bytes:
    """The bytes of the payload in the text of one message item."""
    start = text.index(b'"payload":') + len(b'"payload":')
    return text[start : text.rindex(b',"timestamp":')]


def _by_history(relay: RunningWorker, topic: str) -> bytes:
    return requests.get(f"{relay.url}/api/v1/topics/{topic}/messages?limit=1", timeout=WAIT_SECONDS).content


def _by_poll(relay: RunningWorker, topic: str) -> bytes:
    address = f"{relay.url}/api/v1/poll?topics={topic}&since=earliest"
    return requests.get(address, timeout=WAIT_SECONDS).content


def _by_stream(relay: RunningWorker, topic: str) -> bytes:
    address = f"{relay.url}/api/v1/stream?topics={topic}&since=earliest"
    with requests.get(address, stream=True, timeout=WAIT_SECONDS) as answer:
        for line in answer.iter_lines(chunk_size=None, delimiter=b"\n"):
            if line.startswith(b'data: {"type":"message"'):
                return bytes(line)
    raise AssertionError("no message came")


def _by_websocket(relay: RunningWorker, topic: str) -> bytes:
    async def receive() -> bytes:
        async with connect(relay.ws_url, max_size=None) as connection:
            await connection.send(json.dumps({"type": "subscribe", "topics": [topic], "offset": "earliest"}))
            await connection.recv()
            return await connection.recv(decode=False)

    return asyncio.run(asyncio.wait_for(receive(), WAIT_SECONDS))


def _say(relay: RunningWorker, *frames: bytes) -> list[dict[str, Any]]:
    """Send texts as frames, each as it is; one answer each."""

    async def talk() -> list[dict[str, Any]]:
        async with connect(relay.ws_url) as connection:
            answers = []
            for frame in frames:
                await connection.send(frame, text=True)
                answers.append(json.loads(await connection.recv()))
            await connection.send('{"type":"ping"}')
            assert json.loads(await connection.recv())["type"] == "pong", "the connection goes on"
            return answers

    return asyncio.run(asyncio.wait_for(talk(), WAIT_SECONDS))


def _is_text(payload: bytes) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


@pytest.mark.parametrize("payload", ACCEPTED, ids=lambda payload: repr(payload[:24]))
def test_an_accepted_payload_comes_out_byte_for_byte_on_every_transport(
    relay: RunningWorker, topic: str, payload: bytes
) -> None:
    assert _post(relay, _message(topic, payload)).status_code == 201
    for read in (_by_history, _by_poll, _by_stream, _by_websocket):
        assert _payload_in(read(relay, topic)) == payload, read.__name__


@pytest.mark.parametrize("payload", ACCEPTED, ids=lambda payload: repr(payload[:24]))
def test_bulk_and_websocket_accept_what_a_single_post_accepts(
    relay: RunningWorker, topic: str, payload: bytes
) -> None:
    bulk = b'{"messages":[' + _message(topic, payload) + b"]}"
    assert _post(relay, bulk, "/api/v1/messages/bulk").json()["summary"]["accepted"] == 1
    assert _payload_in(_by_history(relay, topic)) == payload
    frame = _message(topic, payload)[:-1] + b',"type":"publish","ref":1}'
    assert _say(relay, frame)[0]["type"] == "published"
    assert _payload_in(_by_history(relay, topic)) == payload


@pytest.mark.parametrize("payload", REFUSED, ids=lambda payload: repr(payload[:24]))
def test_a_payload_that_is_not_strict_json_is_4xx_on_every_path_and_stores_nothing(
    relay: RunningWorker, topic: str, payload: bytes
) -> None:
    _check_refused(_post(relay, _message(topic, payload)))
    bulk = _post(relay, b'{"messages":[' + _message(topic, payload) + b"]}", "/api/v1/messages/bulk")
    if bulk.status_code == 207:
        assert bulk.json()["summary"] == {"total": 1, "accepted": 0, "rejected": 1}
    else:
        _check_refused(bulk)
    if _is_text(payload):
        frame = b'{"type":"publish","topic":"' + topic.encode() + b'","payload":' + payload + b"}"
        assert _say(relay, frame)[0]["type"] == "error"
    assert requests.get(f"{relay.url}/api/v1/topics/{topic}", timeout=WAIT_SECONDS).status_code == 404


@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
def test_a_bad_topic_name_is_refused_on_every_path(relay: RunningWorker, name: str) -> None:
    quoted = json.dumps(name).encode()
    _check_refused(_post(relay, b'{"topic":' + quoted + b',"payload":1}'))
    _check_refused(_post(relay, b'{"topics":[' + quoted + b"]}", "/messages/poll"))
    frames = [b'{"type":"%b","topics":[%b]}' % (kind, quoted) for kind in (b"subscribe", b"unsubscribe")]
    frames.append(b'{"type":"publish","payload":1,"topic":' + quoted + b"}")
    assert [answer["type"] for answer in _say(relay, *frames)] == ["error"] * 3
    for path in ("/api/v1/topics/{}", "/api/v1/topics/{}/messages"):
        answer = requests.get(relay.url + path.format(quote(name, safe="")), timeout=WAIT_SECONDS)
        # The client itself makes another path of `..` and of nothing.
        assert answer.status_code in (200, 404, 405) if name in ("", "..") else answer.status_code == 404
    for path in ("/api/v1/poll?topics={}", "/api/v1/stream?topics={}"):
        answer = requests.get(relay.url + path.format(quote(name, safe="")), timeout=WAIT_SECONDS)
        assert answer.status_code == 422


@pytest.mark.parametrize("cursor", ODD_CURSORS, ids=lambda cursor: repr(cursor[:24]))
def test_no_cursor_is_an_error_and_none_strands_its_client(
    relay: RunningWorker, topic: str, cursor: str
) -> None:
    assert _post(relay, _message(topic, b"1")).status_code == 201
    body = {"topics": [topic], "since": {topic: cursor}, "timeout": 1}
    polls = [
        requests.post(f"{relay.url}/messages/poll", json=body, timeout=WAIT_SECONDS),
        requests.get(
            f"{relay.url}/api/v1/poll",
            params={"topics": topic, "since": cursor, "timeout": 1},
            timeout=WAIT_SECONDS,
        ),
    ]
    for answer in polls:
        assert answer.status_code == 200, answer.text
    assert [message["payload"] for message in polls[0].json()["messages"]] == [1]
    page = requests.get(
        f"{relay.url}/api/v1/topics/{topic}/messages", params={"cursor": cursor}, timeout=WAIT_SECONDS
    )
    assert page.status_code == 200, page.text
    subscribe = {"type": "subscribe", "topics": [topic], "offset": cursor}

    async def first() -> list[dict[str, Any]]:
        async with connect(relay.ws_url) as connection:
            await connection.send(json.dumps(subscribe))
            received = [json.loads(await connection.recv())]
            while received[-1]["type"] != "message":
                received.append(json.loads(await connection.recv()))
            return received

    frames = asyncio.run(asyncio.wait_for(first(), WAIT_SECONDS))
    assert frames[0]["type"] == "subscribed"
    assert {frame["type"] for frame in frames[1:-1]} <= {"gap", "reset"}
    headers = {"Last-Event-ID": quote(cursor) if not cursor.isascii() else cursor.strip()[:4000]}
    with requests.get(
        f"{relay.url}/api/v1/stream",
        params={"topics": topic},
        headers=headers,
        stream=True,
        timeout=WAIT_SECONDS,
    ) as answer:
        assert answer.status_code == 200


@pytest.mark.parametrize("cursor", ["msg_0123456789ab", "garbage"])
def test_a_foreign_cursor_reads_from_the_oldest_and_says_so(
    relay: RunningWorker, topic: str, cursor: str
) -> None:
    for number in range(3):
        _post(relay, _message(topic, b"%d" % number))
    body = {"topics": [topic], "since": {topic: cursor}}
    answer = requests.post(f"{relay.url}/messages/poll", json=body, timeout=WAIT_SECONDS).json()
    assert [message["payload"] for message in answer["messages"]] == [0, 1, 2]
    assert [(notice["type"], notice["reason"]) for notice in answer["notices"]] == [
        ("reset", "unknown_cursor")
    ]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"1",
        b'"topic"',
        b"{",
        b"\xef\xbb\xbf{}",
        '{"topic":"a","payload":1}'.encode("utf-16"),
        b'{"topic":1,"payload":1}',
        b'{"topic":"a"}',
        b'{"payload":1}',
        b'{"topic":"a","payload":1,"ttl":0}',
        b'{"topic":"a","payload":1,"ttl":-5}',
        b'{"topic":"a","payload":1,"ttl":1e400}',
        b'{"topic":"a","payload":1,"ttl":1e300}',
        b'{"topic":"a","payload":1,"ttl":"soon"}',
        b'{"topic":"a","payload":1,"ttl":1.5}',
        b'{"topic":"a","payload":1,"metadata":{"a":1}}',
        b'{"topic":"a","payload":1,"metadata":[]}',
        b'{"topic":"a","payload":1,"metadata":{"a":"\\ud800"}}',
    ],
    ids=repr,
)
def test_a_malformed_publish_is_4xx_and_names_what_is_wrong(relay: RunningWorker, body: bytes) -> None:
    _check_refused(_post(relay, body))
    _check_refused(_post(relay, body, "/api/v1/messages/bulk"))
    _check_refused(_post(relay, body, "/messages/poll"))


@pytest.mark.parametrize("timeout", [0, 61, 1.5, 2.5, 30.0, 1e9, -3, "5", "2.5", True, None, 1e-9])
def test_any_number_is_a_timeout(relay: RunningWorker, topic: str, timeout: Any) -> None:
    assert _post(relay, _message(topic, b"1")).status_code == 201
    body = {"topics": [topic], "since": {topic: "0-0"}, "timeout": timeout}
    answer = requests.post(f"{relay.url}/messages/poll", json=body, timeout=WAIT_SECONDS)
    assert (answer.status_code, len(answer.json()["messages"])) == (200, 1)


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /api/v1/messages HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /api/v1/messages HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST /api/v1/messages HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /api/v1/messages HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=lambda head: repr(head[:40]),
)
def test_what_is_no_http_request_is_cut_or_4xx_and_hurts_nobody(relay: RunningWorker, head: bytes) -> None:
    with socket.create_connection(("127.0.0.1", relay.ports.api), timeout=WAIT_SECONDS) as connection:
        connection.sendall(head + b"\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while part := connection.recv(65536):
                answer += part
        except ConnectionResetError:
            pass
    assert not answer or answer.split(b" ")[1][:1] == b"4", answer
    assert requests.get(f"{relay.url}/health", timeout=WAIT_SECONDS).status_code == 200


def test_a_chunked_body_beyond_the_limit_is_413_in_the_usual_shape(relay: RunningWorker) -> None:
    def chunks() -> Any:
        yield b'{"topic":"a","payload":"'
        for _ in range(33):
            yield b"x" * (1024 * 1024)
        yield b'"}'

    answer = requests.post(
        f"{relay.url}/api/v1/messages",
        data=chunks(),
        headers={"Content-Type": "application/json"},
        timeout=WAIT_SECONDS,
    )
    assert (answer.status_code, answer.json()["error"]) == (413, "body_too_large")
