"""A run that trains adapters on a toy model, for tests that kill it.

python lora_run.py {sft,grpo,distill} WORKDIR BASE TEACHER
"""

import dataclasses
import os
import sys

import post

from qwen3 import rewards
from qwen3.model.lora import LoraConfig
from qwen3.stages import distill, grpo, sft
from qwen3.train.checkpoint import Keep

STEPS = 30
SLOW = dataclasses.replace(post.CONSTANT, peak=1e-3)


def common(base):
    return dict(
        steps=STEPS,
        save_every=3,
        keep=Keep(last=2),
        optim=SLOW,
        init_from=base,
        lora=LoraConfig(rank=4, alpha=8.0),
    )


def run_sft(workdir, base, teacher):
    os.makedirs(workdir, exist_ok=True)
    samples = [post.conversation(post.lock(seed), thinks=seed % 2 == 0) for seed in range(12)]
    config = sft.Config(
        model=post.model(),
        tokenizer=post.tokenizer_folder(),
        data=(post.write(workdir, samples, f"data-{os.getpid()}.jsonl"),),
        batch=4,
        length=128,
        mesh=post.ONE,
        log=post.QUIET,
        **common(base),
    )
    sft.run(config, workdir)


def run_grpo(workdir, base, teacher):
    rewards.TASKS["letters"] = post.letters
    grpo.run(post.grpo_config(minibatches=2, **common(base)), workdir)


def run_distill(workdir, base, teacher):
    distill.run(post.distill_config(teacher, minibatches=2, **common(base)), workdir)


RUNS = {"sft": run_sft, "grpo": run_grpo, "distill": run_distill}

if __name__ == "__main__":
    stage, *arguments = sys.argv[1:]
    RUNS[stage](*arguments)
