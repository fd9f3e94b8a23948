"""A server in a thread, and what its tests ask it with."""

import threading
import time
from contextlib import contextmanager

import openai

from qwen3.serve.application import ServerApp, ServerSettings
from qwen3.serve.http_server import DrainingServer
from qwen3.serve.served_model import ServedModel

LENGTH = 512


def fresh_engine(model, **options):
    """An engine of its own; the same options give the same compiled programs."""
    settings = {"slots": 4, "max_length": LENGTH, "buckets": (LENGTH,), "block": 8}
    model._engine = None
    return model.engine(**settings | options)


@contextmanager
def serving(model, engine=None, **settings):
    """A running DrainingServer of the model; stopped and joined at the end."""
    engine = engine or fresh_engine(model)
    served = ServedModel.of("tiny", model, engine)
    with running(ServerApp(served, engine, ServerSettings(port=0, **settings))) as server:
        yield server


@contextmanager
def running(app):
    """A running DrainingServer of the application; stopped and joined at the end."""
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


def client_of(server, **options):
    settings = {"api_key": "none", "max_retries": 0, "timeout": 300}
    return openai.OpenAI(base_url=f"{server.url}/v1", **settings | options)
