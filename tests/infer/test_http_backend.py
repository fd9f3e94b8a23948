"""Rollouts from a server: both protocols, what is refused, and servers that fail."""

import math

import pytest
from rollout_server import RolloutServerHere

from qwen3.infer import http_backend
from qwen3.infer.backend import RolloutBackend
from qwen3.infer.http_backend import HttpBackend, RolloutServer, ServerError
from qwen3.infer.requests import Request, SamplingParams, sampling


@pytest.fixture
def server(make):
    serving = RolloutServerHere(make().generate)
    yield serving
    serving.close()


@pytest.fixture
def backend(server, tokenizer, tmp_path):
    """backend(**settings of RolloutServer) -> HttpBackend of the server."""

    def connect(**settings):
        settings = {"url": server.url, "weights": str(tmp_path / "weights"), **settings}
        return HttpBackend(
            RolloutServer(**settings),
            tokenizer,
            vocab=tokenizer.vocab_rows,
            max_length=64,
            seed=3,
            export=lambda params, folder: server.bodies.append((folder, params)),
        )

    return connect


@pytest.mark.parametrize("protocol", http_backend.PROTOCOLS)
def test_answers_are_the_engines_in_ids_and_log_probabilities(protocol, backend, make, prompts):
    requests = [Request(p, sampling("greedy"), max_tokens=9) for p in prompts]
    theirs = backend(protocol=protocol)
    assert isinstance(theirs, RolloutBackend)
    theirs.update("weights of step 5", 5)
    for ours, other in zip(make().generate(requests), theirs.generate(requests), strict=True):
        assert (ours.tokens, ours.finish) == (other.tokens, other.finish)
        assert other.log_probs == pytest.approx(ours.log_probs, abs=1e-5)
        assert other.versions == [5] * len(ours.tokens) and not any(other.forced)
        assert other.request in requests


@pytest.mark.parametrize("protocol", http_backend.PROTOCOLS)
def test_settings_and_seeds_reach_the_server(protocol, backend, server):
    chosen = SamplingParams(temperature=0.5, top_k=4, top_p=0.9, min_p=0.1, presence_penalty=1.5)
    request = Request([5, 6, 7], chosen, max_tokens=3, prompt_id=8)
    connected = backend(protocol=protocol, model="name of it")
    first, second = connected.generate(request.samples(2))
    bodies = [body.get("sampling_params", body) for _, body in server.bodies]
    assert bodies[0]["temperature"] == 0.5 and bodies[0]["top_k"] == 4
    assert bodies[0]["top_p"] == 0.9 and bodies[0]["min_p"] == 0.1
    assert bodies[0]["presence_penalty"] == 1.5
    seeds = [body.get("seed", body.get("sampling_seed")) for body in bodies]
    assert seeds[0] != seeds[1] and all(0 <= seed < 2**31 for seed in seeds)
    assert connected.generate(request.samples(2)) == [first, second]
    everything = Request([5, 6, 7], max_tokens=3)
    connected.generate([everything])
    _, body = server.bodies[-1]
    assert body.get("sampling_params", body)["top_k"] == -1
    if protocol == "vllm":
        assert body["model"] == "name of it" and body["return_token_ids"] is True


@pytest.mark.parametrize("protocol", http_backend.PROTOCOLS)
def test_weights_are_exported_and_loaded_once_a_version(protocol, backend, server, tmp_path):
    connected = backend(protocol=protocol)
    for version in (0, 0, 1):
        connected.update(f"step {version}", version)
    assert server.loads == 2 and connected.version == 1
    folder = str(tmp_path / "weights")
    assert [body for path, body in server.bodies if path == folder] == ["step 0", "step 1"]


@pytest.mark.parametrize("change", [{"budget": 3}, {"thinking": True}, {"stop_strings": ("a",)}])
def test_what_a_server_cannot_do_is_refused_before_anything_is_asked(change, backend, server):
    with pytest.raises(ValueError, match="rollout server"):
        backend().generate([Request([5]), Request([5], **change)])
    assert not server.bodies
    with pytest.raises(ValueError, match="vocabulary"):
        backend().generate([Request([10**6])])


def changed(**fields):
    return lambda reply: (200, {"choices": [reply["choices"][0] | fields]})


SPOILT = {
    "another prompt": changed(prompt_token_ids=[1, 2]),
    "log-probabilities of": changed(logprobs={"token_logprobs": [-1.0]}),
    "does not answer as vllm": changed(logprobs=None),
    "no token": changed(token_ids=[], logprobs={"token_logprobs": []}),
    "tokens of at most 9": changed(token_ids=[5] * 99, logprobs={"token_logprobs": [-1] * 99}),
    "outside of the vocabulary": changed(token_ids=[10**6] * 9),
    "that is none": changed(logprobs={"token_logprobs": [math.nan] * 9}),
    "finish 'abort'": changed(finish_reason="abort"),
    "without an end token": changed(finish_reason="stop"),
    "500": lambda reply: (500, {"error": "out of memory"}),
    "Expecting value": lambda reply: (200, b"<html>"),
}


@pytest.mark.parametrize("words", SPOILT)
def test_an_answer_to_something_else_is_an_error_that_says_what(words, backend, server, prompts):
    server.spoil = SPOILT[words]
    request = Request(prompts[0], sampling("greedy"), max_tokens=9, stop_ids=())
    with pytest.raises(ServerError, match=words) as error:
        backend().generate([request])
    assert server.url in str(error.value)


def test_a_busy_server_is_asked_again_and_one_that_is_gone_is_named(
    backend, server, prompts, monkeypatch
):
    waits = []
    monkeypatch.setattr(http_backend.time, "sleep", waits.append)
    replies = [(429, {}), (503, {})]
    server.spoil = lambda reply: replies.pop() if replies else (200, reply)
    connected = backend()
    (completion,) = connected.generate([Request(prompts[0], max_tokens=4)])
    assert completion.tokens and waits == [1, 2]
    server.close()
    with pytest.raises(ServerError, match="refused"):
        connected.generate([Request(prompts[0], max_tokens=4)])


@pytest.mark.parametrize(
    "settings",
    [{"url": "host:8000"}, {"protocol": "grpc"}, {"weights": ""}, {"connections": 0}],
)
def test_wrong_settings_are_named(settings):
    fields = {"url": "http://127.0.0.1:1", "weights": "w", **settings}
    with pytest.raises(ValueError, match=str(*settings)):
        RolloutServer(**fields)
