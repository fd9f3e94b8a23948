"""Two hosts of two devices train as one host of four does."""

import jax
import numpy as np
import post
import pytest
from processes import Hosts

from qwen3.train.checkpoint import load_params


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_two_hosts_train_as_one(stage, tmp_path):
    samples = [post.conversation(post.lock(seed), thinks=seed % 2 == 0) for seed in range(12)]
    data = post.write(tmp_path, samples)
    environment = {"POST_TOKENIZER": post.tokenizer_folder()}

    def train(count):
        work = tmp_path / f"run{count}"
        words = [stage, data, "--workdir", str(work)]
        folder = tmp_path / f"hosts{count}"
        hosts = Hosts(folder, "stage_run.py", *words, count=count, environment=environment)
        assert hosts.codes() == [0] * count, "\n".join(map(hosts.text, range(count)))
        return load_params(work), post.records(work)

    (one, alone), (two, together) = train(1), train(2)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert len(alone) == len(together) == 4
    for a, b in zip(alone, together, strict=True):
        assert a.keys() == b.keys()
        numbers = {name for name, value in a.items() if isinstance(value, float)}
        for name in numbers:
            assert b[name] == pytest.approx(a[name], rel=1e-5, abs=1e-5, nan_ok=True), name
