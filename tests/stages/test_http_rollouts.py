"""GRPO on the answers of a server that loads each update's weights."""

import post
import pytest
from rollout_server import RolloutServerHere

from qwen3 import rewards
from qwen3.infer.http_backend import RolloutServer
from qwen3.infer.language_model import load
from qwen3.stages import grpo
from qwen3.stages.rollouts import Sampling


class Serving:
    """The model of a folder, loaded anew when the server is told to."""

    def __init__(self, folder):
        self.folder, self.engine = str(folder), None

    def load(self, body):
        assert body.get("model_path", self.folder) == self.folder
        model = load(self.folder)
        self.engine = model.engine(slots=4, max_length=33, buckets=(33,), block=8)

    def generate(self, requests):
        return self.engine.generate(requests)


@pytest.mark.parametrize("protocol", ["vllm", "sglang"])
def test_grpo_trains_on_a_servers_answers(protocol, tmp_path, monkeypatch):
    post.one_device(monkeypatch, grpo)
    monkeypatch.setitem(rewards.TASKS, "letters", post.letters)
    weights = tmp_path / "weights"
    serving = Serving(weights)
    server = RolloutServerHere(serving.generate, serving.load)
    settings = RolloutServer(url=server.url, protocol=protocol, weights=str(weights))
    try:
        state = grpo.run(post.grpo_config(steps=2, server=settings), str(tmp_path / "run"))
    finally:
        server.close()
    assert int(state.step) == 2 and server.loads == 2
    rows = post.records(tmp_path / "run")
    # The server's weights are the trainer's: their log-probabilities agree.
    assert all(row["sync_max"] < 1e-4 for row in rows), rows
    assert len(list((tmp_path / "run" / "samples").glob("*.jsonl"))) == 2


def test_budgets_and_routing_are_refused_with_a_server(tmp_path):
    settings = RolloutServer(url="http://127.0.0.1:9", weights=str(tmp_path / "weights"))
    with pytest.raises(ValueError, match="own engine"):
        post.grpo_config(server=settings, sampling=Sampling(budget=4))
