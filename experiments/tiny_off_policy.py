"""Off-policy distillation (report 4.5) in small: a smaller student on its teacher's answers.

Right answers of both modes, flagged. Stopped while the student is still weaker than its teacher, so
that on-policy distillation has something to teach.

Command:   python experiments/tiny_off_policy.py --workdir runs/off_policy \\
               [--teacher runs/general_rl]
           after tiny_general_rl.py
Hardware:  one core; 1 to 2 minutes with AVX-512.
Expected:  losses of both modes fall; 34% of held-out locks in thinking mode at temperature 1 (1,200
           steps: 52%; the teacher: 49%; docs/log/2026-11-28-tiny-post-training.md).
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from qwen3.run import main
from qwen3.curate import candidates, fusion
from qwen3.infer.requests import sampling
from qwen3.stages import sft
from qwen3.train.state import TrainState

import tiny_lock

TEACHER = "runs/general_rl"
STUDENT = tiny_lock.MODEL.replace(name="tiny-student", layers=3)
CONFIG = sft.Config(
    model=STUDENT,
    tokenizer=tiny_lock.TOKENIZER,
    data=(),  # made in the workdir
    steps=850,
    optim=tiny_lock.FROM_NOTHING,
    name="off_policy",
    batch=4,
    length=tiny_lock.LENGTH,
    save_every=400,
    execution=tiny_lock.EXECUTION,
    log=tiny_lock.LOG,
)


def taught(config: sft.Config, teacher: str) -> list[dict[str, Any]]:
    """Right answers in both modes; the thinking mode's with and without a flag."""
    words = tiny_lock.tokenizer(config.tokenizer)
    engine, right = tiny_lock.engine(teacher, words), {}
    for mode, seed, count in (("think", 4, 4096), ("no_think", 5, 2048)):
        answers = candidates.generate(
            engine,
            words,
            tiny_lock.problems(count, seed),
            samples=1,
            mode=mode,
            max_tokens=96,
            sampling=sampling("model"),
        )
        right[mode] = fusion.rejection_sample(answers)
    return fusion.fuse(right["think"], right["no_think"], seed=config.seed)


def run(config: sft.Config, workdir: str, teacher: str = TEACHER) -> TrainState:
    path = Path(workdir) / "data" / "taught.jsonl"
    data = tiny_lock.once(path, lambda: taught(config, teacher))
    start = config.init_from or tiny_lock.fresh(Path(workdir) / "fresh", config)
    return sft.run(replace(config, data=(data,), init_from=start), workdir)


if __name__ == "__main__":
    teacher, arguments = TEACHER, sys.argv[1:]
    if "--teacher" in arguments:
        at = arguments.index("--teacher")
        teacher, arguments = arguments[at + 1], arguments[:at] + arguments[at + 2 :]

    def with_teacher(config: sft.Config, workdir: str) -> TrainState:
        """Off-policy distillation."""
        return run(config, workdir, teacher)

    main(with_teacher, CONFIG, arguments)
