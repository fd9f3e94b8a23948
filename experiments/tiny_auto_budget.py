"""The automatic thinking budget on the recipe's world: calibration, and against fixed budgets.

A head is trained on the model's own answers to training problems of one lock and of several, and
is measured on held-out ones: the share of right thoughts within its quantiles, and accuracy over
tokens of thinking for fixed budgets and for settings of the dial.

Command:   python experiments/tiny_auto_budget.py --model runs/recipe/seed0/export/model
           after `qwen3 recipe` of 15 minutes
Hardware:  two cores; about five minutes.
Expected:  three seeds: of right thoughts .47 to .53 and .88 to .90 are within predicted quantiles
           .5 and .9; auto:0.7 answers 63 to 68% in 22 to 25 tokens, fixed budgets of as many 27 to
           30%, and no limit 66 to 70% in 30 to 35 (docs/log/2026-11-30-automatic-budget.md).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from qwen3.data.atomic import write_atomically
from qwen3.environments import episode_answers
from qwen3.eval import intervals
from qwen3.infer import language_model, thinking_head
from qwen3.infer.auto_budget import PromptStates
from qwen3.infer.language_model import LanguageModel
from qwen3.infer.requests import Request, sampling
from qwen3.infer.thinking_head import BudgetHead
from qwen3.recipe.world import exams
from qwen3.rewards import Problem, answers
from qwen3.stages.budget_head import BudgetHeadConfig, PromptOutcomes, read_outcomes, train

ONE, SEVERAL, SAMPLES = 1500, 700, 8  # training problems of one lock and of several; answers
LONGEST = 400  # tokens of an answer
FIXED = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80)  # budgets for all problems alike
DIALS = (0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="runs/recipe/seed0/export/model")
    parser.add_argument("--out", type=Path, default=Path("runs/auto_budget"))
    parser.add_argument("--slots", type=int, default=128)
    options = parser.parse_args()
    model = language_model.load(options.model)
    training = unflagged(
        [*exams.training(ONE, "auto budget"), *exams.several_training(SEVERAL, "auto budget", 0.25)]
    )
    held_out = unflagged([*exams.locks(ONE // 5, "dev"), *exams.several(SEVERAL // 5, "dev")])
    files = sampled(model, training, options.out / "training", options.slots)
    assert model.tokenizer is not None
    head, measures = train(model, read_outcomes(files, model.tokenizer), BudgetHeadConfig())
    head.save(options.out)
    files = sampled(model, held_out, options.out / "held_out", options.slots)
    cover = coverage(model, head, read_outcomes(files, model.tokenizer))
    rows = frontier(model, head, held_out, options.slots)
    result = {"measures": measures, "cover": cover, "frontier": rows}
    write_atomically(options.out / "result.json", json.dumps(result, indent=1))
    show(result)


def unflagged(problems: Sequence[Problem]) -> list[Problem]:
    """The problems as people ask them: without a switch of the mode."""
    bare = []
    for problem in problems:
        last = dict(problem.messages[-1])
        last["content"] = last["content"].removesuffix(" /think")
        messages = [*problem.messages[:-1], last]
        bare.append(dataclasses.replace(problem, messages=messages, mode="any"))
    return bare


def sampled(
    model: LanguageModel, problems: Sequence[Problem], folder: Path, slots: int
) -> list[Path]:
    """Files of answers at temperature 1 with thinking and, a quarter as many, without."""
    ways: dict[str, dict[str, Any]] = {
        "think": {"samples": SAMPLES},
        "plain": {"samples": SAMPLES // 4, "enable_thinking": False},
    }
    for name, way in ways.items():
        file = folder / f"{name}.jsonl"
        if not file.exists():
            rows = records(model, problems, slots, sampling=sampling("model"), **way)
            write_atomically(file, "".join(json.dumps(row) + "\n" for row in rows))
    return [folder / f"{name}.jsonl" for name in ways]


def records(
    model: LanguageModel, problems: Sequence[Problem], slots: int, **way: Any
) -> list[dict[str, Any]]:
    """Rollouts as `stages.budget_head` reads them, by problem and sample."""
    words = model.tokenizer
    assert words is not None
    engine = model.engine(slots=slots, max_length=512)
    groups = episode_answers.ask(engine, words, problems, max_tokens=LONGEST, seed=5, **way)
    return [
        {
            "prompt": words.decode(list(answer.completion.request.prompt)),
            "answer": answer.text,
            "score": answer.score,
            "finish": answer.completion.finish,
            "thinking": answer.thinking_tokens(words.think_close),
        }
        for group in groups
        for answer in group
    ]


def coverage(
    model: LanguageModel, head: BudgetHead, outcomes: Sequence[PromptOutcomes]
) -> dict[str, Any]:
    """{quantile: share of right thoughts within it, over prompts}, each with its interval.

    Lengths are less a random part of a token, as in training.
    """
    rng = np.random.default_rng(0)
    predictions = predicted(model, head, [entry.prompt for entry in outcomes])
    shares: dict[str, list[float]] = {f"{q:g}": [] for q in head.quantiles}
    for entry, prediction in zip(outcomes, predictions, strict=True):
        if entry.lengths:
            lengths = np.array(entry.lengths) - rng.random(len(entry.lengths))
            for name, length in zip(shares, prediction.lengths_Q, strict=True):
                shares[name].append(float(np.mean(lengths <= length)))
    return {name: intervals.mean(values) for name, values in shares.items()}


def predicted(
    model: LanguageModel, head: BudgetHead, prompts: Sequence[str]
) -> list[thinking_head.LengthPrediction]:
    """What the head says of each prompt."""
    assert model.tokenizer is not None
    ids = [model.tokenizer.encode(prompt) for prompt in prompts]
    read = PromptStates(model.config, model.mesh, model.execution)
    states = np.concatenate([read(model.params, ids[i : i + 64]) for i in range(0, len(ids), 64)])
    return [head.predict(row) for row in states]


def frontier(
    model: LanguageModel, head: BudgetHead, problems: Sequence[Problem], slots: int
) -> list[dict[str, Any]]:
    """Greedy accuracy and mean tokens of thinking for every fixed budget and every dial.

    A thought that ends within a budget is the same without it, so that only those that are cut are
    asked for again. Budget 0 is the hard switch, as in chats.
    """
    greedy = sampling("greedy")
    free = records(model, problems, slots, sampling=greedy)
    at_once = records(model, problems, slots, sampling=greedy, enable_thinking=False)
    predictions = predicted(model, head, [row["prompt"] for row in free])
    budgets: dict[str, list[int]] = {f"{budget}": [budget] * len(problems) for budget in FIXED}
    for dial in DIALS:
        chosen = [thinking_head.budget(head, prediction, dial) for prediction in predictions]
        budgets[f"auto:{dial:g}"] = chosen
    pairs = {pair for chosen in budgets.values() for pair in enumerate(chosen)}
    cut = sorted((i, b) for i, b in pairs if 0 < b < free[i]["thinking"])
    outcomes = {(i, b): at_once[i] | {"thinking": 0} if b == 0 else free[i] for i, b in pairs}
    outcomes |= dict(zip(cut, cut_answers(model, problems, cut, slots), strict=True))
    answered = {name: [outcomes[p] for p in enumerate(chosen)] for name, chosen in budgets.items()}
    answered["no limit"] = free
    return [
        {
            "budget": name,
            "tokens": float(np.mean([row["thinking"] for row in rows])),
            "scores": [row["score"] or 0.0 for row in rows],
        }
        for name, rows in answered.items()
    ]


def cut_answers(
    model: LanguageModel, problems: Sequence[Problem], cut: Sequence[tuple[int, int]], slots: int
) -> list[dict[str, Any]]:
    """Greedy answers to (problem, budget), all decoded together."""
    words = model.tokenizer
    assert words is not None
    asked = [problems[i] for i, _ in cut]
    requests = [
        Request(
            answers.prompt_ids(problem, words),
            sampling=sampling("greedy"),
            max_tokens=LONGEST,
            budget=budget,
            prompt_id=number,
        )
        for (number, budget), problem in zip(cut, asked, strict=True)
    ]
    engine = model.engine(slots=slots, max_length=512)
    scored = answers.sample_answers(engine, words, asked, requests, samples=1, score=answers.score)
    return [
        {"score": one.score, "thinking": one.thinking_tokens(words.think_close)} for one in scored
    ]


def show(result: dict[str, Any]) -> None:
    """The tables of the log entry; each dial beside the best fixed budgets of as many tokens."""
    console = Console()
    table = Table("quantile", "covered", "95% interval")
    for name, share in result["cover"].items():
        table.add_row(name, f"{share[0]:.3f}", f"{share[1]:.3f} to {share[2]:.3f}")
    console.print(table)
    fixed = [row for row in result["frontier"] if not row["budget"].startswith("auto")]
    ends = [row for row in fixed if row["budget"] in ("0", "no limit")]
    columns = ("fixed, as many tokens", "95% of the difference", "coin of none and no limit", "95%")
    table = Table("budget", "tokens", "accuracy", *columns)
    for row in result["frontier"]:
        cells = [row["budget"], f"{row['tokens']:.1f}", f"{np.mean(row['scores']):.3f}"]
        if row["budget"].startswith("auto"):
            cells += [*beside(row, fixed), *beside(row, ends)]
        table.add_row(*cells)
    console.print(table)


def beside(row: dict[str, Any], others: Sequence[dict[str, Any]]) -> tuple[str, str]:
    """(accuracy of two neighbours among the others, by a coin that gives as many tokens; interval
    of what the row has more, over problems).
    """
    others = sorted(others, key=lambda other: other["tokens"])
    tokens = [other["tokens"] for other in others]
    by_problem = np.array([other["scores"] for other in others]).T
    mixed = np.array([np.interp(row["tokens"], tokens, scores) for scores in by_problem])
    gain = intervals.mean(np.array(row["scores"]) - mixed)
    return f"{mixed.mean():.3f}", f"{gain.low:+.3f} to {gain.high:+.3f}"


if __name__ == "__main__":
    main()
