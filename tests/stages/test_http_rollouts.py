"""GRPO on the answers of a server that loads each update's weights."""

import json
from dataclasses import replace

import post
import pytest
import talk_world
from rollout_server import RolloutServerHere

from qwen3 import rewards
from qwen3.data.tokenizer import Tokenizer
from qwen3.environments import WORLDS
from qwen3.infer.http_backend import RolloutServer
from qwen3.infer.language_model import load
from qwen3.losses.grpo_config import Grpo, preset
from qwen3.stages import grpo
from qwen3.stages.prompts import Share
from qwen3.stages.rollouts import Sampling


class Serving:
    """The model of a folder, loaded anew when the server is told to."""

    def __init__(self, folder, length=33, grammar=None):
        self.folder, self.length, self.grammar = str(folder), length, grammar
        self.engine = None

    def load(self, body):
        assert body.get("model_path", self.folder) == self.folder
        model = load(self.folder)
        self.engine = model.engine(slots=4, max_length=self.length, buckets=(self.length,), block=8)

    def generate(self, requests):
        return self.engine.generate([replace(r, grammar=self.grammar) for r in requests])


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """serve(**settings of Serving) -> (server, RolloutServer) of a folder of weights."""
    post.one_device(monkeypatch, grpo)
    monkeypatch.setitem(rewards.TASKS, "letters", post.letters)
    servers = []

    def serve(protocol="vllm", **settings):
        serving = Serving(tmp_path / "weights", **settings)
        server = RolloutServerHere(serving.generate, serving.load)
        servers.append(server)
        return server, RolloutServer(url=server.url, protocol=protocol, weights=str(serving.folder))

    yield serve
    for server in servers:
        server.close()


@pytest.mark.parametrize("protocol, old", [("vllm", "recomputed"), ("sglang", "rollout")])
def test_grpo_trains_on_a_servers_answers(protocol, old, serve, tmp_path):
    server, settings = serve(protocol)
    config = post.grpo_config(steps=2, server=settings, policy=Grpo(old=old))
    # A server's numerics are its own; its own log-probabilities as the old ones are corrected so.
    assert bool(config.objective.tis_cap) == (old == "recomputed")
    state = grpo.run(config, str(tmp_path / "run"))
    assert int(state.step) == 2 and server.loads == 2
    rows = post.records(tmp_path / "run")
    # The server's weights are the trainer's after every hand-over: their log-probabilities agree.
    assert all(row["sync_max"] < 1e-4 for row in rows), rows
    assert len(list((tmp_path / "run" / "samples").glob("*.jsonl"))) == 2


def test_the_next_answers_are_sampled_by_the_server_while_this_process_trains(serve, tmp_path):
    server, settings = serve()
    config = post.grpo_config(steps=5, prompts=2, staleness=1, server=settings)
    grpo.run(config, str(tmp_path / "run"))
    rows = post.records(tmp_path / "run")
    assert max(row["staleness_most"] for row in rows) == 1
    assert server.loads == 5  # one of every step that samples; the last weights sample nothing
    lines = [
        json.loads(line)
        for path in sorted((tmp_path / "run" / "samples").glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    trained = [number for line in lines for number in line.get("trained", ())]
    assert sorted(trained) == sorted(set(trained)) and len(trained) == 10


@pytest.mark.parametrize("staleness", [0, 2])
def test_episodes_of_several_turns_are_sampled_by_a_server(serve, tmp_path, monkeypatch, staleness):
    tokenizer = Tokenizer.load(post.tokenizer_folder())
    turns = talk_world.ShortTurns(tokenizer, post.model().vocab)
    monkeypatch.setitem(WORLDS, "talk", talk_world.WORLD)
    _, settings = serve(length=128, grammar=turns)
    config = post.grpo_config(
        tasks=(Share("talk"),),
        sampling=Sampling(samples=4, max_tokens=40, slots=4),
        prompts=2,
        length=127,
        steps=2 + staleness,
        staleness=staleness,
        server=settings,
    )
    grpo.run(config, str(tmp_path / "run"))
    rows = post.records(tmp_path / "run")
    assert max(row.get("staleness_most", 0) for row in rows) == staleness
    assert {row["turns"] for row in rows} == {talk_world.TURNS}
    assert {row["stop/answered"] for row in rows} == {1.0}
    assert "sync_max" in rows[0] and all(row.get("sync_max", 0) < 1e-4 for row in rows), rows


def test_whole_answers_ratios_need_a_correction_for_a_servers_numerics(tmp_path):
    settings = RolloutServer(url="http://127.0.0.1:9", weights=str(tmp_path / "weights"))
    with pytest.raises(ValueError, match="rollout server http.* needs a correction"):
        post.grpo_config(server=settings, policy=preset("gspo"))


def test_budgets_and_routing_are_refused_with_a_server(tmp_path):
    settings = RolloutServer(url="http://127.0.0.1:9", weights=str(tmp_path / "weights"))
    with pytest.raises(ValueError, match="own engine"):
        post.grpo_config(server=settings, sampling=Sampling(budget=4))
