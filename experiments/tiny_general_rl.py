"""General RL (report 4.4) in small: locks in both modes and dialogues whose last flag wins.

Prints ThinkFollow (96 dialogues, greedy) of the model it started from and of its own.

Command:   python experiments/tiny_general_rl.py --workdir runs/general_rl
           after tiny_fusion.py
Hardware:  one core; 52 s with AVX-512.
Expected:  ThinkFollow rises or stays at its top: 97.9% to 100%
           (docs/log/2026-11-28-tiny-post-training.md).
"""

from __future__ import annotations

from dataclasses import replace

from qwen3.run import main
from qwen3 import rewards
from qwen3.eval import think_follow
from qwen3.stages import grpo
from qwen3.stages.prompts import Share
from qwen3.stages.rollouts import Sampling
from qwen3.train.state import TrainState

import tiny_grpo
import tiny_lock

CONFIG = replace(
    tiny_grpo.CONFIG,
    name="general_rl",
    steps=16,
    tasks=(
        Share("lock", 0.3, tiny_lock.DIFFICULTY, ("think",)),
        Share("lock", 0.2, (0.0, 0.1), ("no_think",)),  # without thinking one day is all it can
        Share("mode_following", 0.5, (0.0, 0.3)),
    ),
    sampling=Sampling(samples=8, max_tokens=96, slots=128),
    prompts=32,
    init_from="runs/fusion",
)


def run(config: grpo.Config, workdir: str) -> TrainState:
    state = grpo.run(config, workdir)
    words = tiny_lock.tokenizer(config.tokenizer)
    task = rewards.get("mode_following")
    dialogues = [task.generate(9 * 10**6 + i, 0.3 * (i % 10) / 10) for i in range(96)]
    for source in (config.init_from, workdir):
        engine = tiny_lock.engine(source, words)
        shares = think_follow.follow(engine, words, dialogues, max_tokens=96)
        text = ", ".join(f"{kind} {share.value:.1%}" for kind, share in shares.items())
        print(f"ThinkFollow of {source}: {text}")
    return state


if __name__ == "__main__":
    main(run, CONFIG)
