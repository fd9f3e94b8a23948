"""The leaderboard: every stage's checkpoint on in-house suites of `qwen3 eval`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from qwen3.model.sizes import ModelConfig
from qwen3.recipe.seed_run import CONTEXT, SeedRun
from qwen3.stages.suite_evaluation import SuiteMeasure

SUITES = ("locks", "countdown", "length_control")  # whose questions the context holds
MODES = ("think", "no_think")
ITEMS = 24  # of each suite, at most


def leaderboard(run: SeedRun) -> dict[str, Any]:
    """{stage: {"SUITE.MODE": score with its interval, items, cut and unparsed shares}}."""
    suites = SuiteMeasure(
        SUITES,
        run.tokenizer,
        data="",
        modes=MODES,
        limit=max(2, min(ITEMS, run.budget.tests // 4)),
        max_tokens=run.budget.answer,
        max_length=CONTEXT,
        seed=run.seed,
    )
    return {
        stage: suites.measure(run.engine(model, run.weights(stage))).rows
        for stage, model in checkpoints(run)
    }


def checkpoints(run: SeedRun) -> Iterator[tuple[str, ModelConfig]]:
    """(stage, size of its model) in the order of training."""
    for stage in ("long" if run.long else "pretrain", "cold_start", "reasoning_rl", "fusion"):
        yield stage, run.teacher
    yield "general_rl", run.teacher
    if run.budget.students:
        for stage in ("student_base", "student", "student_rl", "student_kl"):
            yield stage, run.student
