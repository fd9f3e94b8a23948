"""Optimizers and learning rates of the recipe's two ways to teach the student, tuned alike (C1).

From the student's one checkpoint in the workdir of a recipe run on the development problems. A
setting that is done is not run again.

Command:   python experiments/tune_students.py --workdir runs/dev --seed 1
           after `qwen3 recipe --workdir runs/dev --exam dev --seeds 2`
Hardware:  two cores; 1 minute a setting of KL, 3 minutes one of RL.
Expected:  a table of pass@k on the development problems, a row a setting, the same settings for
           both; the best of KL ends above the best of GRPO
           (docs/log/2026-11-29-rates-tuned-alike.md).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from qwen3.run import use_compile_cache  # noqa: E402
from qwen3.recipe import seed_run  # noqa: E402
from qwen3.recipe.budgets import Budget  # noqa: E402
from qwen3.recipe.stages import students  # noqa: E402

SETTINGS = (
    "adamw:1.25e-4",
    "adamw:2.5e-4",
    "adamw:5e-4",
    "adamw:1e-3",
    "adamw:2e-3",
    "muon:5e-4",
    "muon:1e-3",
    "muon:2e-3",
    "muon:4e-3",
    "muon:8e-3",
)


def by_divergence(run: seed_run.SeedRun, name: str, settings: tuple[str, float]) -> dict[str, Any]:
    return students.by_divergence(run, name, "student", settings)


START = "tuning/start"
METHODS = {"kl": by_divergence, "rl": students.reinforced}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True, help="of `qwen3 recipe --exam dev`")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--settings", nargs="+", default=SETTINGS, help="optimizer:peak rate")
    options = parser.parse_args()
    use_compile_cache()
    try:
        settings = [parsed(text) for text in options.settings]
        run = reopened(options.workdir.resolve(), options.seed)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if run.result(START) is None:
        run.finish(START, students.exam(run))
    print(f"start: {shares(run.result(START))}")
    for method in options.methods:
        for optimizer, peak in settings:
            name = f"tuning/{method}_{optimizer}_{peak:g}"
            if run.result(name) is None:
                run.finish(name, METHODS[method](run, name, (optimizer, peak)))
            print(f"{method}, {optimizer} {peak:g}: {shares(run.result(name))}", flush=True)
    return 0


def parsed(text: str) -> tuple[str, float]:
    """("muon", 0.003) of "muon:3e-3". ValueError for another form."""
    optimizer, _, peak = text.partition(":")
    try:
        return optimizer, float(peak)
    except ValueError:
        raise ValueError(f"--settings {text}: give optimizer:rate, such as muon:3e-3") from None


def reopened(workdir: Path, seed: int) -> seed_run.SeedRun:
    """The run that lies there. ValueError for one of the final exam, or without a student."""
    settings = json.loads((workdir / "recipe.json").read_text())
    if settings["exam"] != "dev":
        raise ValueError(f"{workdir} is of --exam {settings['exam']}: rates are chosen on dev")
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in settings["budget"].items()}
    run = seed_run.SeedRun(workdir / f"seed{seed}", Budget(**fields), seed, "dev", settings["own"])
    if run.result(students.START) is None:
        raise ValueError(f"{run.path}: the stage {students.START!r} is not done")
    return run


def shares(result: dict[str, Any] | None) -> str:
    """pass@k of a result and, after training, what it cost."""
    assert result is not None
    text = ", ".join(f"pass@{k} {100 * share[0]:.1f}" for k, share in result["pass"].items())
    if "samples" not in result:
        return text
    return (
        f"{text}, {result['samples']:,} samples, {result['seconds']:.0f} s, of these "
        f"{result['compiling']:.0f} s compiling"
    )


if __name__ == "__main__":
    sys.exit(main())
