"""The user's own input: corpora, files of mathematics problems, a tokenizer, a checkpoint.

`SeedRun.own` has the flags: {"corpus": [...], "tasks": [...], "tokenizer": folder, "init_from":
folder}. One problem in ten is held out by its text, so that accuracy is measured on unseen ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import chain, islice

from qwen3.data.jsonl import read_rows
from qwen3.recipe.seed_run import SeedRun
from qwen3.rewards import Problem, maths
from qwen3.rewards.task import in_split
from qwen3.stages.prompts import prompt_ids

# A field that tells the format: how the file is read.
FORMATS = {"question": maths.read_gsm8k, "problem": maths.read_math}


@cache
def read(path: str) -> list[Problem]:
    """Problems with a solution in a GSM8K or MATH file.

    Raises ValueError, naming the known fields, for a file of another form.
    """
    _, first = next(read_rows(path), (0, {}))
    for field, reader in FORMATS.items():
        if field in first:
            return [problem for problem in reader(path) if problem.answer.get("solution")]
    raise ValueError(f"--tasks {path}: a line has none of {', '.join(FORMATS)}: {str(first)[:80]}")


def problems(run: SeedRun, fold: str = "train") -> list[Problem]:
    """All problems of the user's files in a fold, "train" or "heldout"; [] without files."""
    everything = chain.from_iterable(read(path) for path in run.own.get("tasks", ()))
    return [problem for problem in everything if in_split(text(problem), fold)]


def text(problem: Problem) -> str:
    return problem.messages[-1]["content"]


def documents(run: SeedRun) -> list[dict[str, str]]:
    """Training problems with their solutions as pretraining documents."""
    rows = []
    for problem in problems(run):
        solution, gold = problem.answer["solution"], problem.answer["gold"]
        document = f"{text(problem)}\n{solution}\n\\boxed{{{gold}}}"
        rows.append({"text": document, "language": "en", "domain": "tasks"})
    return rows


def answered(run: SeedRun, count: int, mode: str = "think") -> Iterator[tuple[Problem, str, str]]:
    """(problem, thinking, answer) of `count` training problems in a mode, for fine-tuning."""
    for problem in islice(problems(run), count):
        thinking = problem.answer["solution"] if mode == "think" else ""
        answer = f"The answer is \\boxed{{{problem.answer['gold']}}}."
        yield problem.flagged(mode), thinking, answer


def fitting(run: SeedRun, most: int, fold: str = "train") -> list[Problem]:
    """Problems that ask for thinking, with prompts of at most `most` tokens, for short rows."""
    flagged = (problem.flagged("think") for problem in problems(run, fold))
    return [problem for problem in flagged if len(prompt_ids(problem, run.tokenizer)) <= most]
