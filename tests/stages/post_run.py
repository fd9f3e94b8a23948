"""A whole GRPO or distillation run of a toy model, for tests that kill it.

python post_run.py {grpo,distill} WORKDIR [TEACHER]
"""

import dataclasses
import sys

import post

from qwen3 import rewards
from qwen3.losses.grpo_config import Grpo
from qwen3.stages import distill, grpo
from qwen3.stages.entropy import EntropyTarget
from qwen3.stages.groups import Refill
from qwen3.train.checkpoint import Keep

STEPS = 60

if __name__ == "__main__":
    stage, workdir, *teacher = sys.argv[1:]
    rewards.TASKS["letters"] = post.letters
    slow = dataclasses.replace(post.CONSTANT, peak=1e-4)  # the task must not be solved before 60
    common = dict(steps=STEPS, minibatches=2, save_every=3, keep=Keep(last=2), optim=slow)
    if stage == "grpo":
        config = post.grpo_config(
            **common, policy=Grpo(entropy=True), entropy=EntropyTarget(), refill=Refill(2.0)
        )
        grpo.run(config, workdir)
    else:
        distill.run(post.distill_config(*teacher, **common), workdir)
