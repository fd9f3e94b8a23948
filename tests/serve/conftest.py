"""One tiny model behind a server in a thread, for all tests of serving."""

import threading
import time
from contextlib import contextmanager

import jax
import openai
import pytest

from qwen3.config import MeshConfig
from qwen3.data.tokenizer import Tokenizer
from qwen3.infer.language_model import LanguageModel
from qwen3.mesh import make_mesh
from qwen3.model import transformer
from qwen3.model.sizes import ModelConfig
from qwen3.serve.application import ServerApp, ServerSettings
from qwen3.serve.http_server import DrainingServer
from qwen3.serve.served_model import ServedModel

LENGTH = 512
TEXT = 'the cat and the hat, the bat; one two three 1234 {"name": "weather", "arguments": }\n' * 3


@pytest.fixture(scope="session")
def tokenizer():
    return Tokenizer.train([TEXT], 300)


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
