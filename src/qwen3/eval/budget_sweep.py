"""Accuracy by thinking budget, with what the curve alone hides (report, figure 2 and 4.4).

The same problems are asked without thinking, and the accuracy of the problems that a budget cut is
given beside theirs without thinking: a curve can rise only because fewer thoughts are cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qwen3.eval import intervals
from qwen3.eval.answers import Answer, ask
from qwen3.infer.engine import Engine
from qwen3.rewards import Problem


def sweep(
    engine: Engine,
    problems: Sequence[Problem],
    budgets: Sequence[int],
    *,
    credit: Callable[[Answer], float] = lambda answer: answer.score or 0.0,
    **options,
) -> dict:
    """{"non_thinking": Estimate, "budgets": [{"budget", "all", "cut_share", "cut",
    "cut_non_thinking"}, ...], "answers": {budget: [Answer]}}; "cut" columns are None where no
    thought was cut.

    problems: without a mode; the flags are added here. credit: 0..1 of an answer (partial credit
    for sub-answers). options: as of `ask`.
    """
    plain = [group[0] for group in ask(engine, _all(problems, "no_think"), **options)]
    without = [credit(answer) for answer in plain]
    rows, kept = [], {}
    for budget in budgets:
        asked = ask(engine, _all(problems, "think"), budget=budget, **options)
        answers = kept[budget] = [group[0] for group in asked]
        got = [credit(answer) for answer in answers]
        cut = [i for i, answer in enumerate(answers) if answer.cut]
        rows.append(
            {
                "budget": budget,
                "all": intervals.mean(got),
                "cut_share": len(cut) / len(answers),
                "cut": intervals.mean([got[i] for i in cut]) if cut else None,
                "cut_non_thinking": intervals.mean([without[i] for i in cut]) if cut else None,
            }
        )
    return {"non_thinking": intervals.mean(without), "budgets": rows, "answers": kept}


def _all(problems, mode):
    return [problem if problem.mode != "any" else problem.flagged(mode) for problem in problems]


def falls(rows: Sequence[dict]) -> list[tuple[int, int]]:
    """Pairs of neighbouring budgets between which accuracy falls beyond both intervals."""
    pairs = zip(rows, rows[1:], strict=False)
    return [(a["budget"], b["budget"]) for a, b in pairs if b["all"].high < a["all"].low]
