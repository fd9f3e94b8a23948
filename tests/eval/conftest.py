"""One tiny model for all tests of evaluation: its programs are compiled once."""

import pytest

import qwen3
from qwen3.data.tokenizer import Tokenizer
from qwen3.model.sizes import ModelConfig

TOY = ModelConfig("toy", 1, 32, 64, 2, 1, head_dim=16, vocab=512, tied=True, max_length=256)


@pytest.fixture(scope="session")
def model():
    text = "Monday Tuesday turn lock at answer: boxed A B C D 0 1 2 3 4 5 6 7 8 9 user assistant "
    return qwen3.create(TOY, seed=3, tokenizer=Tokenizer.train([text * 9], size=320))
