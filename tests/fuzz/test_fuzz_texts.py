"""What models write and callers ask: always a score, a turn, an answer, or one ValueError."""

import jax
import pytest
from bounds import attack
from text_targets import NAMES, targets

from qwen3.data.tokenizer import Tokenizer
from qwen3.infer.engine import Engine
from qwen3.infer.requests import Request
from qwen3.model import transformer
from qwen3.model.sizes import ModelConfig

EVERY = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module")
def of_name():
    """{name: target}, with an engine that has compiled what requests here need."""
    tokenizer = Tokenizer.train(["the cat and the hat, the bat; one two three 1234\n" * 3], 290)
    sizes = {"head_dim": 8, "vocab": tokenizer.vocab_rows, "tied": True, "max_length": 64}
    config = ModelConfig("test", 2, 32, 64, 4, 2, **sizes)
    params = jax.jit(lambda key: transformer.init(config, key))(jax.random.key(0))
    settings = {"slots": 4, "max_length": 64, "buckets": (64,), "block": 8}
    engine = Engine(config, params, tokenizer=tokenizer, **settings)
    engine.generate([Request([1, 2, 3], max_tokens=3)])
    return {target.name: target for target in targets(tokenizer, engine)}


@EVERY
def test_any_text_and_any_request_end_soon_and_as_documented(of_name, name, tmp_path):
    attack(of_name[name], tmp_path, of_name[name].share)


@EVERY
@pytest.mark.slow
def test_thousands_of_texts_and_requests_end_soon_and_as_documented(of_name, name, tmp_path):
    outcome = attack(of_name[name], tmp_path, of_name[name].full, "long")
    print(f"{name}: {dict(outcome.ends)}, slowest {outcome.slowest:.3f} s")
