"""Accuracy by thinking budget, with what the curve alone hides (report, figure 2 and 4.4).

The same problems are asked without thinking, and the accuracy of the problems that a budget cut is
given beside theirs without thinking: a curve can rise only because fewer thoughts are cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from qwen3.data.tokenizer import Tokenizer
from qwen3.environments.episode_answers import ask
from qwen3.eval import intervals
from qwen3.infer.backend import RolloutBackend
from qwen3.rewards import Problem
from qwen3.rewards.answers import ScoredAnswer


def sweep(
    backend: RolloutBackend,
    tokenizer: Tokenizer,
    problems: Sequence[Problem],
    budgets: Sequence[int],
    *,
    credit: Callable[[ScoredAnswer], float] = lambda answer: answer.score or 0.0,
    **options: Any,
) -> dict:
    """{"non_thinking": Estimate, "budgets": [{"budget", "all", "cut_share", "cut",
    "cut_non_thinking"}, ...], "answers": {budget: [ScoredAnswer]}}.

    "cut" columns are over the problems whose thought the budget cut, None where it cut none.
    problems: without a mode; the flags are added here. credit: 0..1 of an answer (partial credit
    for sub-answers). options: as of `environments.episode_answers.ask`, without samples.
    """

    def answers_in(mode: str, **more: Any) -> list[ScoredAnswer]:
        flagged = [p if p.mode != "any" else p.flagged(mode) for p in problems]
        return [group[0] for group in ask(backend, tokenizer, flagged, **more, **options)]

    plain = [credit(answer) for answer in answers_in("no_think")]
    rows, answers = [], {}
    for budget in budgets:
        answers[budget] = answers_in("think", budget=budget)
        credits = [credit(answer) for answer in answers[budget]]
        cut = [i for i, answer in enumerate(answers[budget]) if answer.cut]
        rows.append(
            {
                "budget": budget,
                "all": intervals.mean(credits),
                "cut_share": len(cut) / len(credits),
                "cut": intervals.mean([credits[i] for i in cut]) if cut else None,
                "cut_non_thinking": intervals.mean([plain[i] for i in cut]) if cut else None,
            }
        )
    return {"non_thinking": intervals.mean(plain), "budgets": rows, "answers": answers}


def falls(rows: Sequence[dict]) -> list[tuple[int, int]]:
    """Pairs of neighbouring budgets between which accuracy falls beyond both intervals."""
    pairs = zip(rows, rows[1:], strict=False)
    return [(a["budget"], b["budget"]) for a, b in pairs if b["all"].high < a["all"].low]
