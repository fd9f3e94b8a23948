"""A whole GRPO or distillation run of a toy model, for tests that kill it.

python post_run.py {grpo,episodes,distill}[-paged] WORKDIR [TEACHER]

episodes: GRPO on a world of three turns and a task together. -paged: sampled with a paged KV cache.
"""

import dataclasses
import sys

import post
import pytest
import talk_world

from qwen3 import rewards
from qwen3.data.tokenizer import Tokenizer
from qwen3.environments import WORLDS
from qwen3.losses.grpo_config import Grpo
from qwen3.stages import distill, grpo
from qwen3.stages.entropy import EntropyTarget
from qwen3.stages.groups import Refill
from qwen3.stages.prompts import Share
from qwen3.stages.rollouts import Sampling
from qwen3.train.checkpoint import Keep

STEPS = 60

if __name__ == "__main__":
    words, workdir, *teacher = sys.argv[1:]
    stage, _, cache = words.partition("-")
    rewards.TASKS["letters"] = post.letters
    slow = dataclasses.replace(post.CONSTANT, peak=1e-4)  # the task must not be solved before 60
    common = dict(steps=STEPS, minibatches=2, save_every=3, keep=Keep(last=2), optim=slow)
    if stage == "grpo":
        config = post.grpo_config(
            **common, policy=Grpo(entropy=True), entropy=EntropyTarget(), refill=Refill(2.0)
        )
    elif stage == "episodes":
        tokenizer = Tokenizer.load(post.tokenizer_folder())
        talk_world.let_it_speak(pytest.MonkeyPatch(), WORLDS, tokenizer, post.model().vocab)
        config = post.grpo_config(
            **common,
            tasks=(Share("talk"), Share("letters")),
            sampling=Sampling(samples=8, max_tokens=24, slots=16),
            length=127,
            refill=Refill(2.0),
        )
    else:
        config = post.distill_config(*teacher, **common)
    sampling = dataclasses.replace(config.sampling, cache=cache or "rows")
    run = distill.run if stage == "distill" else grpo.run
    run(dataclasses.replace(config, sampling=sampling), workdir)
