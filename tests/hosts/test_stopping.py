"""A stop signal to one of two hosts, in the midst of rollouts: both leave at the same block."""

import json
import re
import signal
import time

import jax
import numpy as np
import post
import pytest
from processes import Hosts

from qwen3.train.checkpoint import load_params, steps_in

pytestmark = pytest.mark.slow  # three starts of two hosts each, minutes


def start(folder, work, **environment):
    environment |= {"POST_TOKENIZER": post.tokenizer_folder()}
    words = ["grpo", "none", "--workdir", str(work)]
    return Hosts(folder, "kill_run.py", *words, environment=environment)


def test_a_stop_in_the_midst_of_rollouts_saves_the_steps_so_far_on_both_hosts(tmp_path):
    work = tmp_path / "run"
    hosts = start(tmp_path / "first", work, PAUSE_BLOCK="0.5")  # nearly all time goes into blocks
    try:
        beat = hosts.folders[0] / "heartbeat.json"
        while not (beat.exists() and json.loads(beat.read_text())["step"] >= 2):
            assert hosts.processes[0].poll() is None, hosts.text(0)
            time.sleep(0.05)
        time.sleep(0.2)
        hosts.processes[1].send_signal(signal.SIGTERM)
        assert hosts.codes() == [42, 42], hosts.text(0) + hosts.text(1)
    finally:
        hosts.kill()
    steps = {re.findall(r"stopped by SIGTERM after step (\d+)", hosts.text(n))[0] for n in (0, 1)}
    (step,) = map(int, steps)
    assert steps_in(work / "checkpoints")[-1] == step
    # Two steps a phase: the phase that follows the last step had begun, and is not trained on.
    assert step % 2 == 0 and not (work / "samples" / f"{step + 2:06d}.jsonl").exists()

    assert start(tmp_path / "second", work).codes() == [0, 0]
    assert start(tmp_path / "third", tmp_path / "straight").codes() == [0, 0]
    jax.tree.map(
        np.testing.assert_array_equal, load_params(work), load_params(tmp_path / "straight")
    )
