"""Reasoning RL (report 4.2) in small: GRPO on lock problems from the cold start.

Command:   python experiments/tiny_grpo.py --workdir runs/grpo [--set steps=30]
           after tiny_cold_start.py
Hardware:  one core; 53 s with AVX-512.
Expected:  the score rises from .17 at step 1 to .48 on average over the last five sets of answers;
           23% to 46% of held-out locks at temperature 1
           (docs/log/2026-11-28-tiny-post-training.md).
"""

from __future__ import annotations

from qwen3.run import main
from qwen3.config import OptimConfig
from qwen3.losses.grpo_config import Grpo
from qwen3.stages import grpo
from qwen3.stages.prompts import Share
from qwen3.stages.rollouts import Sampling

import tiny_lock

CONFIG = grpo.Config(
    model=tiny_lock.MODEL,
    tokenizer=tiny_lock.TOKENIZER,
    tasks=(Share("lock", difficulty=tiny_lock.DIFFICULTY),),
    steps=30,
    optim=OptimConfig(peak=5e-4, final=0.1, warmup=2, schedule="linear", weight_decay=0.0),
    policy=Grpo(old="rollout"),
    sampling=Sampling(samples=16, max_tokens=96, slots=128),
    prompts=16,
    minibatches=2,
    length=tiny_lock.LENGTH,
    init_from="runs/cold_start",
    save_every=10,
    execution=tiny_lock.EXECUTION,
)

if __name__ == "__main__":
    main(grpo.run, CONFIG)
