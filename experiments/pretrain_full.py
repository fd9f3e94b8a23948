"""Pretraining of the eight Qwen3 models at full size on TPU v5p (report 3.2). NOT YET RUN.

What the report gives is kept: over 30T tokens at 4,096 in S1, about 5T in S2 with a faster decay,
hundreds of billions at 32,768 in S3, 75% of that text 16,384 to 32,768 long and 25% 4,096 to
16,384; RoPE base 10,000, in S3 1,000,000 (ABF). It gives no rates, batches or mixture weights:
those here are ours, untested at this size; --set law=FILE takes rate and batch of S1 from a law of
your own small runs (`qwen3 data rates fit`). No law comes with the code: ours are of models of
kilobytes, and a law that is stretched a millionfold is a guess. Corpora are folders or URLs that
`qwen3 data tokenize` wrote, or local ones of `qwen3 corpus prepare`.

Command:   python experiments/pretrain_full.py 30b-a3b --workdir gs://BUCKET/30b-a3b \\
               --distributed --set corpora.general=gs://BUCKET/tokens/general [...] \\
               [--set law=gs://BUCKET/law.json]
           from every host of the slice
Hardware:  the table SLICES below, in chips of v5p (95 GB each).
Expected:  not yet run. The TPU compiler says of a train step on other slices, with all of it
           recomputed (rows of 4,096; memory of a chip; the time is a roofline's; `python
           experiments/plan_table.py`; of the steps of this file see docs/plan.md):

    model      slice        rows a chip   memory     predicted step   MFU
    0.6b       v5e:4x4      4              3.7 GB     0.87 s          48%
    1.7b       v5e:4x4      4              6.7 GB     1.77 s          55%
    4b         v5e:8x8      2              5.9 GB     2.15 s          54%
    8b         v5p:2x4x4    4             15.4 GB     3.09 s          57%
    14b        v5p:4x4x4    4             18.6 GB     5.52 s          58%
    32b        v5p:4x4x4    4             29.6 GB    12.86 s          57%
    30b-a3b    v5p:4x4x4    4             17.5 GB     2.44 s          34%
    235b-a22b  v5p:8x8x8    2             23.7 GB     9.92 s          27%
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace

from qwen3.run import main
from qwen3.config import MeshConfig, OptimConfig
from qwen3.data.mixture import LONG_CONTEXT, LengthBands, Stage
from qwen3.model.sizes import SIZES, count_parameters, size
from qwen3.pipeline.rate_laws import RateLaw
from qwen3.stages import pretrain
from qwen3.stages.pretrain import Evaluation, StageConfig
from qwen3.train.recording import Log
from qwen3.train.state import TrainState

SHORT, LONG = 4_096, 32_768
TOKENS = {"s1": 30e12, "s2": 5e12, "s3": 0.3e12}
V5P_PEAK = 459e12  # bf16 FLOP/s of one chip
EDGES = (0, 1_024, SHORT)


@dataclass(frozen=True)
class Config(pretrain.Config):
    """Pretraining whose rates may come from a law."""

    law: str = ""  # file of `qwen3 data rates fit`: rate and batch of S1, to which S2 and S3 keep


@dataclass(frozen=True)
class Slice:
    """How one model is trained."""

    chips: int  # of v5p
    peak: float  # learning rate of S1
    fsdp: int  # chips that share the weights; the rest of the slice holds copies of them
    microbatches: int  # of a step
    context: int = 1  # context parallel: chips that a row lies on in S3
    expert: int = 1  # chips, beside fsdp, that the experts' weights are spread over
    rows: int = 2_048  # of 4,096 tokens a step: 8.4M tokens; S3 keeps the tokens, not the rows


# A matrix that is spread over too many chips has shards narrower than the 128 lanes of a register.
SLICES = {
    "0.6b": Slice(64, 1e-3, fsdp=8, microbatches=2),
    "1.7b": Slice(64, 8e-4, fsdp=16, microbatches=4),
    "4b": Slice(128, 6e-4, fsdp=16, microbatches=4, context=2),
    "8b": Slice(256, 4e-4, fsdp=32, microbatches=2, context=2),
    "14b": Slice(512, 3e-4, fsdp=32, microbatches=2, context=4),
    "32b": Slice(1024, 2.5e-4, fsdp=64, microbatches=2, context=8),
    "30b-a3b": Slice(256, 4e-4, fsdp=16, microbatches=1, expert=4),
    "235b-a22b": Slice(2048, 2.5e-4, fsdp=32, microbatches=1, context=4, expert=16, rows=4_096),
}

MIXTURES = {  # weights of our own: the report names the kinds of text, not their shares
    "s1": {"general": 0.70, "code": 0.15, "stem": 0.15},
    "s2": {"general": 0.25, "code": 0.30, "stem": 0.30, "synthetic": 0.15},
    "s3": {"long": 0.75, "general": 0.10, "code": 0.15},
}
NAMES = sorted({name for mixture in MIXTURES.values() for name in mixture})


def config(name: str) -> Config:
    """The run of one size."""
    chips = SLICES[name]

    def stage(
        key: str,
        length: int,
        optim: OptimConfig,
        theta: float,
        lengths: LengthBands | None = None,
        context: int = 1,
    ) -> StageConfig:
        rows = chips.rows * SHORT // length
        return StageConfig(
            Stage(key, MIXTURES[key], length, rows, lengths),
            round(TOKENS[key] / (rows * length)),
            optim,
            theta,
            microbatches=min(chips.microbatches, rows * context // chips.chips),
            mesh=MeshConfig(-1, chips.fsdp, context, chips.expert),
            evaluation=Evaluation(tuple(MIXTURES[key]), EDGES[: 3 if length > SHORT else 2], 512),
        )

    high, low = chips.peak, chips.peak * 0.6
    return Config(
        model=size(name),
        stages=(
            stage("s1", SHORT, OptimConfig(peak=high, final=0.6, warmup=2_000), 1e4),
            stage(
                "s2",
                SHORT,
                OptimConfig(peak=low, final=0.1, warmup=0, schedule="linear"),
                1e4,
            ),
            stage(
                "s3",
                LONG,
                OptimConfig(peak=0.1 * low, final=0.1, warmup=100),
                1e6,
                LONG_CONTEXT,
                chips.context,
            ),
        ),
        corpora={part: f"/data/{part}" for part in NAMES},
        held_out={part: f"/data/{part}-held-out" for part in NAMES},
        save_every=1_000,
        save_minutes=10.0,  # what a preempted slice loses, at most
        execution={"remat": "feed_forward"},
        log=Log(every=10, tensorboard=True, peak_flops=V5P_PEAK),
    )


def by_law(config: Config) -> Config:
    """The config with the batch size and rate that its law predicts for S1.

    The batch is rounded to a power of two of rows that the microbatches divide; the tokens stay. S2
    and S3 keep their ratio of rate and rows to S1. Raises ValueError where the law does not cover
    the model, and where it predicts fewer rows than the slice takes at a time.
    """
    law, counts = RateLaw.load(config.law), count_parameters(config.model)
    first = config.stages[0]
    tokens = float(first.steps * first.data.batch * first.data.length)
    active = counts.activated_non_embedding if config.model.moe else None
    predicted = law.predict(counts.non_embedding, tokens, active)
    rows = 2 ** round(math.log2(predicted["batch"][0] / first.data.length))
    ratio, rate = rows / first.data.batch, predicted["rate"][0] / first.optim.peak
    for stage in config.stages:
        if stage.microbatches * ratio < 1:
            raise ValueError(
                f"{config.law}: {stage.data.batch * ratio:g} rows in {stage.name}, but the slice "
                f"takes {stage.data.batch // stage.microbatches} at a time: take a smaller one"
            )

    def changed(stage: StageConfig) -> StageConfig:
        return replace(
            stage,
            data=replace(stage.data, batch=round(stage.data.batch * ratio)),
            steps=round(stage.steps / ratio),
            optim=replace(stage.optim, peak=stage.optim.peak * rate),
            microbatches=round(stage.microbatches * ratio),
        )

    return replace(config, stages=tuple(changed(stage) for stage in config.stages))


def run(config: Config, workdir: str) -> TrainState:
    """Train, by a law if there is one."""
    return pretrain.run(by_law(config) if config.law else config, workdir)


CONFIGS = {name: config(name) for name in SLICES}
CUBES = {64: "4x4x4", 128: "4x4x8", 256: "4x8x8", 512: "8x8x8", 1024: "8x8x16", 2048: "8x16x16"}
TOPOLOGIES = {name: f"v5p:{CUBES[slice.chips]}" for name, slice in SLICES.items()}  # qwen3 plan
CONFIG = CONFIGS["0.6b"]


if __name__ == "__main__":
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in CONFIGS:
        known = ", ".join(size for size in SIZES if size in CONFIGS)
        sys.exit(f"which model? {name!r} is none of {known}")
    main(run, CONFIGS[name], sys.argv[2:])
