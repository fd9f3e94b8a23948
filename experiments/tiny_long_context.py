"""Stage 3 alone, from the end of stage 2 of tiny_pretrain, with two RoPE bases.

    python experiments/tiny_long_context.py --pretrained runs/tiny_pretrain --workdir runs/bases

Run tiny_pretrain first; its data and settings are taken from its workdir. The optimizer starts anew
for both bases, so they differ in nothing else. Expected: from position 128 on both lower the loss
below that of stage 2 (step 0); which base ends lower is the question (figures: LOG).
"""

import argparse
import dataclasses
import json
from pathlib import Path

from tiny_pretrain import config, show

from qwen3.config import override
from qwen3.stages import pretrain

BASES = (10_000.0, 1_000_000.0)


def long_stage(pretrained, base):
    """The third stage of the run in `pretrained`, from its second's last checkpoint."""
    there = json.loads((pretrained / "config.json").read_text())
    data = Path(next(iter(there["corpora"].values()))).parent
    whole = config(data, tuple(there["corpora"]))
    whole = override(whole, [f"seed={there['seed']}"])
    steps = [stage["steps"] for stage in there["stages"]]
    stage = dataclasses.replace(whole.stages[2], rope_theta=base, steps=steps[2])
    source = pretrained / "checkpoints" / str(sum(steps[:2]))
    return dataclasses.replace(whole, stages=(stage,), init_from=str(source))


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
