"""One tiny model and tokenizer for all tests of generation."""

import jax
import numpy as np
import pytest
from tiny import BUCKETS, LENGTH, fresh

from qwen3.data.tokenizer import Tokenizer
from qwen3.infer.engine import Engine
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


@pytest.fixture
def make(config, params, tokenizer):
    """make(**options) -> Engine; the same options give the same compiled programs."""

    def engine(**options):
        settings = {"slots": 4, "max_length": LENGTH, "buckets": BUCKETS, "block": 8}
        return Engine(config, params, tokenizer=tokenizer, **settings | options)

    return engine


@pytest.fixture
def prompts():
    """Twelve of different lengths; ids below 200 are ordinary tokens."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 200, n).tolist() for n in (1, 2, 5, 9, 14, 3, 7, 20, 11, 4, 6, 30)]
