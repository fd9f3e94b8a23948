"""A member of a swarm learns what it would learn alone, dense or with experts."""

import numpy as np
import pytest

from qwen3.config import OptimConfig
from qwen3.data import corpora
from qwen3.data.batches import Batches
from qwen3.data.mixture import Stage
from qwen3.data.sources import Document
from qwen3.data.tokenizer import Tokenizer
from qwen3.model.sizes import ModelConfig
from qwen3.pipeline.proxy_swarm import SwarmSettings, swarm_losses

DENSE = ModelConfig("toy", 2, 16, 32, 2, 1, head_dim=8, vocab=290, tied=True)
MOE = DENSE.replace(experts=4, active_experts=2, expert_ffn=16)
SETTINGS = SwarmSettings(12, OptimConfig(warmup=2, weight_decay=0.0), held_out_rows=16)


class Counting:
    """Documents that count up in steps of `stride`."""

    skipped = ()

    def __init__(self, stride, lengths):
        self.stride, self.lengths = stride, lengths

    def __iter__(self):
        return (Document(self.stride * np.arange(n) % 250, {}) for n in self.lengths)

    def describe(self):
        return {"counting": [self.stride, *self.lengths]}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two corpora that count up in steps of 1 and of 7."""
    folder, lengths = tmp_path_factory.mktemp("made"), range(20, 60)
    tokenizer = Tokenizer.train(["the cat and the hat, the bat; one two three 1234\n" * 3], 290)
    return {
        name: corpora.prepare(
            Counting(stride, lengths),
            tokenizer,
            folder / name,
        )
        for name, stride in (("ones", 1), ("sevens", 7))
    }


@pytest.mark.slow
@pytest.mark.parametrize("model", [DENSE, MOE], ids=["dense", "experts"])
def test_a_member_of_a_swarm_learns_what_it_learns_alone(made, model):
    stages = [Stage("s", {name: 1.0}, 64, 4) for name in ("ones", "sevens", "ones")]
    batches = [Batches(stage, made, 0, vocab=290) for stage in stages]
    peaks = [1e-2, 1e-2, 0.0]
    together = swarm_losses(model, batches, peaks, made, SETTINGS)
    for member in (0, 1):
        alone = swarm_losses(model, [batches[member]], [peaks[member]], made, SETTINGS)
        for name in made:
            assert together[name][member] == pytest.approx(alone[name][0], abs=2e-3)
    # Each knows its own counting best; the one with a rate of 0 stays as it began.
    assert together["ones"][0] < together["ones"][1] - 0.1
    assert together["sevens"][1] < together["sevens"][0] - 0.1
    assert together["ones"][2] == pytest.approx(np.log(290), abs=0.3)


def test_as_many_rates_as_members(made):
    batches = [Batches(Stage("s", {"ones": 1.0}, 64, 4), made, 0, vocab=290)]
    with pytest.raises(ValueError, match="1 members and 2 learning rates"):
        swarm_losses(DENSE, batches, [1e-2, 1e-3], made, SETTINGS)
