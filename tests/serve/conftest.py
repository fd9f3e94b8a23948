"""One tiny model behind a server in a thread, for all tests of serving."""

import dataclasses

import jax
import numpy as np
import pytest
from tiny_server import LENGTH, client_of, serving

from qwen3.config import MeshConfig
from qwen3.data import chat
from qwen3.data.tokenizer import Tokenizer
from qwen3.infer import grammar
from qwen3.infer.language_model import LanguageModel
from qwen3.mesh import make_mesh
from qwen3.model import transformer
from qwen3.model.sizes import ModelConfig

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
# The texts around tools are long: a tokenizer that knows them leaves room in a short context.
TEXTS = [
    "the cat and the hat, the bat; one two three 1234\n" * 3,
    chat.render([{"role": "user", "content": "the cat?"}], tools=[TOOL]),
]


@pytest.fixture(scope="session")
def tokenizer():
    return Tokenizer.train(TEXTS * 3, 440)


@pytest.fixture(scope="session")
def model(tokenizer):
    rows = tokenizer.vocab_rows
    config = ModelConfig(
        "test", 2, 32, 64, 4, 2, head_dim=8, vocab=rows, tied=True, max_length=LENGTH
    )
    params = jax.jit(lambda key: transformer.init(config, key))(jax.random.key(0))
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    return LanguageModel(config, params, mesh=mesh, tokenizer=tokenizer)


@pytest.fixture(scope="session")
def server(model):
    with serving(model) as server:
        yield server


@pytest.fixture
def client(server):
    with client_of(server) as client:
        yield client


class Script:
    """A grammar that allows one text: what a test wants the model to say."""

    def __init__(self, tokenizer, vocab, ids):
        self.tokenizer, self.vocab, self.ids = tokenizer, vocab, [*ids, tokenizer.eos]

    def matcher(self):
        return ScriptMatcher(self)


class ScriptMatcher:
    def __init__(self, script):
        self.script, self.place = script, 0

    def allowed(self):
        flags = np.zeros(32 * grammar.words(self.script.vocab), bool)
        flags[self.script.ids[self.place]] = True
        return np.packbits(flags, bitorder="little").view(np.uint32)

    def accept(self, token, *, forced):
        self.place += not forced


@pytest.fixture
def say(server, model, monkeypatch):
    """say(text or ids): what the model will answer from now on."""

    def say(text):
        ids = model.tokenizer.encode(text) if isinstance(text, str) else text
        script = Script(model.tokenizer, model.config.vocab, ids)
        thread = server.app.engine_thread

        def submit(requests):
            scripted = [dataclasses.replace(request, grammar=script) for request in requests]
            return type(thread).submit(thread, scripted)

        monkeypatch.setattr(thread, "submit", submit)

    return say
