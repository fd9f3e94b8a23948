"""Stage `experts`: a mixture of experts beside a dense model, and two forms of its balance.

The dense model has as many parameters as the mixture activates. The load-balancing loss (LBL) is
over the global batch or over every micro-batch. Then cold start and GRPO of the mixture and of the
dense model (arXiv 2505.09388, 2 and 3.3).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from qwen3.data.batches import Batches
from qwen3.data.corpora import Corpus
from qwen3.data.mixture import Stage
from qwen3.eval import expert_use
from qwen3.model import transformer
from qwen3.model.execution import Execution
from qwen3.model.sizes import ModelConfig, count_parameters
from qwen3.recipe.seed_run import Clock, SeedRun, execution, logged
from qwen3.recipe.stages import measures, post_training, pretraining
from qwen3.recipe.world import sft_data
from qwen3.stages import pretrain
from qwen3.stages.prompts import Share
from qwen3.stages.start import parameters

# run: (size, balance, microbatches). Two rows a micro-batch: balance over so few is far from that
# over a batch. Where it is over the batch, micro-batches change nothing but the time.
RUNS = {
    "dense": ("tiny", None, 1),
    "global": ("tiny-moe", "global", 1),
    "micro": ("tiny-moe", "micro", 4),
}
COEFFICIENT = 0.02  # of the load-balancing loss
# What models of so few steps can be taught by reward: single digits of locks of one and two days
# (docs/log/2026-11-29-experts-and-noise.md).
EASY = Share("lock_digits", difficulty=(0.0, 0.2), modes=("think",))
DOMAINS = ("story", "facts", "ledger", "worked", "documentation", "sources")


def experts(run: SeedRun) -> dict[str, Any]:
    """The same S1 and S2 for all of RUNS, then the same cold start and GRPO for two of them."""
    results = {name: pretrained(run, name) for name in RUNS}
    for name in ("dense", "global"):
        results[name]["rl"] = reinforced(run, name)
    return results


def model_of(run: SeedRun, name: str) -> ModelConfig:
    return run.model(RUNS[name][0], balance_coef=COEFFICIENT)


def pretrained(run: SeedRun, name: str) -> dict[str, Any]:
    """S1 and S2 of one run: parameters, held-out loss by domain, loss curve, use of experts."""
    _, balance, microbatches = RUNS[name]
    model, steps, seed = model_of(run, name), run.budget.experts, run.seed + 2000
    config = pretraining.config(
        run,
        model,
        pretraining.two_stages(steps, steps, run.theta),
        seed=seed,
        init_from=pretraining.fresh(run, model, f"experts_{name}", seed),
        microbatches=microbatches,
        balance=balance or "global",
    )
    folder = run.folder(f"experts/{name}")
    clock = Clock(folder)
    run.train(pretrain, f"experts/{name}", config)
    sets = pretraining.losses(run, f"experts/{name}")[-1]["sets"]
    counts = count_parameters(model)
    result = {
        "total": counts.total,
        "active": counts.activated,
        "seconds": clock.seconds,
        "loss": float(np.mean([measured["loss"] for measured in sets.values()])),
        "by_domain": {domain: measured["loss"] for domain, measured in sets.items()},
        "curve": curve(folder, "ce" if balance else "loss"),
    }
    return {**result, **(use(run, model, folder) if balance else {})}


def reinforced(run: SeedRun, name: str) -> dict[str, Any]:
    """Cold start, then GRPO: sampled accuracy after each, and the curve."""
    model, budget, folder = model_of(run, name), run.budget, f"experts/{name}"
    start = f"{folder}_cold"
    rows = sft_data.cold_start(run, budget.cold_problems)
    data = sft_data.write(run.folder(start) / "data" / "hasty.jsonl", rows)
    post_training.fine_tune(
        run, model, start, [data], budget.cold_start, init_from=run.weights(folder)
    )
    trained = post_training.reinforced(
        run,
        f"{folder}_rl",
        model,
        run.weights(start),
        budget.expert_rl,
        one_lock=True,
        task=EASY,
    )
    tests = [replace(p, task=EASY.task) for p in measures.problems(run, days=(1, 2))]
    return trained | {
        key: measures.mode(
            run, run.engine(model, run.weights(source)), "think", temperature=1.0, tests=tests
        )
        for key, source in (("cold", start), ("after", f"{folder}_rl"))
    }


def curve(folder: Path, key: str) -> dict[str, list[float]]:
    """About a hundred points of a metric."""
    rows = logged(folder)
    rows = rows[:: max(1, len(rows) // 100)]
    return {"x": [row["step"] for row in rows], "y": [row[key] for row in rows]}


def use(run: SeedRun, model: ModelConfig, folder: Path) -> dict[str, Any]:
    """Use of the experts by domain on held-out rows, in the last layer, and how it differs."""
    how = Execution.for_mesh(run.mesh, **execution(model))
    batches = {}
    for domain in DOMAINS:
        corpus = {domain: Corpus(run.path / "corpora" / "held" / domain)}
        stage = Stage(domain, {domain: 1}, pretraining.LENGTH, 16, repeat_small=True)
        batches[domain] = Batches(stage, corpus, 0, vocab=model.vocab)[0]
    params = parameters(str(folder), model, run.mesh)
    shares = expert_use.shares(transformer.bind(model, how), params, batches)
    mean = np.mean([*shares.values()], axis=0)  # over domains: [layers, experts]
    return {
        "domains": list(shares),
        "use": [table[-1].tolist() for table in shares.values()],
        "specialisation": expert_use.specialisation(shares),
        "max_load": float((mean * model.experts).max()),
    }
