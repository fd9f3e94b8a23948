"""What a post-trained model is measured by: accuracy in both modes, lengths, ThinkFollow, tools."""

from __future__ import annotations

import dataclasses
from statistics import mean

from qwen3.eval import answers, budget_sweep, intervals, pass_at_k, think_follow
from qwen3.infer.requests import Request, sampling
from qwen3.recipe.seed_run import CONTEXT
from qwen3.recipe.world import documents, exams, own_input
from qwen3.rewards.locks import lock, lock_tasks
from qwen3.stages.prompts import prompt_ids

MULTI = 3  # days from which a problem counts as multi-step


def problems(run, count=None, **options):
    return exams.locks(count or run.budget.tests, run.exam, **options)


def mode(run, engine, name, *, temperature=0.0, asked=None):
    """Accuracy over held-out problems in a mode, also of the multi-step ones and by days; tokens of
    thinking; per-problem scores in order; some transcripts."""
    asked = [p.flagged(name) for p in asked or problems(run)]
    how = sampling("model", temperature=temperature)
    found = answers.ask(engine, asked, how=how, max_tokens=run.budget.answer, seed=run.seed)
    firsts = [group[0] for group in found]
    days = [len(lock_tasks.locks_of(each.problem)[0].ops) for each in firsts]
    scores = [each.score or 0.0 for each in firsts]
    many = [s for s, d in zip(scores, days, strict=True) if d >= MULTI]
    close = run.tokenizer.think_close
    return {
        "accuracy": answers.accuracy(found),
        "multi_step": intervals.mean(many) if many else None,
        "by_days": by_days(asked, scores),
        "thinking_tokens": mean(each.thinking_tokens(close) for each in firsts),
        "scores": scores,
        "transcripts": [transcript(run, each) for each in firsts[3:6]],
    }


def pretrained(run, engine, style="worked"):
    """Accuracy of a base model over held-out problems, in the form of its training documents:
    after "Working:" or, style "direct", "Answer:"; also by days."""
    asked, (working, final) = problems(run), documents.MARKS["en"]
    mark = working if style == "worked" else final
    texts = [f"{lock_tasks.question(lock_tasks.locks_of(p), 'en')}\n{mark}" for p in asked]
    made = engine.generate(
        [
            Request(
                run.tokenizer.encode(text),
                max_tokens=run.budget.answer,
                sampling=sampling("greedy"),
                prompt_id=number,
            )
            for number, text in enumerate(texts)
        ]
    )
    said = [run.tokenizer.decode(each.tokens).split(final)[-1].strip() for each in made]
    right = [
        text.startswith(lock.answer(lock_tasks.locks_of(p), "en"))
        for text, p in zip(said, asked, strict=True)
    ]
    return {"accuracy": intervals.share(sum(right), len(right)), "by_days": by_days(asked, right)}


def by_days(asked, scores):
    """{days: mean score}"""
    days = [len(lock_tasks.locks_of(each)[0].ops) for each in asked]
    return {
        d: mean(s for s, e in zip(scores, days, strict=True) if e == d) for d in sorted(set(days))
    }


def transcript(run, answer, **more):
    """One exchange as text, for the report."""
    prompt = run.tokenizer.decode(list(answer.completion.request.prompt))
    forced = run.tokenizer.decode(
        [t for t, f in zip(answer.completion.tokens, answer.completion.forced, strict=True) if f]
    )
    return {
        "prompt": prompt,
        "answer": answer.text,
        "score": answer.score,
        "forced": forced,
        **more,
    }


def own(run, engine):
    """Thinking accuracy on held-out problems of the user's files."""
    asked = own_input.fitting(run, CONTEXT - run.budget.answer, "heldout")[: run.budget.tests]
    found = answers.ask(engine, asked, max_tokens=run.budget.answer)
    return {
        "accuracy": answers.accuracy(found),
        "transcripts": [transcript(run, group[0]) for group in found[:2]],
    }


def follow(run, engine):
    """ThinkFollow on held-out dialogues."""
    asked = exams.dialogues(run.budget.dialogues, run.exam)
    return think_follow.follow(engine, asked, max_tokens=run.budget.answer)


def calls(run, engine):
    """Tool requests, without thinking."""
    asked = [p.flagged("no_think") for p in exams.tool_requests(run.budget.tests // 2, run.exam)]
    found = answers.ask(engine, asked, max_tokens=run.budget.answer)
    return {
        "accuracy": answers.accuracy(found),
        "transcripts": [transcript(run, group[0]) for group in found[:2]],
    }


def sweep(run, engine, asked, **options):
    """`budget_sweep.sweep` with a transcript of one hard problem at every budget."""
    most = 2 * run.budget.answer
    found = budget_sweep.sweep(engine, asked, run.budget.budgets, max_tokens=most, **options)
    hard = max(range(len(asked)), key=lambda i: asked[i].difficulty)
    kept = found.pop("answers")
    found["transcripts"] = [
        transcript(run, each[hard], budget=budget) for budget, each in kept.items()
    ]
    return found


def unfinished(run, engine, most=3):
    """{steps left out: accuracy}: the last steps of a careful thought are missing and it is closed
    as a whole one is, without a stop text. Tells whether the text or the missing steps matter."""
    asked = [p.flagged("think") for p in problems(run, days=range(MULTI, lock.MOST_DAYS + 1))]
    found = {}
    for left in range(most + 1):
        made = engine.generate(
            [
                Request(
                    thought_up_to(run, problem, left),
                    max_tokens=run.budget.answer,
                    sampling=sampling("greedy"),
                    prompt_id=number,
                )
                for number, problem in enumerate(asked)
            ]
        )
        right = [
            run.tokenizer.decode(each.tokens).startswith(lock.answer(lock_tasks.locks_of(p), "en"))
            for each, p in zip(made, asked, strict=True)
        ]
        found[left] = intervals.share(sum(right), len(right))
    return found


def thought_up_to(run, problem, left):
    """Ids of the problem and of its thought but for the last `left` steps, closed."""
    (whole,) = lock_tasks.locks_of(problem)
    part = dataclasses.replace(whole, ops=whole.ops[: len(whole.ops) - left])
    text = f"<think>\n{lock.trace([part], 'en', 'careful')}\n</think>\n\n"
    return prompt_ids(problem, run.tokenizer) + run.tokenizer.encode(text)


def passes(run, engine, count=None):
    """pass@1 and pass@samples at T = 1 and pass@1 at T = 0.6 on hard problems, with per-problem
    values for paired comparisons; also by whether a problem has rare operations."""
    asked = [p.flagged("think") for p in problems(run, count or run.budget.hard, days=(5, 6))]
    found = answers.ask(
        engine,
        asked,
        how=sampling(),
        samples=run.budget.samples,
        max_tokens=run.budget.answer,
        seed=run.seed,
    )
    cold = answers.ask(
        engine,
        asked,
        how=sampling("model", temperature=0.6),
        samples=2,
        max_tokens=run.budget.answer,
        seed=run.seed + 1,
    )
    ks = sorted({1, 4, run.budget.samples} & set(range(1, run.budget.samples + 1)))
    each = {k: pass_at_k.per_problem(found, k) for k in ks}
    rare = [lock.has_rare(lock_tasks.locks_of(p)) for p in asked]
    return {
        "pass": {k: intervals.mean(values) for k, values in each.items()},
        "by_rare": {
            name: {
                k: mean([v for v, r in zip(values, rare, strict=True) if r == which] or [0.0])
                for k, values in each.items()
            }
            for name, which in (("without", False), ("with", True))
        },
        "pass_at_1_t06": pass_at_k.estimate(cold, 1),
        "per_problem": {k: [round(v, 4) for v in values] for k, values in each.items()},
    }
