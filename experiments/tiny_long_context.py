"""Stage 3 alone, from the end of stage 2 of tiny_pretrain, with two RoPE bases.

Data and settings are taken from the workdir of tiny_pretrain. The optimizer starts anew for both
bases, so they differ in nothing else.

Command:   python experiments/tiny_long_context.py --pretrained runs/tiny_pretrain \\
               --workdir runs/bases
           after tiny_pretrain.py
Hardware:  two cores.
Expected:  from position 128 on both lower the loss below that of stage 2 (step 0), by 0.66 to 1.14
           nats at positions 256 to 512; the larger base ends lower, by no more than .02
           (docs/log/2026-11-22-rope-base-at-four-times.md).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from tiny_pretrain import config, show

from qwen3.config import override
from qwen3.stages import pretrain

BASES = (10_000.0, 1_000_000.0)


def long_stage(pretrained: Path, base: float) -> pretrain.Config:
    """The third stage of the run in `pretrained`, from its second's last checkpoint."""
    stored = json.loads((pretrained / "config.json").read_text())
    data = Path(next(iter(stored["corpora"].values()))).parent
    settings = config(data, tuple(stored["corpora"]))
    settings = override(settings, [f"seed={stored['seed']}"])
    steps = [stage["steps"] for stage in stored["stages"]]
    stage = dataclasses.replace(settings.stages[2], rope_theta=base, steps=steps[2])
    source = pretrained / "checkpoints" / str(sum(steps[:2]))
    return dataclasses.replace(settings, stages=(stage,), init_from=str(source))


CONFIG = dataclasses.replace(
    config("runs/tiny_pretrain_data"), stages=config("runs/tiny_pretrain_data").stages[2:]
)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pretrained", required=True, type=Path)
    parser.add_argument("--workdir", required=True, type=Path)
    options = parser.parse_args()
    for base in BASES:
        workdir = options.workdir / f"base-{base:.0f}"
        pretrain.run(long_stage(options.pretrained, base), str(workdir))
        show(workdir)
