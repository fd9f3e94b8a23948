"""The server as the sampler of a trainer: token ids, log-probabilities, and weights on demand."""

import argparse
import json
import urllib.request
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial

import jax
import pytest
from tiny_server import fresh_engine, running, serving

from qwen3.infer import language_model, thinking_head
from qwen3.infer.backend import TurnBackend
from qwen3.infer.http_backend import HttpBackend, RolloutServer, ServerError
from qwen3.infer.requests import Request, sampling
from qwen3.serve import serve_cli
from qwen3.serve.application import ServerSettings


@pytest.fixture
def folder(model, tmp_path):
    model.save(tmp_path / "weights")
    return tmp_path / "weights"


@pytest.fixture
def serve(folder):
    """serve(*options of the command) -> the URL of a server of the folder."""
    with ExitStack() as stack:

        def serve(*options):
            command = serve_cli.add_parser(argparse.ArgumentParser().add_subparsers())
            sizes = ("--slots", "4", "--max-length", "64", "--name", "tiny")
            arguments = command.parse_args([str(folder), *sizes, *options])
            app = serve_cli.build(arguments, ServerSettings(port=0))
            return stack.enter_context(running(app)).url

        yield serve


def connected(url, model, folder):
    def export(params, path):
        language_model.LanguageModel(
            model.config, params, mesh=model.mesh, tokenizer=model.tokenizer
        ).save(path)

    return HttpBackend(
        RolloutServer(url=url, model="tiny", weights=str(folder)),
        model.tokenizer,
        vocab=model.config.vocab,
        max_length=64,
        seed=3,
        export=export,
    )


def test_a_trainer_gets_the_engines_answers_and_hands_new_weights_over(serve, model, folder):
    backend = connected(serve("--reload"), model, folder)
    assert isinstance(backend, TurnBackend)
    requests = [Request([5, 6, 7 + i], sampling("greedy"), max_tokens=9) for i in range(6)]
    other = jax.tree.map(lambda x: x * 1.25, model.params)
    for version, params in ((4, model.params), (5, other)):
        backend.update(params, version)
        engine = fresh_engine(model)
        engine.update(params, version)
        for ours, theirs in zip(engine.generate(requests), backend.generate(requests), strict=True):
            assert (ours.tokens, ours.finish) == (theirs.tokens, theirs.finish)
            assert theirs.log_probs == pytest.approx(ours.log_probs, abs=1e-5)
            assert theirs.versions == [version] * len(ours.tokens)


def test_stop_ids_end_an_answer(serve, model, folder):
    backend = connected(serve("--reload"), model, folder)
    backend.update(model.params, 0)
    request = Request([5, 6, 7], sampling("greedy"), max_tokens=9, stop_ids=())
    (whole,) = backend.generate([request])
    stop = whole.tokens[3]
    (cut,) = backend.generate(
        [Request([5, 6, 7], sampling("greedy"), max_tokens=9, stop_ids=(stop,))]
    )
    assert cut.finish == "stop"
    assert cut.tokens == whole.tokens[: whole.tokens.index(stop) + 1]


def test_a_server_that_was_not_told_to_reload_refuses(serve, model, folder):
    with pytest.raises(ServerError, match="without --reload"):
        connected(serve(), model, folder).update(model.params, 0)


def test_another_model_in_the_folder_is_refused_and_the_old_one_goes_on(serve, model, folder):
    backend = connected(serve("--reload"), model, folder)
    request = Request([5, 6, 7], sampling("greedy"), max_tokens=9)
    before = backend.generate([request])[0].tokens
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(
        config.replace('"rope_theta": 1000000', '"rope_theta": 5000')
    )
    with pytest.raises(ServerError, match="another model now"):
        backend._call("/collective_rpc", {"method": "reload_weights"})
    with pytest.raises(ServerError, match="method"):
        backend._call("/collective_rpc", {"method": "shutdown"})
    assert backend.generate([request])[0].tokens == before


def test_an_update_that_fails_or_that_nobody_waits_for_leaves_the_engine_at_work(model, folder):
    with serving(model) as server:
        thread = server.app.engine_thread
        given_up, wrong = Future(), Future()
        given_up.cancel()
        for params, updated in ((model.params, given_up), ({"embed": "no array"}, wrong)):
            thread._call(partial(thread._update, params, updated))
        assert wrong.exception(timeout=60) is not None
        backend = connected(server.url, model, folder)
        (answer,) = backend.generate([Request([5, 6, 7], sampling("greedy"), max_tokens=4)])
        assert answer.tokens and thread.error is None


@pytest.mark.parametrize("options, automatic", [((), True), (("--reload",), False)])
def test_a_head_of_budgets_is_not_offered_for_weights_that_change(
    serve, folder, options, automatic
):
    (folder / thinking_head.FILE).touch()
    with urllib.request.urlopen(f"{serve(*options)}/v1/models") as reply:
        assert json.load(reply)["data"][0]["automatic_budget"] is automatic
