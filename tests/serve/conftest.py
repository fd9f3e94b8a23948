"""One tiny model behind a server in a thread, for all tests of serving."""

import dataclasses
import threading
import time
from contextlib import contextmanager

import jax
import numpy as np
import openai
import pytest

from qwen3.config import MeshConfig
from qwen3.data import chat
from qwen3.data.tokenizer import Tokenizer
from qwen3.infer import grammar
from qwen3.infer.language_model import LanguageModel
from qwen3.mesh import make_mesh
from qwen3.model import transformer
from qwen3.model.sizes import ModelConfig
from qwen3.serve.application import ServerApp, ServerSettings
from qwen3.serve.http_server import DrainingServer
from qwen3.serve.served_model import ServedModel

LENGTH = 512
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


def fresh_engine(model, **options):
    """An engine of its own; the same options give the same compiled programs."""
    settings = {"slots": 4, "max_length": LENGTH, "buckets": (LENGTH,), "block": 8}
    model._engine = None
    return model.engine(**settings | options)


@contextmanager
def serving(model, engine=None, **settings):
    """A running DrainingServer of the model; stopped and joined at the end."""
    engine = engine or fresh_engine(model)
    app = ServerApp(
        ServedModel.of("tiny", model, engine), engine, ServerSettings(port=0, **settings)
    )
    server = DrainingServer(app)
    thread = threading.Thread(target=server.run_until_told)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    try:
        yield server
    finally:
        server.stop()
        thread.join()


@pytest.fixture(scope="session")
def server(model):
    with serving(model) as server:
        yield server


def client_of(server, **options):
    settings = {"api_key": "none", "max_retries": 0, "timeout": 300}
    return openai.OpenAI(base_url=f"{server.url}/v1", **settings | options)


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
