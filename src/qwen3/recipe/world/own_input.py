"""The user's own input: corpora, files of mathematics problems, a tokenizer, a checkpoint.

`run.own` holds the flags: {"corpus": [...], "tasks": [...], "tokenizer": folder, "init_from":
folder}. One problem in ten is held out by its text, so that accuracy is measured on unseen ones.
"""

from __future__ import annotations

from functools import cache
from itertools import chain, islice

from qwen3.data.jsonl import read_rows
from qwen3.rewards import maths
from qwen3.rewards.task import in_split
from qwen3.stages.prompts import prompt_ids

# A field that tells the format: how the file is read.
FORMATS = {"question": maths.read_gsm8k, "problem": maths.read_math}


@cache
def read(path):
    """Problems of a GSM8K or MATH file. ValueError naming the fields that are known."""
    _, first = next(read_rows(path), (0, {}))
    for field, reader in FORMATS.items():
        if field in first:
            return [each for each in reader(path) if each.answer.get("solution")]
    raise ValueError(f"--tasks {path}: a line has none of {', '.join(FORMATS)}: {str(first)[:80]}")


def problems(run, fold="train"):
    """All problems of the user's files in a fold, "train" or "heldout"; [] without files."""
    found = chain.from_iterable(read(path) for path in run.own.get("tasks", ()))
    return [each for each in found if in_split(text(each), fold)]


def text(problem):
    return problem.messages[-1]["content"]


def documents(run):
    """Problems with their solutions as pretraining documents."""
    return [
        {
            "text": f"{text(each)}\n{each.answer['solution']}\n\\boxed{{{each.answer['gold']}}}",
            "language": "en",
            "domain": "tasks",
        }
        for each in problems(run)
    ]


def answered(run, count, mode="think"):
    """(problem, thinking, answer) of `count` training problems in a mode, for fine-tuning."""
    for problem in islice(problems(run), count):
        thinking = problem.answer["solution"] if mode == "think" else ""
        answer = f"The answer is \\boxed{{{problem.answer['gold']}}}."
        yield problem.flagged(mode), thinking, answer


def fitting(run, most, fold="train"):
    """Problems, thinking, whose prompt has at most `most` tokens: what a short row has room for."""
    asked = (each.flagged("think") for each in problems(run, fold))
    return [each for each in asked if len(prompt_ids(each, run.tokenizer)) <= most]
