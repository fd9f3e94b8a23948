"""All stages of the very small model through `qwen3.run.main`, on several hosts or one.

python stage_run.py FOLDER DATA STAGE...

A stage's workdir is FOLDER/STAGE; DATA is a file of conversations. Off-policy distillation reads
what the stage "logits" wrote, on-policy distillation has the teacher FOLDER/teacher. STAGE/STEPS is
a stage that ends earlier, and goes on where its name comes again.
"""

import dataclasses
import sys

import jax
import post
import pytest
import talk_world
import toy_pretraining
from together import compile_together

from qwen3.run import main
from qwen3 import rewards
from qwen3.config import MeshConfig
from qwen3.data.tokenizer import Tokenizer
from qwen3.environments import WORLDS
from qwen3.losses.distill import Distill
from qwen3.model.lora import LoraConfig
from qwen3.stages import distill, grpo, pretrain, sft, teacher_logits
from qwen3.stages.async_rollouts import AsyncCollect
from qwen3.stages.entropy import EntropyTarget
from qwen3.stages.problem_evaluation import ProblemEvaluation
from qwen3.stages.prompts import Share
from qwen3.stages.rollouts import Sampling

MESH = MeshConfig(data=2, fsdp=-1)
EXPERTS = MeshConfig(data=2, expert=2, fsdp=-1)
STEPS = 2  # of a stage, of pretraining of each of three
ROWS = 8  # of a batch
SAMPLING = Sampling(samples=4, max_tokens=4, slots=8)


def pretraining(folder, data, **changes):
    settings = {"mesh": MESH, "save_every": 4, **changes}
    config = toy_pretraining.config(f"{folder}/corpora", **settings)
    stages = [dataclasses.replace(stage, steps=STEPS) for stage in config.stages]
    return dataclasses.replace(config, stages=tuple(stages))


def experts(folder, data):
    return pretraining(folder, data, model=toy_pretraining.MOE, mesh=EXPERTS)


def fine_tuning(folder, data, stored=None):
    return sft.Config(
        model=post.model(),
        tokenizer=post.tokenizer_folder(),
        data=(data,),
        steps=STEPS,
        optim=post.CONSTANT,
        batch=ROWS,
        length=128,
        stored=stored,
        mesh=MESH,
        log=post.QUIET,
    )


def reinforcement(folder, data):
    """A family by rule, one with tools, and a world of several turns."""
    tokenizer = Tokenizer.load(post.tokenizer_folder())
    talk_world.let_it_speak(pytest.MonkeyPatch(), WORLDS, tokenizer, post.model().vocab)
    return post.grpo_config(
        model=post.model().replace(max_length=768),
        tasks=(Share("letters"), Share("talk"), Share("irrelevant_tool", difficulty=(0.0, 0.0))),
        steps=STEPS,
        prompts=4,
        sampling=dataclasses.replace(SAMPLING, max_tokens=24),
        length=767,  # the description of a tool is long
        save_every=1,
        evaluation=ProblemEvaluation(f"{folder}/problems.jsonl", every=1),
        mesh=MESH,
    )


def logits(folder, data):
    return teacher_logits.Config(
        teacher=f"{folder}/teacher", data=(data,), length=128, top=8, batch=ROWS, mesh=MESH
    )


def off_policy(folder, data):
    return fine_tuning(
        folder, f"{folder}/logits/logits-00000.npz", stored=Distill(kind="forward_kl")
    )


def on_policy(folder, data):
    return post.distill_config(
        f"{folder}/teacher", steps=STEPS, prompts=4, sampling=SAMPLING, mesh=MESH
    )


def samplers_apart(folder, data, samplers=2, **changes):
    """Rollouts on the last devices; the first ones train."""
    config = reinforcement(folder, data)
    apart = {"mesh": MeshConfig(), "rollout_devices": samplers, "steps": 3}
    return dataclasses.replace(config, **{"tasks": (Share("letters"),), **apart, **changes})


def asynchronous(folder, data):
    """A step behind, of two blocks of the engine, with a KV cache in pages."""
    tasks = (Share("letters"), Share("talk"))  # single answers, and episodes of three turns
    config = samplers_apart(folder, data, tasks=tasks, staleness=1)
    return dataclasses.replace(config, sampling=dataclasses.replace(config.sampling, cache="paged"))


def teacher_apart(folder, data):
    config = on_policy(folder, data)
    return dataclasses.replace(config, mesh=MeshConfig(), teacher_devices=2, steps=3)


def adapters_apart(folder, data):
    """With a reference and steered entropy."""
    start, config = f"{folder}/teacher", samplers_apart(folder, data)
    policy = dataclasses.replace(config.policy, kl="k2", kl_coef=0.01, entropy=True)
    changes = {"init_from": start, "reference": start, "lora": LoraConfig(rank=4)}
    return dataclasses.replace(config, **changes, policy=policy, entropy=EntropyTarget(0.5))


def teacher_samples(folder, data):
    return dataclasses.replace(teacher_apart(folder, data), sampled_by="teacher")


def one_sampler(folder, data):
    """Three devices train: the second of two hosts does both."""
    tokens = MeshConfig(fsdp=1, context=3)
    return dataclasses.replace(samplers_apart(folder, data, samplers=1), mesh=tokens, length=768)


def two_blocks(collect, value):
    """What the engine does while the trainer works, whatever time that takes."""
    for _ in range(2):
        if collect._flying:
            collect._step()


STAGES = {
    "pretrain": (pretrain.run, pretraining),
    "experts": (pretrain.run, experts),
    "sft": (sft.run, fine_tuning),
    "grpo": (grpo.run, reinforcement),
    "logits": (teacher_logits.run, logits),
    "off_policy": (sft.run, off_policy),
    "on_policy": (distill.run, on_policy),
    "samplers_apart": (grpo.run, samplers_apart),
    "asynchronous": (grpo.run, asynchronous),
    "teacher_apart": (distill.run, teacher_apart),
    "one_sampler": (grpo.run, one_sampler),
    "adapters_apart": (grpo.run, adapters_apart),
    "teacher_samples": (distill.run, teacher_samples),
}

if __name__ == "__main__":
    compile_together()
    rewards.TASKS["letters"] = post.letters
    jax.config.update("jax_default_matmul_precision", "highest")
    folder, data, *names = sys.argv[1:]
    AsyncCollect.sample_until = two_blocks
    for word in names:
        name, _, steps = word.partition("/")
        run, config = STAGES[name]
        # A host that gets no time to beat, on a machine that others load, is not lost.
        words = ["--workdir", f"{folder}/{name}", "--heartbeat-timeout", "3600"]
        settings = config(folder, data)
        main(run, dataclasses.replace(settings, steps=int(steps)) if steps else settings, words)
