"""What a model of the recipe is measured by: accuracy in both modes, ThinkFollow, tools, pass@k."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import mean
from typing import Any

from qwen3.environments import episode_answers
from qwen3.eval import budget_sweep, intervals, pass_at_k, think_follow
from qwen3.eval.accuracy import accuracy
from qwen3.infer.engine import Engine
from qwen3.infer.requests import Request, sampling
from qwen3.recipe.seed_run import CONTEXT, SeedRun
from qwen3.recipe.world import documents, exams, own_input
from qwen3.rewards import Problem
from qwen3.rewards.answers import ScoredAnswer
from qwen3.rewards.locks import lock, lock_tasks
from qwen3.stages.prompts import prompt_ids

MULTI = 3  # days from which a problem counts as multi-step


def problems(run: SeedRun, count: int = 0, **options: Any) -> list[Problem]:
    """Held-out problems of one lock, by default as many as the budget has tests."""
    return exams.locks(count or run.budget.tests, run.exam, **options)


def ask(
    run: SeedRun, engine: Engine, tests: Sequence[Problem], **options: Any
) -> list[list[ScoredAnswer]]:
    """`episode_answers.ask` with the budget's longest answer; greedy unless `sampling` is given."""
    return episode_answers.ask(
        engine, run.tokenizer, tests, max_tokens=run.budget.answer, **options
    )


def mode(
    run: SeedRun,
    engine: Engine,
    name: str,
    *,
    temperature: float = 0.0,
    tests: Sequence[Problem] = (),
) -> dict[str, Any]:
    """Accuracy over held-out problems in the mode `name`, "think" or "no_think".

    Also of the multi-step ones and by days, with tokens of thinking, per-problem scores in order
    and some transcripts.
    """
    tests = [problem.flagged(name) for problem in tests or problems(run)]
    rules = sampling("model", temperature=temperature)
    groups = ask(run, engine, tests, sampling=rules, seed=run.seed)
    firsts = [group[0] for group in groups]
    scores = [answer.score or 0.0 for answer in firsts]
    many = [s for s, days in zip(scores, days_of(tests), strict=True) if days >= MULTI]
    close = run.tokenizer.think_close
    return {
        "accuracy": accuracy(groups),
        "multi_step": intervals.mean(many) if many else None,
        "by_days": by_days(tests, scores),
        "thinking_tokens": mean(answer.thinking_tokens(close) for answer in firsts),
        "scores": scores,
        "transcripts": [transcript(run, answer) for answer in firsts[3:6]],
    }


def pretrained(run: SeedRun, engine: Engine, style: str = "worked") -> dict[str, Any]:
    """Accuracy of a base model over held-out problems, in the form of its training documents.

    The model goes on after "Working:" or, with style "direct", after "Answer:".
    """
    tests, (working, final) = problems(run), documents.MARKS["en"]
    mark = working if style == "worked" else final
    texts = [f"{lock_tasks.question(lock_tasks.locks_of(p), 'en')}\n{mark}" for p in tests]
    prompts = [run.tokenizer.encode(text) for text in texts]
    continuations = greedy(run, engine, prompts)
    conclusions = [text.split(final)[-1].strip() for text in continuations]
    right = starts_right(tests, conclusions)
    return {"accuracy": intervals.share(sum(right), len(right)), "by_days": by_days(tests, right)}


def greedy(run: SeedRun, engine: Engine, prompts: Sequence[Sequence[int]]) -> list[str]:
    """Greedy continuations of token ids, as text."""
    requests = [
        Request(prompt, max_tokens=run.budget.answer, sampling=sampling("greedy"), prompt_id=number)
        for number, prompt in enumerate(prompts)
    ]
    return [run.tokenizer.decode(done.tokens) for done in engine.generate(requests)]


def starts_right(tests: Sequence[Problem], texts: Sequence[str]) -> list[bool]:
    """Whether each text begins with the right answer to its problem."""
    return [
        text.startswith(lock.answer(lock_tasks.locks_of(problem), "en"))
        for text, problem in zip(texts, tests, strict=True)
    ]


def days_of(tests: Sequence[Problem]) -> list[int]:
    """Days of the first lock of each problem."""
    return [len(lock_tasks.locks_of(problem)[0].ops) for problem in tests]


def by_days(tests: Sequence[Problem], scores: Sequence[float]) -> dict[int, float]:
    """{days: mean score}"""
    days = days_of(tests)
    return {
        d: mean(s for s, other in zip(scores, days, strict=True) if other == d)
        for d in sorted(set(days))
    }


def transcript(run: SeedRun, answer: ScoredAnswer, **more: Any) -> dict[str, Any]:
    """One exchange as text, for the report; `forced`: the text that ended thinking, if any."""
    completion = answer.completion
    forced = [t for t, f in zip(completion.tokens, completion.forced, strict=True) if f]
    return {
        "prompt": run.tokenizer.decode(list(completion.request.prompt)),
        "answer": answer.text,
        "score": answer.score,
        "forced": run.tokenizer.decode(forced),
        **more,
    }


def own(run: SeedRun, engine: Engine) -> dict[str, Any]:
    """Thinking accuracy on held-out problems of the user's files."""
    tests = own_input.fitting(run, CONTEXT - run.budget.answer, "heldout")[: run.budget.tests]
    return with_transcripts(run, ask(run, engine, tests))


def follow(run: SeedRun, engine: Engine) -> dict[str, intervals.Estimate]:
    """ThinkFollow on held-out dialogues."""
    tests = exams.dialogues(run.budget.dialogues, run.exam)
    return think_follow.follow(engine, run.tokenizer, tests, max_tokens=run.budget.answer)


def calls(run: SeedRun, engine: Engine) -> dict[str, Any]:
    """Accuracy of tool calls, without thinking."""
    requests = exams.tool_requests(run.budget.tests // 2, run.exam)
    tests = [problem.flagged("no_think") for problem in requests]
    return with_transcripts(run, ask(run, engine, tests))


def with_transcripts(run: SeedRun, groups: Sequence[Sequence[ScoredAnswer]]) -> dict[str, Any]:
    """Accuracy, and transcripts of two answers."""
    return {
        "accuracy": accuracy(groups),
        "transcripts": [transcript(run, group[0]) for group in groups[:2]],
    }


def sweep(run: SeedRun, engine: Engine, tests: Sequence[Problem], **options: Any) -> dict[str, Any]:
    """`budget_sweep.sweep` with a transcript of one hard problem at every budget."""
    longest = 2 * run.budget.answer
    result = budget_sweep.sweep(
        engine, run.tokenizer, tests, run.budget.budgets, max_tokens=longest, **options
    )
    hard = max(range(len(tests)), key=lambda i: tests[i].difficulty)
    result["transcripts"] = [
        transcript(run, at_budget[hard], budget=budget)
        for budget, at_budget in result.pop("answers").items()
    ]
    return result


def unfinished(run: SeedRun, engine: Engine, most: int = 3) -> dict[int, intervals.Estimate]:
    """{steps left out: accuracy} of thoughts that lack their last steps but are closed as usual.

    Without a stop text, so it tells whether that text or the missing steps matter
    (docs/log/2026-11-29-cut-thoughts.md).
    """
    days = range(MULTI, lock.MOST_DAYS + 1)
    tests = [problem.flagged("think") for problem in problems(run, days=days)]
    shares = {}
    for left in range(most + 1):
        prompts = [thought_up_to(run, problem, left) for problem in tests]
        right = starts_right(tests, greedy(run, engine, prompts))
        shares[left] = intervals.share(sum(right), len(right))
    return shares


def thought_up_to(run: SeedRun, problem: Problem, left: int) -> list[int]:
    """Token ids of the problem and of its careful thought but for the last `left` steps, closed."""
    (item,) = lock_tasks.locks_of(problem)
    part = replace(item, ops=item.ops[: len(item.ops) - left])
    text = f"<think>\n{lock.trace([part], 'en', 'careful')}\n</think>\n\n"
    return [*prompt_ids(problem, run.tokenizer), *run.tokenizer.encode(text)]


def passes(run: SeedRun, engine: Engine, count: int = 0) -> dict[str, Any]:
    """pass@1 and pass@samples at T = 1, and pass@1 at T = 0.6, on hard problems.

    With per-problem values for paired comparisons, and by whether a problem has rare operations.
    """
    hard = problems(run, count or run.budget.hard, days=(5, 6))
    tests, samples = [problem.flagged("think") for problem in hard], run.budget.samples
    groups = ask(run, engine, tests, sampling=sampling(), samples=samples, seed=run.seed)
    cool = sampling("model", temperature=0.6)
    cool_groups = ask(run, engine, tests, sampling=cool, samples=2, seed=run.seed + 1)
    ks = sorted({1, 4, samples} & set(range(1, samples + 1)))
    scores = {k: pass_at_k.per_problem(groups, k) for k in ks}
    rare = [lock.has_rare(lock_tasks.locks_of(problem)) for problem in tests]
    return {
        "pass": {k: intervals.mean(values) for k, values in scores.items()},
        "by_rare": {
            name: {
                k: mean([v for v, r in zip(values, rare, strict=True) if r == which] or [0.0])
                for k, values in scores.items()
            }
            for name, which in (("without", False), ("with", True))
        },
        "pass_at_1_t06": pass_at_k.estimate(cool_groups, 1),
        "per_problem": {k: [round(v, 4) for v in values] for k, values in scores.items()},
    }
