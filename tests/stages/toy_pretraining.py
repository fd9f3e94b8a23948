"""A three-stage run of a model small enough to compile in seconds, on two made-up corpora.

python toy_pretraining.py CORPORA --workdir DIR [--set a.b=c], each batch held back by PAUSE
seconds (of the environment), which gives a killer time.
"""

import os
import sys
import time
from pathlib import Path

import numpy as np

from qwen3.run import main
from qwen3.config import OptimConfig
from qwen3.data import corpora
from qwen3.data.held_out import hold_out
from qwen3.data.mixture import LengthBands, Stage
from qwen3.data.sources import Document
from qwen3.data.tokenizer import Tokenizer
from qwen3.model.sizes import ModelConfig
from qwen3.stages import pretrain
from qwen3.stages.pretrain import Config, Evaluation, StageConfig
from qwen3.train.checkpoint import Keep
from qwen3.train.recording import Log

VOCAB = 290
DENSE = ModelConfig("toy", 2, 16, 32, 2, 1, head_dim=8, vocab=VOCAB, tied=True)
MOE = DENSE.replace(experts=4, active_experts=2, expert_ffn=16, balance_coef=0.01)


class Counting:
    """Documents that count in steps of `stride`: learnable at once, and no two sets alike."""

    def __init__(self, stride, count=60):
        rng, self.skipped = np.random.default_rng(stride), []
        lengths = rng.integers(8, 60, count)
        firsts = rng.integers(0, 200, count)
        self.rows = [
            ((first + stride * np.arange(n)) % 250).tolist()
            for first, n in zip(firsts, lengths, strict=True)
        ]

    def __iter__(self):
        return (Document(np.asarray(row), {}) for row in self.rows)

    def describe(self):
        return {"counting": self.rows}


def tokenizer():
    return Tokenizer.train(["the cat and the hat, the bat; one two three 1234\n" * 3], VOCAB)


def prepare(folder):
    """{"corpora": {name: folder}, "held_out": {name: folder}}, prepared once."""
    ours = tokenizer()
    found = {"corpora": {}, "held_out": {}}
    for name, stride in (("general", 1), ("reasoning", 7)):
        for kind, source in zip(found, hold_out(Counting(stride), every=5), strict=True):
            corpora.prepare(source, ours, Path(folder) / f"{name}-{kind}")
            found[kind][name] = str(Path(folder) / f"{name}-{kind}")
    return found


def stage(name, mixture, *, steps, length=16, theta=10_000.0, lengths=None, final=0.5, peak=2e-2):
    return StageConfig(
        Stage(name, mixture, length, 8, lengths=lengths),
        steps,
        OptimConfig(peak=peak, final=final, warmup=2),
        theta,
        evaluation=Evaluation(tuple(mixture), (0, length // 2)),
    )


def config(folder, model=DENSE, **changes):
    """General, reasoning, and long: 12 steps each."""
    settings = {
        "model": model,
        "stages": (
            stage("s1", {"general": 1.0}, steps=12),
            stage("s2", {"general": 0.3, "reasoning": 0.7}, steps=12, final=0.1),
            stage(
                "s3",
                {"general": 0.5, "reasoning": 0.5},
                steps=12,
                length=32,
                theta=1_000_000.0,
                lengths=LengthBands(((17, 32, 0.75), (4, 16, 0.25))),
            ),
        ),
        "save_every": 5,
        "keep": Keep(last=2),
        "log": Log(every=1, display=False),
        **prepare(folder),
    }
    return Config(**{**settings, **changes})


class Paused(pretrain.Feed):
    def __next__(self):
        time.sleep(float(os.environ.get("PAUSE", 0)))
        return super().__next__()


if __name__ == "__main__":
    pretrain.Feed = Paused
    main(pretrain.run, config(sys.argv[1]), sys.argv[2:])
