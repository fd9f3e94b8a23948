"""Queue, limits, leaving clients and draining, in a thread and as a process of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import openai
import pytest
from tiny_server import client_of, fresh_engine, serving

QUESTION = [{"role": "user", "content": "the cat?"}]
# Tokens of what a model answers when it shall not end by itself.
LONG = {"model": "tiny", "messages": QUESTION, "max_tokens": 400, "seed": 1}


def until(condition):
    """Wait for a condition; a machine under load may take its time."""
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def stepwise(model):
    """(an engine of two slots whose steps wait for a permit each, the semaphore of permits)."""
    engine, permits = fresh_engine(model, slots=2), threading.Semaphore(0)
    step = engine.step

    def permitted():
        permits.acquire()
        step()

    engine.step = permitted
    return engine, permits


@pytest.fixture
def held(model):
    """(server with two slots and a queue of two, the permits of its engine's steps)."""
    engine, permits = stepwise(model)
    with serving(model, engine, queue=2) as server:
        yield server, permits
        permits.release(10**6)


def raw_stream(server):
    """A connection that has asked for a long stream."""
    body = json.dumps(LONG | {"stream": True}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
    head += b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    connection = socket.create_connection(server.socket.getsockname())
    connection.sendall(head + body)
    return connection


def test_a_full_queue_is_told_with_the_time_to_come_back(held):
    server, permits = held
    thread = server.app.engine_thread
    streams = [raw_stream(server) for _ in range(4)]
    until(lambda: thread.answers == 4)
    with client_of(server) as client:
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(**LONG)
        assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60
        assert caught.value.code == "queue_full"
        assert client.models.list().data  # only answers wait
        for stream in streams:
            stream.close()
        permits.release(10**6)
        until(lambda: thread.answers == 0)
        assert client.chat.completions.create(**LONG | {"max_tokens": 2}).choices


@pytest.mark.parametrize("how", ["reset", "close"])
def test_a_client_that_leaves_frees_its_slots_within_a_block(held, how):
    server, permits = held
    thread = server.app.engine_thread
    streams = [raw_stream(server) for _ in range(2)]
    until(lambda: thread.answers == 2)
    permits.release(2)  # both may come with the first step, or one each
    until(lambda: thread.engine.active == 2 and permits._value == 0)
    for stream in streams:
        if how == "reset":  # as the kernel ends the connections of a killed process
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        stream.close()
    until(lambda: len(thread._inbox) >= thread.answers)  # all that are left are given up
    permits.release()  # the step that may have begun
    until(lambda: thread.engine.active == 0 and thread.answers == 0)


def test_an_unstreamed_call_that_is_given_up_frees_its_slot(held):
    server, permits = held
    thread = server.app.engine_thread
    with client_of(server, timeout=0.5) as client, pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(**LONG)
    permits.release(2)
    until(lambda: thread.answers == 0 and not thread.engine.active)


def test_a_request_has_a_time_limit(model):
    engine, permits = stepwise(model)
    with serving(model, engine, time_limit=0.3) as server, client_of(server) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            client.chat.completions.create(**LONG)
        assert caught.value.status_code == 504 and "longer than 0.3 s" in str(caught.value)
        with pytest.raises(openai.APIError, match="longer than 0.3 s"):
            list(client.chat.completions.create(**LONG, stream=True))
        permits.release(10**6)
        until(lambda: server.app.engine_thread.answers == 0)


def test_an_engine_that_fails_is_told_to_all(model):
    engine = fresh_engine(model)
    with serving(model, engine) as server, client_of(server) as client:
        engine.step = lambda: 1 / 0
        for _ in range(2):
            with pytest.raises(openai.InternalServerError, match="division by zero"):
                client.chat.completions.create(**LONG)
        with pytest.raises(openai.InternalServerError):
            client.get("/../health", cast_to=object)


def test_metrics_count_what_was_served(model):
    with serving(model) as server, client_of(server) as client:
        client.chat.completions.create(**LONG | {"max_tokens": 5, "n": 2})
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(**LONG | {"n": 0})
        metrics = client.get("/../metrics", cast_to=str)
    for line in (
        'qwen3_responses_total{endpoint="chat",status="200"} 1.0',
        'qwen3_responses_total{endpoint="chat",status="400"} 1.0',
        "qwen3_completion_tokens_total 10.0",
        "qwen3_answers_running 0.0",
        "qwen3_answers_waiting 0.0",
        "qwen3_first_token_seconds_count 1.0",
    ):
        assert line in metrics.splitlines()


def test_sigterm_lets_answers_finish_and_leaves_with_code_0(model, tmp_path):
    model.save(tmp_path / "model")
    command = [sys.executable, "-m", "qwen3.cli", "serve", str(tmp_path / "model")]
    command += ["--name", "tiny", "--port", "0", "--slots", "2", "--block", "1"]
    environment = os.environ | {"XLA_FLAGS": ""}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            address = next(line for line in process.stderr if " at http://" in line).split()[-1]
            client = openai.OpenAI(base_url=address, api_key="none", max_retries=0, timeout=300)
            chunks = iter(client.chat.completions.create(**LONG, stream=True))
            next(chunks)
            process.send_signal(signal.SIGTERM)
            until(lambda: not _accepts(address))
            rest = list(chunks)
            assert len(rest) > 5 and rest[-1].choices[0].finish_reason in ("stop", "length")
            assert process.wait(300) == 0
        finally:
            process.kill()


def _accepts(address):
    port = int(address.split(":")[2].split("/")[0])
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "0.0.0.0"], "open to the network: set an API key"),
        (["--port", "-1"], "port -1: wanted 0 to 65535"),
        (["--queue", "-1"], "queue -1"),
        (["--time-limit", "0"], "time_limit 0.0"),
    ],
)
def test_options_out_of_range_are_refused_before_the_model_is_read(options, message, capsys):
    from qwen3.cli import main

    assert main(["serve", "/nowhere", *options]) == 2
    assert message in capsys.readouterr().err


def test_the_form_of_the_kv_cache_and_of_weights_are_options(monkeypatch, capsys):
    from qwen3.cli import main
    from qwen3.infer import language_model

    class Model:
        def __init__(self, execution):
            self.numerics = (execution.cache_dtype, execution.weights)

        def engine(self, **options):
            raise ValueError(f"asked for {options['cache']} caches, {self.numerics}")

    monkeypatch.setattr(language_model, "load", lambda name, execution: Model(execution))
    forms = {
        (): "rows caches, ('', '')",
        ("--cache", "paged"): "paged caches, ('', '')",
        ("--cache-dtype", "int8"): "rows caches, ('int8', '')",
        ("--weights", "int8"): "rows caches, ('', 'int8')",
        ("--weights", "int4"): "weights 'int4'",
    }
    for options, answer in forms.items():
        assert main(["serve", "a-model", *options]) == 2
        assert answer in capsys.readouterr().err
