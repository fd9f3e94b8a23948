"""Stage `experts`: a mixture of experts beside a dense model of equal activated parameters, and
balance over the global batch beside balance over every microbatch; then cold start and GRPO of the
mixture and of the dense model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qwen3.data.batches import Batches
from qwen3.data.corpora import Corpus
from qwen3.data.mixture import Stage
from qwen3.eval import expert_use
from qwen3.model import transformer
from qwen3.model.execution import Execution
from qwen3.model.sizes import count_parameters
from qwen3.recipe.seed_run import Clock, execution, logged
from qwen3.recipe.stages import measures, post_training, pretraining
from qwen3.recipe.world import sft_data
from qwen3.stages import pretrain
from qwen3.stages.prompts import Share
from qwen3.stages.start import parameters

# run: (size, balance, microbatches). Two rows a microbatch: balance over so few is far from that
# over a batch. Where it is over the batch, microbatches change nothing but the time.
RUNS = {
    "dense": ("tiny", None, 1),
    "global": ("tiny-moe", "global", 1),
    "micro": ("tiny-moe", "micro", 4),
}
COEFFICIENT = 0.02
# What models of so few steps can be taught by reward: single digits of locks of one and two days.
EASY = Share("lock_digits", difficulty=(0.0, 0.2), modes=("think",))
DOMAINS = ("story", "facts", "ledger", "worked", "documentation", "sources")


def experts(run):
    """The same S1 and S2 for all three: held-out loss by domain, expert use by domain. Then the
    same cold start and GRPO for dense and mixture: accuracy before and after."""
    found = {name: one(run, name, *row) for name, row in RUNS.items()}
    for name in ("dense", "global"):
        found[name]["rl"] = reinforced(run, name)
    return found


def model_of(run, name):
    return run.model(RUNS[name][0], balance_coef=COEFFICIENT)


def reinforced(run, name):
    """Cold start, then GRPO: sampled accuracy after each, and the curve."""
    model, budget, folder = model_of(run, name), run.budget, f"experts/{name}"
    start = f"{folder}_cold"
    rows = sft_data.cold_start(run, budget.cold_problems)
    data = sft_data.write(run.folder(start) / "data" / "hasty.jsonl", rows)
    post_training.fine_tune(
        run, model, start, [data], budget.cold_start, init_from=run.weights(folder)
    )
    made = post_training.reinforced(
        run,
        f"{folder}_rl",
        model,
        run.weights(start),
        budget.expert_rl,
        one_lock=True,
        task=EASY,
    )
    asked = [replace(p, task=EASY.task) for p in measures.problems(run, days=(1, 2))]
    return made | {
        key: measures.mode(
            run, run.engine(model, run.weights(source)), "think", temperature=1.0, asked=asked
        )
        for key, source in (("cold", start), ("after", f"{folder}_rl"))
    }


def one(run, name, size, balance, microbatches):
    model, count = model_of(run, name), run.budget.experts
    steps = pretraining.two_stages(count, count, run.theta)
    more = {"balance": balance} if balance else {}
    start = pretraining.fresh(run, model, f"experts_{name}", run.seed + 2000)
    config = pretraining.config(run, model, steps, seed=run.seed + 2000, init_from=start, **more)
    stages = tuple(pretraining.cut(stage, microbatches) for stage in config.stages)
    config = pretraining.replaced(config, stages=stages)
    folder = run.folder(f"experts/{name}")
    clock = Clock(folder)
    run.train(pretrain, f"experts/{name}", config)
    last = pretraining.losses(run, f"experts/{name}")[-1]["sets"]
    counts = count_parameters(model)
    found = {
        "total": counts.total,
        "active": counts.activated,
        "seconds": clock.seconds,
        "loss": float(np.mean([each["loss"] for each in last.values()])),
        "by_domain": {domain: each["loss"] for domain, each in last.items()},
        "curve": curve(folder, "ce" if balance else "loss"),
    }
    return {**found, **(use(run, model, folder) if balance else {})}


def curve(folder, key):
    lines = logged(folder)
    lines = lines[:: max(1, len(lines) // 100)]
    return {"x": [line["step"] for line in lines], "y": [line[key] for line in lines]}


def use(run, model, folder):
    """Expert use by domain on held-out rows."""
    how = Execution.for_mesh(run.mesh, **execution(model))
    batches = {}
    for domain in DOMAINS:
        corpus = {domain: Corpus(run.path / "corpora" / "held" / domain)}
        stage = Stage(domain, {domain: 1}, pretraining.LENGTH, 16, repeat_small=True)
        batches[domain] = Batches(stage, corpus, 0, vocab=model.vocab)[0]
    params = parameters(str(folder), model, run.mesh)
    found = expert_use.shares(transformer.bind(model, how), params, batches)
    whole = np.mean([*found.values()], axis=0)
    return {
        "domains": list(found),
        "use": [table[-1].tolist() for table in found.values()],
        "specialisation": expert_use.specialisation(found),
        "max_load": float((whole * model.experts).max()),
    }
