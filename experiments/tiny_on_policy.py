"""On-policy distillation (report 4.5) in small: KL to the teacher on the student's own answers.

Half reverse, half forward KL, in both modes; neither verifier nor reward.

Command:   python experiments/tiny_on_policy.py --workdir runs/on_policy \\
               [--set teacher=runs/general_rl]
           after tiny_off_policy.py
Hardware:  one core; about a minute with AVX-512.
Expected:  the divergence falls from .13 to .05 nats a token; 34% to 43% of held-out locks in
           thinking mode at temperature 1 (the teacher: 49%;
           docs/log/2026-11-28-tiny-post-training.md).
"""

from __future__ import annotations

from qwen3.run import main
from qwen3.config import OptimConfig
from qwen3.losses.distill import Distill
from qwen3.stages import distill
from qwen3.stages.prompts import Share
from qwen3.stages.rollouts import Sampling

import tiny_lock
import tiny_off_policy

CONFIG = distill.Config(
    model=tiny_off_policy.STUDENT,
    tokenizer=tiny_lock.TOKENIZER,
    teacher=tiny_off_policy.TEACHER,
    tasks=(Share("lock", 1.0, tiny_lock.DIFFICULTY, ("think", "no_think")),),
    steps=320,
    optim=OptimConfig("muon", peak=2e-3, final=0.1, warmup=8, schedule="linear", weight_decay=0.0),
    divergence=Distill("mix", forward_weight=0.5),
    sampling=Sampling(samples=1, max_tokens=96, slots=128),
    prompts=64,
    minibatches=4,
    length=tiny_lock.LENGTH,
    init_from="runs/off_policy",
    save_every=40,
    execution=tiny_lock.EXECUTION,
)

if __name__ == "__main__":
    main(distill.run, CONFIG)
