"""One tiny model and tokenizer for all tests of generation."""

import jax
import numpy as np
import pytest
from tiny import BUCKETS, LENGTH, PAGES, STEPS, fresh

from qwen3.data.tokenizer import Tokenizer
from qwen3.infer.engine import Engine
from qwen3.infer.requests import Request, sampling
from qwen3.model import transformer
from qwen3.model.execution import Execution
from qwen3.model.sizes import ModelConfig


@pytest.fixture(scope="session")
def tokenizer():
    return Tokenizer.train(["the cat and the hat, the bat; one two three 1234\n" * 3], 290)


@pytest.fixture(scope="session")
def config(tokenizer):
    rows = tokenizer.vocab_rows
    return ModelConfig(
        "test", 2, 32, 64, 4, 2, head_dim=8, vocab=rows, tied=True, max_length=LENGTH
    )


@pytest.fixture(scope="session")
def params(config):
    return fresh(config, 0)


@pytest.fixture(scope="session")
def apply(config):
    """As the losses take it."""

    @jax.jit
    def forward(params, tokens, positions, segments):
        return transformer.forward(
            params, config, tokens, positions, segments, execution=Execution()
        )

    return forward


@pytest.fixture(params=[STEPS, PAGES], ids=["rows", "pages"])
def tight(request):
    """Options of an engine with little memory, for each form of the KV cache."""
    return request.param


@pytest.fixture
def make(config, params, tokenizer):
    """make(**options) -> Engine; the same options give the same compiled programs."""

    def engine(**options):
        settings = {"slots": 4, "max_length": LENGTH, "block": 8}
        if options.get("cache") != "paged":
            settings["buckets"] = BUCKETS
        return Engine(config, params, tokenizer=tokenizer, **settings | options)

    return engine


@pytest.fixture
def prompts():
    """Twelve of different lengths; ids below 200 are ordinary tokens."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 200, n).tolist() for n in (1, 2, 5, 9, 14, 3, 7, 20, 11, 4, 6, 30)]


@pytest.fixture
def requests(prompts):
    """Twelve requests, each with other rules and limits."""
    rules = [
        sampling(),
        sampling("thinking"),
        sampling("non_thinking"),
        sampling("greedy"),
        sampling("tools"),
        sampling("model", min_p=0.1, frequency_penalty=0.5),
    ]
    return [
        Request(prompt, sampling=rules[i % 6], max_tokens=3 + 5 * i % 31, sample=i)
        for i, prompt in enumerate(prompts)
    ]


@pytest.fixture
def expected(make, requests):
    """The answers to `requests`, whatever the schedule."""
    return [completion.tokens for completion in make().generate(requests)]
