"""SFT or GRPO of the very small model through `qwen3.run.main`, on several hosts or one.

python stage_run.py {sft,grpo} DATA --workdir DIR
"""

import sys

import jax
import post
from together import compile_together

from qwen3 import rewards
from qwen3.config import MeshConfig
from qwen3.run import main
from qwen3.stages import grpo, sft
from qwen3.stages.rollouts import Sampling

MESH = MeshConfig(data=2, fsdp=2)
STEPS = 4


def sft_config(data):
    return sft.Config(
        model=post.model(),
        tokenizer=post.tokenizer_folder(),
        data=(data,),
        steps=STEPS,
        optim=post.CONSTANT,
        batch=4,
        length=128,
        save_every=2,
        mesh=MESH,
        log=post.QUIET,
    )


def grpo_config(_):
    sampling = Sampling(samples=4, max_tokens=4, slots=8)
    return post.grpo_config(steps=STEPS, prompts=4, sampling=sampling, save_every=2, mesh=MESH)


STAGES = {"sft": (sft.run, sft_config), "grpo": (grpo.run, grpo_config)}

if __name__ == "__main__":
    compile_together()
    rewards.TASKS["letters"] = post.letters
    jax.config.update("jax_default_matmul_precision", "highest")
    stage, data, *words = sys.argv[1:]
    run, config = STAGES[stage]
    main(run, config(data), words)
