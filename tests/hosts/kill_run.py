"""Pretraining or GRPO of a very small model on several hosts, for tests that kill them.

python kill_run.py {pretrain,grpo} CORPORA --workdir DIR [--distributed]
"""

import dataclasses
import os
import sys
import time

import post
import toy_pretraining
from together import compile_together

from qwen3.run import main
from qwen3 import rewards
from qwen3.config import MeshConfig
from qwen3.losses.grpo_config import Grpo
from qwen3.stages import grpo, pretrain, rollouts
from qwen3.stages.entropy import EntropyTarget
from qwen3.stages.groups import Refill
from qwen3.stages.rollouts import Sampling
from qwen3.train.checkpoint import Keep

MESH = MeshConfig(data=2, fsdp=-1)
KEEP = Keep(last=2)
SLOW = dataclasses.replace(post.CONSTANT, peak=1e-4)  # the task must not be solved before the end
STEPS = {"pretrain": 120, "grpo": 40}


def pretraining(corpora):
    config = toy_pretraining.config(corpora, mesh=MESH, save_every=3, keep=KEEP)
    stages = [dataclasses.replace(stage, steps=STEPS["pretrain"] // 3) for stage in config.stages]
    return dataclasses.replace(config, stages=tuple(stages))


def reinforcement(_):
    return post.grpo_config(
        steps=STEPS["grpo"],
        minibatches=2,
        sampling=Sampling(samples=4, max_tokens=4, slots=16),
        refill=Refill(2.0),
        policy=Grpo(entropy=True),
        entropy=EntropyTarget(),
        optim=SLOW,
        save_every=2,
        keep=KEEP,
        mesh=MESH,
    )


STAGES = {"pretrain": (pretrain.run, pretraining), "grpo": (grpo.run, reinforcement)}


class PausedEngine(rollouts.Engine):
    """Rollouts whose blocks take PAUSE_BLOCK seconds."""

    def step(self):
        super().step()
        time.sleep(float(os.environ.get("PAUSE_BLOCK", 0)))


class Paused(pretrain.Feed):
    """Batches that come slowly, which gives a killer time."""

    def __next__(self):
        time.sleep(float(os.environ.get("PAUSE", 0)))
        return super().__next__()


if __name__ == "__main__":
    compile_together()
    pretrain.Feed, rollouts.Engine = Paused, PausedEngine
    rewards.TASKS["letters"] = post.letters
    stage, corpora, *words = sys.argv[1:]
    run, config = STAGES[stage]
    main(run, config(corpora), words)
