"""The server under load against its engine alone, and what a JSON schema costs a token.

One model (width 256, 8 layers, as in bench_generate), 16 slots. `--clients` threads of plain HTTP
stream chat answers from a server process for `--seconds`; answers are of lognormal length (median
60, sigma 0.9, 4 to 256 tokens), and no client stops asking. Before and after it the engine alone
decodes requests like these. Programs are compiled in a first run of the engine, whose rate does not
count, and in the first third of the server's time, which is left out. The ratio of tokens per
second is printed, with the times to the first token, refusals, and what the server holds at the
end. Then 16 answers are decoded with and without a schema.

Command:   python experiments/bench_serve.py [--clients 64] [--seconds 180]
Hardware:  two cores; seven minutes.
Expected:  0.92 of the engine alone on two free cores, nothing left in slots or queue, 12% more time
           a token under a schema (docs/log/2026-11-30-server-under-load.md).
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qwen3.infer.engine import Engine

LENGTH, SLOTS, BLOCK, MOST = 512, 16, 16, 256
WARM = 1 / 3  # share of a run that is left out
TEXT = "the cat and the hat, the bat; one two three 1234\n"


def answer_tokens(rng: random.Random) -> int:
    """How long an answer shall be."""
    return int(min(max(rng.lognormvariate(4.094, 0.9), 4), MOST))


def make_model(folder: Path) -> None:
    """A random model with a tokenizer, as a folder."""
    import qwen3
    from qwen3.data.tokenizer import Tokenizer
    from qwen3.model.sizes import ModelConfig

    tokenizer = Tokenizer.train([TEXT * 3], 290)
    config = ModelConfig(
        "bench", 8, 256, 768, 8, 4, head_dim=64, vocab=4096, tied=True, max_length=LENGTH
    )
    qwen3.create(config, tokenizer=tokenizer).save(folder)


def engine_of(folder: Path) -> Engine:
    """The engine that the server would make."""
    import qwen3

    return qwen3.load(folder).engine(slots=SLOTS, max_length=LENGTH, block=BLOCK)


def engine_rate(folder: Path, seconds: float) -> float:
    """Tokens a second of the engine alone, kept full for so long."""
    from qwen3.infer.chat_session import chat_request

    engine, rng = engine_of(folder), random.Random(0)
    assert engine.tokenizer is not None

    def request(number: int) -> Any:
        messages = [{"role": "user", "content": f"{TEXT}{number}"}]
        limit = answer_tokens(rng)
        # No id ends an answer: its length is the drawn one.
        return chat_request(
            engine.tokenizer, messages, max_tokens=limit, stop_ids=(), sampling="model"
        )

    number, begun, before = 0, time.perf_counter(), 0
    start = begun + seconds * WARM
    while (now := time.perf_counter()) < begun + seconds:
        if not before and now >= start:
            start, before = now, engine.stats["tokens"]
        while len(engine.waiting) < 48:
            engine.submit([request(number)])
            number += 1
        engine.step()
    return (engine.stats["tokens"] - before) / (now - start)


class Client(threading.Thread):
    """Asks for one streamed answer after the other; counts tokens, times and refusals."""

    def __init__(self, number: int, port: int, start: float, end: float):
        super().__init__()
        self.number, self.port, self.counted_from, self.end = number, port, start, end
        self.tokens, self.refused, self.answers = 0, 0, 0
        self.waits: list[float] = []  # seconds to the first event
        self.errors: list[str] = []

    def run(self) -> None:
        rng = random.Random(self.number)
        while time.perf_counter() < self.end:
            body = {
                "messages": [{"role": "user", "content": f"{TEXT}{rng.random()}"}],
                "max_tokens": answer_tokens(rng),
                "temperature": 1,
                "top_p": 1,
                "top_k": 0,
                "presence_penalty": 0,
                "stream": True,
                "return_token_ids": True,
            }
            try:
                self.ask(body)
            except (OSError, ValueError, http.client.HTTPException) as error:
                self.errors.append(repr(error))

    def ask(self, body: dict[str, Any]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        start = time.perf_counter()
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        response = connection.getresponse()
        if response.status == 429:
            self.refused += 1
            assert json.loads(response.read())["error"]["code"] == "queue_full"
            time.sleep(float(response.headers["Retry-After"]))
        elif response.status != 200:
            raise ValueError(f"status {response.status}: {response.read()[:200]!r}")
        else:
            self.read(response, start)
        connection.close()

    def read(self, response: http.client.HTTPResponse, start: float) -> None:
        """Count the tokens of the chunks that come in the time that is counted."""
        events = 0
        for event in response:
            now = time.perf_counter()
            if not event.startswith(b'data: {"'):
                continue
            value = json.loads(event[6:])
            if "error" in value:
                raise ValueError(value["error"]["message"])
            if events == 0 and start >= self.counted_from:
                self.waits.append(now - start)
            events += 1
            ids = [i for choice in value["choices"] for i in choice.get("token_ids", ())]
            self.tokens += len(ids) if self.counted_from <= now < self.end else 0
        self.answers += 1


def server_load(folder: Path, clients: int, seconds: float, queue: int) -> float:
    """Tokens a second that the clients get; prints what else was seen."""
    command = [sys.executable, "-m", "qwen3.cli", "serve", str(folder), "--port", "0"]
    command += ["--slots", str(SLOTS), "--block", str(BLOCK), "--queue", str(queue)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = next(line for line in process.stderr if " at http://" in line)
        port = int(line.rsplit(":", 1)[1].split("/")[0])
        status = Path(f"/proc/{process.pid}/status")
        memory = [_resident(status)]
        start = time.perf_counter()
        times = start + seconds * WARM, start + seconds
        threads = [Client(i, port, *times) for i in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        memory.append(_resident(status))
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/metrics")
        metrics = connection.getresponse().read().decode()
        process.terminate()
        code = process.wait(120)
    waits = sorted(wait for thread in threads for wait in thread.waits)
    errors = [error for thread in threads for error in thread.errors]
    answers, refused = sum(t.answers for t in threads), sum(t.refused for t in threads)
    print(f"answers {answers}, refused {refused}, errors {errors[:3]}")
    if not waits:
        raise SystemExit("no answer began in the time that is counted: ask for more --seconds")
    late = waits[-1 - len(waits) // 100]
    print(f"first token, s: median {statistics.median(waits):.2f}, p99 {late:.2f}")
    print("left:", re.findall(r"qwen3_answers_\w+ \S+", metrics), "exit code", code)
    print("resident, MB:", memory)
    return sum(thread.tokens for thread in threads) / (times[1] - times[0])


def _resident(status: Path) -> int:
    return int(re.search(r"VmRSS:\s+(\d+)", status.read_text()).group(1)) // 1024


def schema_cost(folder: Path) -> None:
    """Milliseconds a step of 16 answers with and without a schema that any JSON meets."""
    import dataclasses

    from qwen3.infer.answer_grammar import GrammarTokens, turn_grammar
    from qwen3.infer.requests import Request, sampling

    engine = engine_of(folder)
    tokens = GrammarTokens(engine.tokenizer, engine.config.vocab)
    schema = {"type": "array", "items": {"type": "string"}}
    grammar = turn_grammar(tokens, schema=schema, may_think=False)
    plain = [Request([i + 1, 2, 3], sampling=sampling("model"), max_tokens=200) for i in range(16)]
    times: dict[str, list[float]] = {"free": [], "schema": []}
    for turn in range(4):
        for name, column in times.items():
            chosen = grammar if name == "schema" else None
            requests = [
                dataclasses.replace(
                    request, grammar=chosen, seed=turn, stop_ids=None if chosen else ()
                )
                for request in plain
            ]
            cpu = time.process_time()
            wall = time.perf_counter()
            done = engine.generate(requests)
            count = sum(len(completion.tokens) for completion in done)
            steps = max(len(completion.tokens) for completion in done)
            if turn:
                column.append(1000 * (time.perf_counter() - wall) / steps)
                print(
                    f"{name}: {steps} steps, {count} tokens, {column[-1]:.2f} ms a step,"
                    f" {1000 * (time.process_time() - cpu) / steps:.2f} ms of processors"
                )
    ratio = statistics.median(times["schema"]) / statistics.median(times["free"])
    print(f"a schema: {ratio:.2f}x the time of a step")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--queue", type=int, default=64)
    parser.add_argument("--only", choices=["load", "schema"])
    arguments = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "bench"
        make_model(folder)
        if arguments.only != "schema":
            engine_rate(folder, arguments.seconds / 3)  # compiles
            alone = [engine_rate(folder, arguments.seconds / 4)]
            served = server_load(folder, arguments.clients, arguments.seconds, arguments.queue)
            alone.append(engine_rate(folder, arguments.seconds / 4))
            print(f"engine alone {alone[0]:.0f} and {alone[1]:.0f} tokens/s, served {served:.0f}")
            print(f"ratio {served / statistics.mean(alone):.2f}")
        if arguments.only != "load":
            schema_cost(folder)


if __name__ == "__main__":
    main()
