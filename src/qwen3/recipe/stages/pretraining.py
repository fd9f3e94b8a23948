"""Stages `pretrain` (S1, S2), `base_exam`, `long` (S3), `needles` (S3 with the base left as it was,
and look-ups by length) and `student_base`: pretraining of teacher and student (report, 3.2)."""

from __future__ import annotations

import dataclasses
import json
import re
from random import Random

from qwen3.config import OptimConfig
from qwen3.data.mixture import Stage
from qwen3.eval import needle
from qwen3.model import transformer
from qwen3.model.execution import Execution
from qwen3.model.sizes import DualChunkConfig, YarnConfig, count_parameters
from qwen3.recipe.seed_run import LOG, ONE, execution
from qwen3.recipe.stages import fresh_start, measures, prepare_data
from qwen3.recipe.world import documents
from qwen3.stages import pretrain
from qwen3.stages.start import parameters

LENGTH, LONG = 160, 640
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
SETS = {
    "general": ("story", "facts", "ledger", "documentation", "sources"),
    "reasoning": ("worked", "direct"),
}


# Of Adam, which has the embeddings, for the teacher. At the usual 1e-8 the embedding of a word that
# one batch in ten has moves as far at every sight as it is long, and whether look-ups by such words
# are learnt is chance. With this it moves by its gradient, frequent ones as before. Students keep
# the usual, as of three with this two did not learn to turn a digit (LOG.md).
EPS = 1e-3


def config(run, model, steps, *, seed, sets=True, init_from="", world_in=None, eps=1e-8, **changes):
    """A pretraining run over stages {name: (mixture, steps, length, batch, peak, final, theta)}.
    world_in: folder of the world's corpora, if not with the others."""
    folder = run.path / "corpora"
    own = {
        name: 12 for flag, name in (("corpus", "own"), ("tasks", "own_tasks")) if run.own.get(flag)
    }
    evaluated = tuple(name for names in SETS.values() for name in names) if sets else ()
    stages = tuple(
        pretrain.StageConfig(
            data=Stage(name, {**mixture, **own}, length, batch, repeat_small=True),
            steps=count,
            optim=OptimConfig(
                **optimizer(run, peak, eps),
                final=final,
                warmup=min(50, count // 4),
                weight_decay=0.05,
            ),
            rope_theta=theta,
            evaluation=pretrain.Evaluation(evaluated, rows=max(2, min(24, run.budget.tests // 2))),
        )
        for name, (mixture, count, length, batch, peak, final, theta) in steps.items()
        if count
    )
    names = sorted({part for stage in stages for part in stage.data.mixture})
    return pretrain.Config(
        model,
        stages,
        {
            name: str(
                (world_in if world_in and name in documents.PARTS else folder / "train") / name
            )
            for name in names
        },
        held_out={name: str(folder / "held" / name) for name in evaluated},
        seed=seed,
        init_from=init_from,
        save_every=500,
        mesh=ONE,
        execution=execution(model),
        log=LOG,
        **changes,
    )


def optimizer(run, peak, eps):
    """Muon learns the world in less than half of AdamW's steps (LOG.md); a checkpoint that others
    trained goes on gently."""
    if run.own.get("init_from"):
        return {"optimizer": "adamw", "peak": peak / 50}
    return {"optimizer": "muon", "peak": peak, "eps": eps}


def two_stages(general, reasoning, theta=1e4):
    return {
        "S1": (GENERAL, general, LENGTH, 8, 4e-3, 0.6, theta),
        "S2": (REASONING, reasoning, LENGTH, 8, 2.4e-3, 0.05, theta),
    }


def fresh(run, model, name, seed):
    """A folder of new parameters."""
    return fresh_start.save(run.path / "starts" / name, model, seed, run.mesh)


def base(run):
    """S1 and S2 of the teacher."""
    model = run.first_teacher
    start = run.own.get("init_from") or fresh(run, model, "pretrain", run.seed)
    steps = two_stages(run.budget.general, run.budget.reasoning, model.rope_theta)
    made = config(run, model, steps, seed=run.seed, init_from=start, eps=EPS)
    run.train(pretrain, "pretrain", made)
    return {"parameters": count_parameters(model).total, "losses": losses(run, "pretrain")}


def base_exam(run):
    """Problems in the form of the documents, worked and answered at once."""
    engine = run.engine(run.first_teacher, run.weights("pretrain"))
    return {style: measures.pretrained(run, engine, style) for style in FORMS}


def long_context(run):
    """S3 with the base raised to 1,000,000 (ABF)."""
    return {"losses": third_stage(run, "long", 1e6)}


def third_stage(run, name, theta):
    steps = {"S3": (LONGER, run.budget.long, LONG, 2, 1.5e-3, 0.1, theta)}
    model = run.teacher.replace(rope_theta=theta)
    start = str(run.weights("pretrain"))
    made = config(run, model, steps, seed=run.seed, init_from=start, eps=EPS)
    run.train(pretrain, name, made)
    return losses(run, name)


def losses(run, name):
    """Held-out losses per stage: at its start and end, by set, and the means of SETS."""
    found = json.loads((run.path / name / "evaluation.json").read_text())
    for record in found:
        each = {key: value["loss"] for key, value in record["sets"].items()}
        record["means"] = {k: sum(each[n] for n in names) / len(names) for k, names in SETS.items()}
    return found


def needles(run):
    """As control S3 with base 10,000; then look-ups by length."""
    return {"losses_10k": third_stage(run, "long_10k", 1e4), "accuracy": by_length(run)}


def by_length(run):
    """Accuracy of: before S3, S3 with either base, S3 with YaRN and with DCA."""
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
    asked = {length: haystacks(run, length) for length in run.budget.lengths}
    longest, table = max(run.budget.lengths), {}
    for name, (model, source) in rows.items():
        apply = transformer.bind(model, Execution.for_mesh(run.mesh))
        # Eight rows of 2,048 would take 0.5 GB of scores a layer.
        test = needle.Needles(
            apply, run.tokenizer, widths={longest, *(w for w in WIDTHS if w < longest)}, batch=4
        )
        params = parameters(str(run.weights(source)), model, run.mesh)
        table[name] = {length: test.accuracy(params, each) for length, each in asked.items()}
    return table


FORMS = ("worked", "direct")
WIDTHS = (160, 640)


def haystacks(run, length):
    """Needles in documents of `length` tokens, one look-up asked, English. ValueError where this
    tokenizer cannot write so short a document."""
    found, rng = [], Random(f"needle/{run.exam}/{length}")
    characters, entries = 2 * length, 2 if length < 128 else 8
    for _ in range(400 * run.budget.needles):
        text = documents.haystack(rng, "en", characters, lookups=1, entries=entries)
        count = len(run.tokenizer.encode(text))
        if 0.85 * length <= count <= length:
            code = re.search(r"\d+\.$", text).start()
            found.append(needle.Needle(text[:code], text[code:]))
        if len(found) == run.budget.needles:
            return found
        # Stories differ in length: steer towards the wanted one.
        characters = max(1, characters + (1 if count < 0.92 * length else -1) * (length // 16 + 1))
    raise ValueError(f"no needles of {length} tokens with a vocabulary of {run.budget.vocab}")


def student_base(run):
    """The student's own pretraining, which leaves the rare operations out."""
    corpora, left = prepare_data.without_rare(run)
    steps = two_stages(run.budget.student_general, run.budget.student_reasoning, run.theta)
    start = fresh(run, run.student, "student_base", run.seed + 1000)
    made = config(run, run.student, steps, seed=run.seed + 1000, init_from=start, world_in=corpora)
    run.train(pretrain, "student_base", made)
    return {
        "parameters": count_parameters(run.student).total,
        "documents_left": left,
        "losses": losses(run, "student_base"),
    }


def cut(stage, microbatches):
    """The stage with its batch cut; the update stays the same, but for micro-batch balance."""
    return dataclasses.replace(stage, microbatches=microbatches)


replaced = dataclasses.replace
