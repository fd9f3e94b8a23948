"""Pretraining of teacher and student (arXiv 2505.09388, 3.2).

Stages `pretrain` (S1 general, S2 reasoning), `base_exam`, `long` (S3 long context, with ABF: a
raised RoPE base), `needles` (S3 with the base left as it was, and look-ups by length) and
`student_base`.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from qwen3.config import OptimConfig
from qwen3.data.mixture import Stage
from qwen3.eval import needle
from qwen3.model import transformer
from qwen3.model.execution import Execution
from qwen3.model.sizes import DualChunkConfig, ModelConfig, YarnConfig, count_parameters
from qwen3.recipe.seed_run import LOG, ONE, SeedRun, execution
from qwen3.recipe.stages import fresh_start, measures, prepare_data
from qwen3.recipe.world import documents
from qwen3.stages import pretrain
from qwen3.stages.start import parameters

LENGTH, LONG = 160, 640  # tokens of a row in S1 and S2, in S3
# Mixtures: weights of the parts of the world (recipe.world) by rows.
GENERAL = {
    "story": 10,
    "facts": 20,
    "wheel": 3,
    "ledger": 14,
    "hay": 6,
    "recall": 7,
    "worked": 30,
    "hasty": 10,
    "direct": 5,
    "documentation": 3,
    "sources": 1,
}
REASONING = {
    "worked": 36,
    "hasty": 13,
    "direct": 11,
    "several": 8,
    "several_direct": 4,
    "facts": 8,
    "ledger": 4,
    "hay": 10,
    "recall": 2,
    "story": 1,
    "documentation": 2,
    "sources": 1,
}
LONGER = {"long": 75, "worked": 10, "hasty": 5, "direct": 5, "hay": 3, "facts": 2}
# Held-out sets whose mean loss is reported together.
SETS = {
    "general": ("story", "facts", "ledger", "documentation", "sources"),
    "reasoning": ("worked", "direct"),
}
EVALUATED = tuple(name for names in SETS.values() for name in names)
# Adam's epsilon for the teacher (with Muon, Adam still updates the embeddings). At the usual 1e-8
# the embedding of a word seen in one batch out of ten takes a step as long as itself each time it
# appears, and whether key look-ups are learnt depends on the seed; with this its step is in
# proportion to its gradient. Students keep the usual one: with this, two of three did not learn to
# turn a digit (docs/log/2026-11-28-adam-eps-and-rare-words.md).
EPS = 1e-3


class PretrainingPhase(NamedTuple):
    """One stage of pretraining: S1, S2 or S3."""

    name: str
    mixture: Mapping[str, float]
    steps: int  # 0 leaves the stage out
    length: int  # tokens of a row
    batch: int  # rows
    peak: float  # learning rate
    final: float  # last learning rate as a share of the peak
    theta: float  # RoPE base


def config(
    run: SeedRun,
    model: ModelConfig,
    phases: list[PretrainingPhase],
    *,
    seed: int,
    init_from: str,
    world: Path | None = None,
    eps: float = 1e-8,
    microbatches: int = 1,
    balance: str = "global",
) -> pretrain.Config:
    """Settings of a pretraining run.

    world: folder of the world's corpora, by default the teacher's. microbatches: of a batch; they
    change the update under micro-batch balance alone. balance: form of the load-balancing loss, see
    `ops.balance`.
    """
    corpora = run.path / "corpora"
    stages = tuple(stage_config(run, phase, eps, microbatches) for phase in phases if phase.steps)
    folders = dict.fromkeys(documents.PARTS, world or corpora / "train")
    parts = sorted({part for stage in stages for part in stage.data.mixture})
    return pretrain.Config(
        model,
        stages,
        {part: str(folders.get(part, corpora / "train") / part) for part in parts},
        held_out={name: str(corpora / "held" / name) for name in EVALUATED},
        seed=seed,
        init_from=init_from,
        save_every=500,
        mesh=ONE,
        execution=execution(model),
        log=LOG,
        balance=balance,
    )


def stage_config(
    run: SeedRun, phase: PretrainingPhase, eps: float, microbatches: int
) -> pretrain.StageConfig:
    """One phase with the user's own texts mixed in, evaluated on all of SETS."""
    flags = (("corpus", "own"), ("tasks", "own_tasks"))
    own = {name: 12.0 for flag, name in flags if run.own.get(flag)}
    mixture = {**phase.mixture, **own}
    rows = max(2, min(24, run.budget.tests // 2))
    return pretrain.StageConfig(
        data=Stage(phase.name, mixture, phase.length, phase.batch, repeat_small=True),
        steps=phase.steps,
        optim=optimizer(run, phase, eps),
        rope_theta=phase.theta,
        microbatches=microbatches,
        evaluation=pretrain.Evaluation(EVALUATED, rows=rows),
    )


def optimizer(run: SeedRun, phase: PretrainingPhase, eps: float) -> OptimConfig:
    """Muon, or AdamW at a fiftieth of the rate for a checkpoint that others trained.

    Muon learns the world in less than half of AdamW's steps
    (docs/log/2026-11-22-muon-and-adamw.md).
    """
    optim = OptimConfig("muon", phase.peak, eps=eps)
    if run.own.get("init_from"):
        optim = OptimConfig("adamw", phase.peak / 50)
    return dataclasses.replace(
        optim, final=phase.final, warmup=min(50, phase.steps // 4), weight_decay=0.05
    )


def two_stages(general: int, reasoning: int, theta: float = 1e4) -> list[PretrainingPhase]:
    """S1 and S2 of so many steps."""
    return [
        PretrainingPhase("S1", GENERAL, general, LENGTH, 8, 4e-3, 0.6, theta),
        PretrainingPhase("S2", REASONING, reasoning, LENGTH, 8, 2.4e-3, 0.05, theta),
    ]


def fresh(run: SeedRun, model: ModelConfig, name: str, seed: int) -> str:
    """A folder of new parameters."""
    return fresh_start.save(run.path / "starts" / name, model, seed, run.mesh)


def base(run: SeedRun) -> dict[str, Any]:
    """S1 and S2 of the teacher."""
    model = run.first_teacher
    start = run.own.get("init_from") or fresh(run, model, "pretrain", run.seed)
    phases = two_stages(run.budget.general, run.budget.reasoning, model.rope_theta)
    settings = config(run, model, phases, seed=run.seed, init_from=start, eps=EPS)
    run.train(pretrain, "pretrain", settings)
    return {"parameters": count_parameters(model).total, "losses": losses(run, "pretrain")}


def base_exam(run: SeedRun) -> dict[str, Any]:
    """Problems in the form of the documents, worked and answered at once."""
    engine = run.engine(run.first_teacher, run.weights("pretrain"))
    return {style: measures.pretrained(run, engine, style) for style in FORMS}


def long_context(run: SeedRun) -> dict[str, Any]:
    """S3 with the base raised to 1,000,000 (ABF)."""
    return {"losses": third_stage(run, "long", 1e6)}


def third_stage(run: SeedRun, name: str, theta: float) -> list[dict[str, Any]]:
    """S3 from the end of S2, with RoPE base `theta`; returns its held-out losses."""
    phases = [PretrainingPhase("S3", LONGER, run.budget.long, LONG, 2, 1.5e-3, 0.1, theta)]
    model = run.teacher.replace(rope_theta=theta)
    start = str(run.weights("pretrain"))
    settings = config(run, model, phases, seed=run.seed, init_from=start, eps=EPS)
    run.train(pretrain, name, settings)
    return losses(run, name)


def losses(run: SeedRun, name: str) -> list[dict[str, Any]]:
    """Held-out losses at the start and the end of every stage, by set, with the means of SETS."""
    records = json.loads((run.path / name / "evaluation.json").read_text())
    for record in records:
        loss = {key: value["loss"] for key, value in record["sets"].items()}
        record["means"] = {k: sum(loss[n] for n in names) / len(names) for k, names in SETS.items()}
    return records


def needles(run: SeedRun) -> dict[str, Any]:
    """S3 with base 10,000 as a control, then look-ups by length."""
    return {"losses_10k": third_stage(run, "long_10k", 1e4), "accuracy": by_length(run)}


def by_length(run: SeedRun) -> dict[str, dict[int, Any]]:
    """Needle accuracy by length: before S3, after it with either base, and with YaRN or DCA."""
    long = run.teacher
    rows = {
        "before S3 (base 10k)": (run.first_teacher, "pretrain"),
        "S3, base 10k": (run.first_teacher, "long_10k"),
        "S3, base 1M": (long, "long"),
        "S3, base 1M + YaRN x4": (
            long.replace(rope_scaling=YarnConfig(4.0, original_length=LONG)),
            "long",
        ),
        "S3, base 1M + DCA": (
            long.replace(dual_chunk=DualChunkConfig(LONG, chunk=LONG * 3 // 4)),
            "long",
        ),
    }
    tests = {length: haystacks(run, length) for length in run.budget.lengths}
    longest = max(run.budget.lengths)
    table: dict[str, dict[int, Any]] = {}
    for name, (model, source) in rows.items():
        apply = transformer.bind(model, Execution.for_mesh(run.mesh))
        # Eight rows of 2,048 would take 0.5 GB of scores a layer.
        widths = sorted({longest, *(w for w in (LENGTH, LONG) if w < longest)})
        test = needle.Needles(apply, run.tokenizer, widths=widths, batch=4)
        params = parameters(str(run.weights(source)), model, run.mesh)
        table[name] = {length: test.accuracy(params, part) for length, part in tests.items()}
    return table


FORMS = ("worked", "direct")


def haystacks(run: SeedRun, length: int) -> list[needle.Needle]:
    """English documents of about `length` tokens (at least 85%) that end in one look-up.

    Raises ValueError where this tokenizer cannot write so short a document.
    """
    rng = Random(f"needle/{run.exam}/{length}")
    characters, entries = 2 * length, 2 if length < 128 else 8
    samples: list[needle.Needle] = []
    for _ in range(400 * run.budget.needles):
        text = documents.haystack(rng, "en", characters, lookups=1, entries=entries)
        count = len(run.tokenizer.encode(text))
        if 0.85 * length <= count <= length:
            key, code = re.split(r"(?=\d+\.$)", text, maxsplit=1)
            samples.append(needle.Needle(key, code))
        if len(samples) == run.budget.needles:
            return samples
        # Stories differ in length: steer towards the wanted one.
        characters = max(1, characters + (1 if count < 0.92 * length else -1) * (length // 16 + 1))
    raise ValueError(f"no needles of {length} tokens with a vocabulary of {run.budget.vocab}")


def student_base(run: SeedRun) -> dict[str, Any]:
    """The student's own pretraining, which leaves the rare operations out."""
    world, left = prepare_data.without_rare(run)
    phases = two_stages(run.budget.student_general, run.budget.student_reasoning, run.theta)
    seed = run.seed + 1000
    start = fresh(run, run.student, "student_base", seed)
    settings = config(run, run.student, phases, seed=seed, init_from=start, world=world)
    run.train(pretrain, "student_base", settings)
    return {
        "parameters": count_parameters(run.student).total,
        "documents_left": left,
        "losses": losses(run, "student_base"),
    }
