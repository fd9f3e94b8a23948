"""Malformed requests: each is answered with an error in OpenAI's form, and nobody else notices."""

import json
import random
import socket
import time

import pytest
from tiny_server import client_of, fresh_engine, serving

from qwen3.serve.api_errors import TYPES

GOOD = {"model": "tiny", "messages": [{"role": "user", "content": "the cat?"}], "max_tokens": 4}
VALUES = [
    None,
    True,
    -1,
    0,
    1e308,
    2**70,
    "",
    "x",
    "\u0000",
    "\U0001f525" * 50,
    [],
    {},
    [[]],
    {"a": {}},
]
VALUES += ["x" * 5000, [1, "a", None], {"type": "json_schema"}, ["a"] * 100, -(2**63), 0.5, "auto"]
NAMES = [
    *("model", "messages", "max_tokens", "n", "stream", "stop", "seed", "temperature", "tools"),
    *("tool_choice", "response_format", "logprobs", "top_logprobs", "thinking_budget", "top_p"),
    *("chat_template_kwargs", "stream_options", "prompt", "min_p", "user", "unknown", "echo"),
]


def chat_body(rng):
    """A chat body of which something is wrong, as bytes."""
    body = json.loads(json.dumps(GOOD))
    for _ in range(rng.randint(1, 3)):
        target = rng.choice([body, body, body["messages"][0] if _has_message(body) else body])
        name = rng.choice([*NAMES, "role", "content", "tool_calls", "reasoning_content"])
        target[name] = rng.choice(VALUES)
    body["max_tokens"] = rng.choice([4, 4, 4, "4", -4])
    return json.dumps(body).encode()


def _has_message(body):
    messages = body.get("messages")
    return bool(messages) and isinstance(messages, list) and isinstance(messages[0], dict)


def broken_json(rng):
    """Bytes that are no JSON, or none that Python's parser takes."""
    data = bytearray(json.dumps(GOOD).encode())
    for _ in range(rng.randint(1, 4)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    deep = rng.choice([b"[" * 50_000, b'{"a":' * 50_000, b"[" * 100 + b"]" * 100])
    tokens = [b"NaN", b"1" * 9000, b'"\xff\xfe"', b'{"messages":[' + deep, b'{"a":"\\ud800"}', b""]
    return rng.choice([bytes(data), bytes(data[: rng.randrange(len(data))]), *tokens])


PATHS = ["/v1/chat/completions", "/v1/completions", "/v1/models", "/", "/v1/x", "/health"]
LENGTHS = [b"Content-Length: 5\r\nContent-Length: 6", b"Content-Length: -1", b"Content-Length: x"]
LENGTHS += [b"Content-Length: 3\r\nTransfer-Encoding: chunked", b"Transfer-Encoding: chunked, x"]
LENGTHS += [b"Content-Length: 99999999999999"]


def case(rng):
    """(bytes to send to a server, whether their length is told wrongly)."""
    body = rng.choice([chat_body, chat_body, broken_json])(rng)
    path = rng.choice([PATHS[0]] * 5 + PATHS)
    kind = rng.choice([b"application/json"] * 8 + [b"text/plain", b"\xff"])
    length = b"Content-Length: %d" % len(body)
    is_wrong = rng.random() < 0.1
    if is_wrong:
        length = rng.choice(LENGTHS)
    method = rng.choice(["POST"] * 12 + ["GET", "DELETE", "X" * 300])
    lines = [f"{method} {path} HTTP/1.1".encode(), b"Host: 127.0.0.1", b"Content-Type: " + kind]
    return b"\r\n".join([*lines, length, b"Connection: close", b"", body]), is_wrong


def exchange(address, data, leave=False):
    """What a server answers to the bytes, until it closes. leave: say that no more will come."""
    with socket.create_connection(address, timeout=300) as connection:
        try:
            connection.sendall(data)
            if leave:
                connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has refused before all was sent
        parts = []
        try:
            while part := connection.recv(1 << 16):
                parts.append(part)
        except ConnectionResetError:
            pass
    return b"".join(parts)


def check(data, reply):
    """The reply is a response; an error has OpenAI's form unless HTTP itself was broken."""
    if not reply:
        return None  # closed without a word: the client had left with a body begun
    head, _, body = reply.partition(b"\r\n\r\n")
    version, status = head.split(b" ")[:2]
    assert version == b"HTTP/1.1", data[:300]
    status = int(status)
    if status >= 400 and b"application/json" in head and not data.startswith(b"GET /health"):
        error = json.loads(body)["error"]
        assert error["message"] and error["type"] == TYPES[status]
    elif status >= 400:
        # Sent in chunks where the request was.
        assert b"Invalid HTTP request received." in body, (data[:300], reply[:300])
    assert status < 500, (data[:2000], reply[:500])
    return status


@pytest.mark.parametrize(
    "count", [300, pytest.param(10_000, marks=pytest.mark.slow)], ids=["300", "10000"]
)
def test_malformed_requests_are_refused_and_disturb_nobody(server, count):
    rng = random.Random(0)
    address = server.socket.getsockname()
    with client_of(server) as client:
        said = client.chat.completions.create(**GOOD, seed=1).choices[0].message.content
        statuses = []
        for number in range(count):
            data, is_wrong = case(rng)
            statuses.append(check(data, exchange(address, data, leave=is_wrong)))
            if number % 100 == 0:
                again = client.chat.completions.create(**GOOD, seed=1)
                assert again.choices[0].message.content == said
    assert {200, 400, 404, 405, 415} <= set(statuses)
    thread = server.app.engine_thread
    assert thread.answers == 0 and thread.error is None and not thread.engine.active


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"[1]", 400, "is a JSON list; wanted an object"),
        (b'{"a": NaN}', 400, "NaN is no JSON number"),
        (b'{"a": "\xff"}', 400, "not UTF-8: invalid start byte at byte 7"),
        (b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}", 400, "nested deeper than 64 levels"),
        (b"[" * 10**5, 400, "nested deeper than 64 levels"),
        (b"x" * (8 * 2**20 + 1), 413, "larger than 8388608 bytes"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', 400, "lone surrogate"),
        (b'{"model": "\\ud800"}', 404, "does not exist"),
    ],
)
def test_bodies_that_are_no_requests(server, body, status, message):
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    head += b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    reply = exchange(server.socket.getsockname(), head + body)
    assert int(reply.split(b" ")[1]) == status
    assert message in json.loads(reply.partition(b"\r\n\r\n")[2])["error"]["message"]


def test_a_page_elsewhere_cannot_reach_a_server_on_loopback(server):
    body = json.dumps(GOOD).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n"
    head += b"Content-Type: %b\r\nContent-Length: %d\r\n\r\n"
    address = server.socket.getsockname()
    for host, kind, status in (
        (b"evil.example", b"application/json", b"400"),
        (b"localhost.evil.example:80", b"application/json", b"400"),
        (b"127.0.0.1", b"text/plain", b"415"),
        (b"localhost:9", b"application/json; charset=utf-8", b"200"),
    ):
        reply = exchange(address, head % (host, kind, len(body)) + body)
        assert reply.split(b" ")[1] == status


def test_a_key_is_asked_for(model):
    import openai

    with serving(model, fresh_engine(model), api_key="s3cret") as server:
        with client_of(server, api_key="s3cret") as client:
            assert client.models.list().data
        for key in ("wrong", "s3cre", "s3cret "):
            with client_of(server, api_key=key) as client, pytest.raises(openai.OpenAIError):
                client.models.list()
        head = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        assert b'{"status":"ok"}' in exchange(server.socket.getsockname(), head)


def test_a_client_that_leaves_with_a_body_begun_is_counted_and_no_error(server, caplog):
    left = server.app.metrics.clients_left._value
    before = left.get()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
    head += b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    assert exchange(server.socket.getsockname(), head, leave=True) == b""
    end = time.monotonic() + 60
    while left.get() == before and time.monotonic() < end:
        time.sleep(0.01)
    assert left.get() == before + 1
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_body_that_never_ends_holds_up_nobody(server, client):
    with socket.create_connection(server.socket.getsockname()) as slow:
        slow.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n")
        slow.sendall(b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
        time.sleep(0.1)
        assert client.chat.completions.create(**GOOD).choices
