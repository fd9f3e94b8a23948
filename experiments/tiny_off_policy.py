"""Off-policy distillation (report 4.5) in small: a smaller student on its teacher's answers.

    python experiments/tiny_off_policy.py --workdir runs/off_policy [--teacher runs/general_rl]

Right answers of both modes, flagged. Stopped while the student is still weaker than its teacher, so
that on-policy distillation has something to teach. Expected: losses of both modes fall; seen once
(one shared core, 1 to 2 minutes): 34% of held-out locks in thinking mode at temperature 1 (1,200
steps: 52%; the teacher: 49%).
"""

import sys
from dataclasses import replace
from pathlib import Path

import tiny_lock

from qwen3.curate import candidates, fusion
from qwen3.infer.requests import sampling
from qwen3.run import main
from qwen3.stages import sft

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


def taught(config, teacher):
    """Right answers in both modes; the thinking mode's with and without a flag."""
    words = tiny_lock.tokenizer(config.tokenizer)
    engine, kept = tiny_lock.engine(teacher, words), {}
    for mode, seed, count in (("think", 4, 4096), ("no_think", 5, 2048)):
        asked = tiny_lock.problems(count, seed)
        found = candidates.generate(
            engine, words, asked, samples=1, mode=mode, max_tokens=96, sampling=sampling("model")
        )
        kept[mode] = fusion.rejection_sample(found)
    return fusion.fuse(kept["think"], kept["no_think"], seed=config.seed)


def run(config, workdir, teacher=TEACHER):
    path = Path(workdir) / "data" / "taught.jsonl"
    data = tiny_lock.once(path, lambda: taught(config, teacher))
    start = config.init_from or tiny_lock.fresh(Path(workdir) / "fresh", config)
    return sft.run(replace(config, data=(data,), init_from=start), workdir)


if __name__ == "__main__":
    teacher, arguments = TEACHER, sys.argv[1:]
    if "--teacher" in arguments:
        at = arguments.index("--teacher")
        teacher, arguments = arguments[at + 1], arguments[:at] + arguments[at + 2 :]

    def with_teacher(config, workdir):
        """Off-policy distillation."""
        return run(config, workdir, teacher)

    main(with_teacher, CONFIG, arguments)
