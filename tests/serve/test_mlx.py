"""An exported folder in mlx-lm, on a CPU: the same logits, greedy ids and prompt.

MLX_PYTHON names an interpreter that has `mlx[cpu]` and `mlx-lm`, which need not have qwen3.
"""

import json
import os
import subprocess
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from qwen3.infer.requests import Request, sampling
from qwen3.rewards import Problem
from qwen3.stages.prompts import prompt_ids

PYTHON = os.environ.get("MLX_PYTHON")


@pytest.mark.slow
@pytest.mark.skipif(PYTHON is None, reason="MLX_PYTHON names no interpreter with mlx-lm")
def test_mlx_gives_the_same_logits_ids_and_prompt(model, tmp_path):
    model.save(tmp_path / "exported", dtype=np.float32)
    question = [{"role": "user", "content": "the cat?"}]
    ids = prompt_ids(Problem("", question, {}), model.tokenizer)
    peer = Path(__file__).with_name("mlx_peer.py")
    command = [PYTHON, str(peer), str(tmp_path / "exported"), json.dumps(ids)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["prompt"] == ids and said["text"]
    ours = model.logits(jnp.array([ids]))[0]
    np.testing.assert_allclose(said["logits"], ours, atol=1e-4)
    engine = model.engine(slots=4, max_length=512, buckets=(512,), block=8)
    (completion,) = engine.generate([Request(ids, sampling("greedy"), max_tokens=12, stop_ids=())])
    assert said["greedy"] == completion.tokens
