"""What fine-tuning reads: conversations, or token ids where a model wrote the answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

from qwen3.data.jsonl import write_rows
from qwen3.recipe.seed_run import SeedRun
from qwen3.recipe.world import exams, own_input, tools
from qwen3.rewards import Problem, response
from qwen3.rewards.answers import ScoredAnswer
from qwen3.rewards.locks import dialogues, lock, lock_tasks

Sample: TypeAlias = dict[str, Any]  # a line of a file that `stages.sft` reads


def answered(problem: Problem, thinking: str, content: str) -> Sample:
    """The problem with its answer, as a conversation."""
    turn = {"role": "assistant", "content": content, "reasoning_content": thinking}
    return {"messages": [*problem.messages, turn], "tools": problem.tools}


def cold_start(run: SeedRun, count: int, style: str = "hasty") -> list[Sample]:
    """Right answers with thinking in a style, "hasty" or "careful".

    A hasty trace leaves most states out: a model that learns from it is often wrong.
    """
    rng = Random(f"cold/{run.seed}")
    rows = [
        answered(problem, *lock_tasks.trace(problem, style, rng))
        for problem in locks(run, count, "think")
    ]
    return rows + [answered(*parts) for parts in own_input.answered(run, count // 2)]


def locks(run: SeedRun, count: int, mode: str, seed: str = "") -> list[Problem]:
    """Training problems that ask for a mode: one lock, and the budget's share of several."""
    several = round(count * run.budget.several)
    seed = f"{seed}{run.seed}"
    return [
        *exams.training(count - several, seed, mode),
        *exams.several_training(several, seed, run.budget.chinese, mode),
    ]


def from_answer(answer: ScoredAnswer) -> Sample:
    """A sampled answer, token by token as it was written."""
    prompt = list(answer.completion.request.prompt)
    completion = list(answer.completion.tokens)
    turn = response.read(answer.text)
    return {
        "ids": prompt + completion,
        "mask": [0] * len(prompt) + [1] * len(completion),
        "think": bool(turn and turn.thinking and turn.thinking.strip()),
    }


def direct(run: SeedRun, count: int) -> list[Sample]:
    """Answers without thinking, asked for by /no_think."""
    problems = locks(run, count, "no_think", "direct/")
    rows = [
        answered(p, "", lock.answer(lock_tasks.locks_of(p), p.answer["language"])) for p in problems
    ]
    return rows + [answered(*parts) for parts in own_input.answered(run, count // 2, "no_think")]


def flags(count: int, seed: int) -> list[Sample]:
    """Dialogues with flags and, in the last turn, a careful thought or none.

    Most last turns have no flag, as one of two turns before is the hard case
    (docs/log/2026-11-29-thinkfollow.md).
    """
    rows = []
    for i in range(count):
        problem = dialogues.dialogue(Random(f"flags/{seed}/{i}"), "train", flagged=0.3)
        thinking, content = lock_tasks.trace(problem, "careful")
        rows.append(answered(problem, "" if problem.mode == "no_think" else thinking, content))
    return rows


def calls(count: int, seed: int) -> list[Sample]:
    """Tool calls without thinking."""
    rows = []
    for i in range(count):
        problem = tools.problem(f"{seed}/{i}", "train").flagged("no_think")
        call = {"name": problem.answer["name"], "arguments": problem.answer["arguments"]}
        row = answered(problem, "", "")
        row["messages"][-1]["tool_calls"] = [call]
        rows.append(row)
    return rows


def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> str:
    """Write JSON lines; a row without tools has no such field. Returns the path as text."""
    write_rows(path, ({k: v for k, v in row.items() if v is not None} for row in rows))
    return str(path)
