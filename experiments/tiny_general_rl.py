"""General RL (report 4.4) in small: locks in both modes and dialogues whose last flag wins.

    python experiments/tiny_general_rl.py --workdir runs/general_rl

Two cores, some minutes. Expected: score/mode_following rises; figures in LOG.
"""

from dataclasses import replace

import tiny_grpo
import tiny_lock

from qwen3.run import main
from qwen3.stages import grpo
from qwen3.stages.prompts import Share

CONFIG = replace(
    tiny_grpo.CONFIG,
    name="general_rl",
    tasks=(
        Share("lock", 0.5, tiny_lock.DIFFICULTY, ("think", "no_think")),
        Share("mode_following", 0.5, tiny_lock.DIFFICULTY),
    ),
    init_from="runs/fusion",
)

if __name__ == "__main__":
    main(grpo.run, CONFIG)
