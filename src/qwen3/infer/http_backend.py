"""Rollouts from a server over HTTP, as a TurnBackend: vLLM, SGLang, or `qwen3 serve --reload`.

Tokens come back as ids with their log-probabilities; text is never encoded again. New weights are
handed over as a Hugging Face folder, which the server is then told to load. An answer that is not
what was asked for (other prompt ids, no log-probabilities, more tokens) ends the run by an error
before anything is trained on it.
"""

from __future__ import annotations

import json
import math
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, NamedTuple

from qwen3.data.tokenizer import Tokenizer
from qwen3.infer.backend import completions
from qwen3.infer.request_state import RequestState, TokenChunk
from qwen3.infer.requests import Completion, Request, check_request, seeds

RETRIES = 4  # of a call that found no server, or a busy one (429, 503); 1, 2, 4 and 8 s apart
BUSY = (429, 503)
STEP_SECONDS = 0.05  # that `step` waits for an answer, at most


class ServerError(RuntimeError):
    """A rollout server that does not answer, or answers with something else than was asked for."""


class Answer(NamedTuple):
    """What a server said of one request."""

    prompt: list[int] | None  # ids that it read; None where the protocol does not repeat them
    tokens: list[int]  # the answer
    log_probs: list[float]  # nats, of the model's own distribution
    finish: str  # "stop" or "length"


@dataclass(frozen=True)
class RolloutServer:
    """Where rollouts come from instead of the engine in this process; "" for url: the engine."""

    url: str = ""  # without /v1, such as http://127.0.0.1:8000
    protocol: str = "vllm"  # one of PROTOCOLS
    model: str = ""  # the name by which the server knows the model
    # A folder that this process writes and the server reads: new weights are exported there.
    weights: str = ""
    connections: int = 64  # requests under way at the same time
    seconds: float = 1800.0  # until an answer, or the loading of weights, is given up

    def __post_init__(self) -> None:
        if not self.url:
            return
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url {self.url!r} of the rollout server begins with neither http(s)")
        if self.protocol not in PROTOCOLS:
            known = ", ".join(PROTOCOLS)
            raise ValueError(f"protocol {self.protocol!r} is none of {known}")
        if not self.weights:
            raise ValueError("a rollout server needs `weights`, a folder that it loads them from")
        if self.connections < 1 or not self.seconds > 0:
            raise ValueError(f"connections and seconds of {self} must be positive")


class HttpBackend:
    """`infer.backend.TurnBackend` by a server; requests with a budget, a forced mode, stop strings
    or a grammar are refused, as what a server writes by force has no log-probability.

    New weights reach answers on their way too. A server does not say which token they begin with,
    so all tokens of an answer have the version of when it was asked for: none is older than it
    says.

    export(params, folder): writes a Hugging Face folder. version: of the weights that the server
    has; -1 where nobody knows, so that the first `update` hands them over.
    """

    def __init__(
        self,
        server: RolloutServer,
        tokenizer: Tokenizer,
        *,
        vocab: int,
        max_length: int,
        seed: int,
        export: Callable[[Any, str], None],
    ) -> None:
        self.server, self.tokenizer, self.version = server, tokenizer, -1
        self.max_length = max_length  # tokens of a conversation
        self._vocab, self._seed = vocab, seed
        self._export, self._protocol = export, PROTOCOLS[server.protocol]
        self._pool = ThreadPoolExecutor(server.connections, thread_name_prefix="rollouts")
        self._pending: dict[Future[Completion], RequestState] = {}

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """A completion for each request, in their order."""
        return completions(self, requests)

    def submit(self, requests: Sequence[Request]) -> list[RequestState]:
        """Ask for answers, `server.connections` at a time. ValueError, before any is asked for, for
        a request that the server cannot serve."""
        for request in requests:
            self._check(request)
        states = [
            RequestState(
                request,
                number,
                max_length=self.max_length,
                tokenizer=self.tokenizer,
                engine_seed=self._seed,
            )
            for number, request in enumerate(requests)
        ]
        for state in states:
            self._pending[self._pool.submit(self._complete, state.request)] = state
        return states

    def step(self) -> None:
        """Wait a moment for answers. Raises what an answer failed with."""
        finished, _ = wait(self._pending, STEP_SECONDS, FIRST_COMPLETED)
        for answer in finished:
            self._pending.pop(answer).completion = answer.result()

    def abort(self, states: Sequence[RequestState]) -> None:
        """Give up what is not asked for yet; what the server is at is not read any more."""
        given_up = set(states)
        for answer, state in list(self._pending.items()):
            if state in given_up:
                answer.cancel()
                del self._pending[answer]

    def stream(self, requests: Sequence[Request]) -> Iterator[TokenChunk]:
        """Refused: answers of a server come whole."""
        raise ValueError("a rollout server answers whole requests; use generate")

    def update(self, params: Any, version: int) -> None:
        """Export the weights and have the server load them; nothing if it has that version."""
        if version == self.version:
            return
        self._export(params, self.server.weights)
        path, body = self._protocol.load(self.server)
        reply = self._call(path, body)
        if isinstance(reply, dict) and reply.get("success") is False:
            raise ServerError(f"{self.server.url}{path}: {reply.get('message', reply)}")
        self.version = version

    def _check(self, request: Request) -> None:
        check_request(request, vocab=self._vocab, max_length=self.max_length, has_tokenizer=True)
        for name in ("thinking", "budget", "grammar"):
            if getattr(request, name) is not None:
                raise ValueError(f"{name} is not to be had from a rollout server; use the engine")
        if request.stop_strings or request.alternatives:
            raise ValueError("a rollout server takes no stop strings and gives no alternatives")

    def _complete(self, request: Request) -> Completion:
        version = self.version
        most = self.max_length - len(request.prompt)
        most = min(most, request.max_tokens or most)
        path, body = self._protocol.ask(self.server, self.tokenizer, request, most, self._seed)
        reply = self._call(path, body)
        try:
            answer = self._protocol.read(reply)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            words = f"{type(error).__name__} {error} in {json.dumps(reply)[:200]}"
            raise ServerError(
                f"{self.server.url}{path} does not answer as {self.server.protocol}: {words}"
            ) from None
        self._compare(request, answer, most)
        count = len(answer.tokens)
        return Completion(
            request,
            answer.tokens,
            log_probs=answer.log_probs,
            sampling_log_probs=answer.log_probs,
            forced=[False] * count,
            versions=[version] * count,
            finish=answer.finish,
        )

    def _compare(self, request: Request, answer: Answer, most: int) -> None:
        """ServerError for an answer to something else, or without what training needs."""
        stop = self.tokenizer.stop_ids if request.stop_ids is None else request.stop_ids
        faults = {
            "it read another prompt": answer.prompt not in (None, list(request.prompt)),
            "no token": not answer.tokens,
            f"{len(answer.tokens)} tokens of at most {most}": len(answer.tokens) > most,
            f"{len(answer.log_probs)} log-probabilities of {len(answer.tokens)} tokens": len(
                answer.log_probs
            )
            != len(answer.tokens),
            "a log-probability that is none": any(
                not math.isfinite(value) or value > 0 for value in answer.log_probs
            ),
            "an id outside of the vocabulary": any(
                not 0 <= token < self._vocab for token in answer.tokens
            ),
            f"finish {answer.finish!r}": answer.finish not in ("stop", "length"),
            "it stopped without an end token": answer.finish == "stop"
            and bool(answer.tokens)
            and answer.tokens[-1] not in stop,
        }
        for words in (text for text, wrong in faults.items() if wrong):
            raise ServerError(f"{self.server.url} answered prompt {request.prompt_id}: {words}")

    def _call(self, path: str, body: dict[str, Any]) -> Any:
        """POST `body` as JSON; the answer's JSON. ServerError names the address and the reason."""
        url = self.server.url.rstrip("/") + path
        headers = {"Content-Type": "application/json"}
        call = urllib.request.Request(url, json.dumps(body).encode(), headers)
        for attempt in range(RETRIES + 1):
            try:
                with urllib.request.urlopen(call, timeout=self.server.seconds) as reply:
                    text = reply.read()
                return json.loads(text) if text.strip() else None
            except urllib.error.HTTPError as error:
                words = f"{error.code} {error.read()[:200].decode(errors='replace')}"
                again = error.code in BUSY
            except (OSError, ValueError) as error:  # no server, time over, cut off, no JSON
                words, again = str(error), isinstance(error, OSError)
            if not again or attempt == RETRIES:
                break
            time.sleep(2**attempt)
        raise ServerError(f"rollout server {url}: {words}")


class Protocol(NamedTuple):
    """How one kind of server is spoken to."""

    # (server, tokenizer, request, most tokens, run seed) -> (path, body)
    ask: Callable[[RolloutServer, Tokenizer, Request, int, int], tuple[str, dict[str, Any]]]
    read: Callable[[Any], Answer]
    load: Callable[[RolloutServer], tuple[str, dict[str, Any]]]  # new weights from the folder


def _random_seed(request: Request, seed: int) -> int:
    """One number of 31 bits from (run seed, prompt id, sample), as servers take a single one."""
    run, prompt, sample = seeds(request, seed)
    return (run * 1_000_003 + prompt * 10_007 + sample) % 2**31


def _sampling(request: Request, tokenizer: Tokenizer, everything: int) -> dict[str, Any]:
    """The request's settings by the names that vLLM and SGLang share. everything: top_k for all."""
    chosen = request.sampling
    stop = tokenizer.stop_ids if request.stop_ids is None else request.stop_ids
    return {
        "temperature": chosen.temperature,
        "top_k": chosen.top_k or everything,
        "top_p": chosen.top_p,
        "min_p": chosen.min_p,
        "presence_penalty": chosen.presence_penalty,
        "frequency_penalty": chosen.frequency_penalty,
        "repetition_penalty": chosen.repetition_penalty,
        "stop_token_ids": list(stop),
    }


def _ask_vllm(
    server: RolloutServer, tokenizer: Tokenizer, request: Request, most: int, seed: int
) -> tuple[str, dict[str, Any]]:
    return "/v1/completions", {
        "model": server.model,
        "prompt": list(request.prompt),
        "max_tokens": most,
        "seed": _random_seed(request, seed),
        "logprobs": 0,  # of the sampled token alone
        "return_token_ids": True,
        **_sampling(request, tokenizer, -1),
    }


def _read_vllm(reply: Any) -> Answer:
    (choice,) = reply["choices"]
    log_probs = choice["logprobs"]["token_logprobs"]
    return Answer(
        choice["prompt_token_ids"], choice["token_ids"], log_probs, choice["finish_reason"]
    )


def _load_vllm(server: RolloutServer) -> tuple[str, dict[str, Any]]:
    # Of a server that serves the folder, started with VLLM_SERVER_DEV_MODE=1.
    return "/collective_rpc", {"method": "reload_weights"}


def _ask_sglang(
    server: RolloutServer, tokenizer: Tokenizer, request: Request, most: int, seed: int
) -> tuple[str, dict[str, Any]]:
    settings = _sampling(request, tokenizer, -1) | {"max_new_tokens": most}
    settings["sampling_seed"] = _random_seed(request, seed)
    return "/generate", {
        "input_ids": list(request.prompt),
        "return_logprob": True,
        "sampling_params": settings,
    }


def _read_sglang(reply: Any) -> Answer:
    about = reply["meta_info"]
    pairs = about["output_token_logprobs"]
    tokens = [token for _, token, *_ in pairs]
    if tokens != reply["output_ids"]:
        raise ValueError(f"output_ids {reply['output_ids'][:8]} are not those of the log-probs")
    return Answer(None, tokens, [value for value, *_ in pairs], about["finish_reason"]["type"])


def _load_sglang(server: RolloutServer) -> tuple[str, dict[str, Any]]:
    return "/update_weights_from_disk", {"model_path": server.weights}


PROTOCOLS = {
    "vllm": Protocol(_ask_vllm, _read_vllm, _load_vllm),
    "sglang": Protocol(_ask_sglang, _read_sglang, _load_sglang),
}
