"""Thinking mode fusion (report 4.3) in small: the RL model's own right answers, and direct ones.

Command:   python experiments/tiny_fusion.py --workdir runs/fusion
           after tiny_grpo.py
Hardware:  one core; 42 s with AVX-512.
Expected:  losses of both modes fall; nats a token, steps 1 to 15 against the last 50: thinking .20
           to .01, non-thinking .41 to .06 (docs/log/2026-11-28-tiny-post-training.md).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from qwen3.run import main
from qwen3.config import OptimConfig
from qwen3.curate import candidates, fusion
from qwen3.infer.requests import sampling
from qwen3.stages import sft
from qwen3.train.state import TrainState

import tiny_lock

CONFIG = sft.Config(
    model=tiny_lock.MODEL,
    tokenizer=tiny_lock.TOKENIZER,
    data=(),  # made in the workdir
    steps=250,
    optim=OptimConfig(peak=1e-3, final=0.1, warmup=10, weight_decay=0.0),
    name="fusion",
    batch=8,
    length=tiny_lock.LENGTH,
    init_from="runs/grpo",
    save_every=100,
    execution=tiny_lock.EXECUTION,
    log=tiny_lock.LOG,
)


def fused(config: sft.Config) -> list[dict[str, Any]]:
    """Rejection samples in thinking mode, as many answers without, flags and dialogues."""
    words = tiny_lock.tokenizer(config.tokenizer)
    answers = candidates.generate(
        tiny_lock.engine(config.init_from, words),
        words,
        tiny_lock.problems(1024, 2),
        samples=1,
        mode="think",
        max_tokens=96,
        sampling=sampling("model"),
    )
    thinking = fusion.rejection_sample(answers)
    problems = tiny_lock.problems(len(thinking), 3)
    plain = [tiny_lock.answered(problem, "", 0) for problem in problems]
    return fusion.fuse(thinking, plain, seed=config.seed)


def run(config: sft.Config, workdir: str) -> TrainState:
    data = tiny_lock.once(Path(workdir) / "data" / "fused.jsonl", lambda: fused(config))
    return sft.run(replace(config, data=(data,)), workdir)


if __name__ == "__main__":
    main(run, CONFIG)
