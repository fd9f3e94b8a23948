"""Public benchmarks whose answers can be checked, by name: how they are read, asked and scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qwen3.data.tokenizer import Tokenizer
from qwen3.eval import pass_at_k
from qwen3.eval.accuracy import accuracy
from qwen3.eval.intervals import Estimate
from qwen3.infer.backend import RolloutBackend
from qwen3.infer.requests import PRESETS
from qwen3.rewards import Problem, coding_files, ifeval, maths
from qwen3.rewards.answers import ScoredAnswer, ask

# name -> reader of the files as their authors publish them, into problems of rewards.TASKS
SUITES: Mapping[str, Callable[[str | Path], list[Problem]]] = {
    "gsm8k": maths.read_gsm8k,
    "math": maths.read_math,  # MATH-500 and AIME files too
    "mbpp": coding_files.read_mbpp,
    "humaneval_plus": coding_files.read_humaneval_plus,
    "ifeval": ifeval.read_ifeval,
}
MODES = {"think": "thinking", "no_think": "non_thinking"}  # to the report's sampling settings (4.6)


@dataclass(frozen=True)
class SuiteResult:
    """What a model got right of a suite."""

    accuracy: Estimate  # mean score over the problems' samples, then over problems
    pass_at: dict[int, Estimate]  # pass@1 and pass@samples
    truncated: float  # share of answers cut at max_tokens
    tokens: float  # of an answer, on average
    answers: list[list[ScoredAnswer]]  # by problem


def measure(
    backend: RolloutBackend,
    tokenizer: Tokenizer,
    suite: str,
    path: str | Path,
    *,
    mode: str = "think",
    count: int | None = None,
    samples: int = 1,
    **options: Any,
) -> SuiteResult:
    """The suite's first `count` problems in a mode, with the report's sampling settings of it.

    options: as of `rewards.answers.ask` (max_tokens, budget, seed, another sampling, ...). Raises
    ValueError for an unknown suite or mode, and for a file of another suite.
    """
    for name, choices in ((suite, SUITES), (mode, MODES)):
        if name not in choices:
            raise ValueError(f"{name!r} is none of {', '.join(choices)}")
    problems = [problem.flagged(mode) for problem in SUITES[suite](path)[:count]]
    options = {"sampling": PRESETS[MODES[mode]], **options}
    groups = ask(backend, tokenizer, problems, samples=samples, **options)
    completions = [answer.completion for group in groups for answer in group]
    return SuiteResult(
        accuracy(groups),
        {k: pass_at_k.estimate(groups, k) for k in sorted({1, samples})},
        float(np.mean([completion.finish == "length" for completion in completions])),
        float(np.mean([len(completion.tokens) for completion in completions])),
        groups,
    )
