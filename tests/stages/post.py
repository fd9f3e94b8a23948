"""What the post-training tests share: a tokenizer of the lock's words, a very small model, data."""

import contextlib
import functools
import json
import os
import tempfile
from pathlib import Path
from random import Random

import jax
import numpy as np
import pytest

from qwen3 import rewards
from qwen3.config import MeshConfig, OptimConfig
from qwen3.curate.files import write_conversations
from qwen3.data.tokenizer import Tokenizer
from qwen3.mesh import make_mesh
from qwen3.model import hf, transformer
from qwen3.model.sizes import ModelConfig
from qwen3.rewards import NoVerdict, Problem
from qwen3.rewards.locks import lock_tasks
from qwen3.stages import distill, grpo
from qwen3.stages.prompts import Share
from qwen3.stages.rollouts import Sampling
from qwen3.train.recording import Log

QUIET = Log(every=1, display=False)
ONE = MeshConfig(data=1, fsdp=1)
CONSTANT = OptimConfig(peak=3e-3, schedule="constant", warmup=0, weight_decay=0.0)


def lock(seed, difficulty=0.0, mode="any"):
    return rewards.get("lock").generate(seed, difficulty, mode=mode)


def conversation(problem, style="careful", seed=0, thinks=True):
    thinking, answer = lock_tasks.trace(problem, style, Random(seed))
    reply = {"role": "assistant", "content": answer, "reasoning_content": thinking * thinks}
    return {"messages": [*problem.messages, reply]}


@functools.cache
def tokenizer_folder():
    """Of a tokenizer with most of the lock's words; POST_TOKENIZER names one that is there."""
    if "POST_TOKENIZER" in os.environ:
        return os.environ["POST_TOKENIZER"]
    texts = [
        message["content"] + " " + message.get("reasoning_content", "")
        for seed in range(60)
        for message in conversation(lock(seed, difficulty=1.0))["messages"]
    ]
    folder = tempfile.mkdtemp()
    Tokenizer.train(["user assistant\n", *texts] * 3, size=400).save(folder)
    return folder


def model(**changes):
    small = ModelConfig("toy", 2, 32, 64, 2, 1, head_dim=16, vocab=512, tied=True, max_length=256)
    return small.replace(**changes)


def write(folder, samples, name="data.jsonl"):
    path = Path(folder) / name
    write_conversations(path, samples)
    return str(path)


class Letters:
    """A task for models that know nothing: write the letter e, twice for full marks."""

    name = "letters"
    group = "reasoning"  # of rewards.task.GROUPS
    record = {}  # what the answer of a problem holds

    def generate(self, seed, difficulty=0.5, split="train", mode="any"):
        problem = Problem("letters", [{"role": "user", "content": f"q{seed % 1000}"}], {})
        return problem if mode == "any" else problem.flagged(mode)

    def verdict(self, text):
        if text == "?":
            raise NoVerdict("no idea")
        return min(1.0, text.count("e") / 2)

    def score(self, problem, text):
        try:
            return self.verdict(text)
        except NoVerdict:
            return None

    def require(self):
        pass


letters = Letters()


def grpo_config(**changes):
    values = dict(
        model=model(),
        tokenizer=tokenizer_folder(),
        tasks=(Share("letters"),),
        steps=4,
        optim=CONSTANT,
        sampling=Sampling(samples=8, max_tokens=6, slots=32),
        prompts=4,
        length=32,
        save_every=100,
        mesh=ONE,
        log=QUIET,
    )
    return grpo.Config(**{**values, **changes})


def distill_config(teacher, **changes):
    values = dict(
        model=model(),
        tokenizer=tokenizer_folder(),
        teacher=teacher,
        steps=4,
        optim=CONSTANT,
        tasks=(Share("lock", difficulty=(0.0, 0.2), modes=("think", "no_think")),),
        sampling=Sampling(samples=2, max_tokens=8, slots=16),
        prompts=8,
        length=64,
        seed=5,
        save_every=100,
        mesh=ONE,
        log=QUIET,
    )
    return distill.Config(**{**values, **changes})


def parameters(config):
    return transformer.init(config, jax.random.key(1))


def save_hf(folder, config):
    """A Hugging Face folder of a random model with the tokenizer of these tests."""
    hf.save(folder, config, parameters(config))
    Tokenizer.load(tokenizer_folder()).save(folder)


def one_device(monkeypatch, *stages):
    """The stages' meshes have one of the eight devices: nothing here depends on their number."""
    for stage in stages:
        monkeypatch.setattr(
            stage, "make_mesh", lambda c, devices=None: make_mesh(c, devices or jax.devices()[:1])
        )


@contextlib.contextmanager
def stopping_at(step):
    """As if a signal had come during `step`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qwen3.train.preemption._Requests.reached", lambda self, at: at == step)
        yield


def records(work):
    """The lines of metrics.jsonl without their times."""
    speed = ("seconds", "input_wait", "tokens_per_second", "mfu", "reshard_seconds")
    speed += ("teacher_seconds", "handover_seconds")
    lines = (Path(work) / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in speed} for line in lines]


def trained(work):
    """The prompt numbers of every phase."""
    files = sorted((Path(work) / "samples").glob("*.jsonl"))
    return [json.loads(file.read_text().splitlines()[-1])["trained"] for file in files]


def assert_same_trees(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)
