"""Candidate answers of a teacher for fine-tuning data: N to each problem, in one mode."""

from __future__ import annotations

from collections.abc import Sequence

from qwen3.data.tokenizer import Tokenizer
from qwen3.environments.episode_answers import ask
from qwen3.infer.backend import RolloutBackend
from qwen3.infer.requests import PRESETS, SamplingParams
from qwen3.rewards import Problem
from qwen3.rewards.answers import ScoredAnswer

MODES = {"think": "thinking", "no_think": "non_thinking"}  # to the report's sampling settings


def generate(
    backend: RolloutBackend,
    tokenizer: Tokenizer,
    problems: Sequence[Problem],
    *,
    samples: int,
    mode: str,
    max_tokens: int | None = None,
    sampling: SamplingParams | None = None,
    seed: int = 0,
) -> list[list[ScoredAnswer]]:
    """`samples` scored candidates of each problem.

    mode: "think" or "no_think", by hard switch in the prompt, so that the questions stay as they
    are. sampling: default the report's of that mode. Raises ValueError for another mode or a
    problem that asks for the other one.
    """
    if mode not in MODES:
        raise ValueError(f"mode {mode!r} is none of {', '.join(MODES)}")
    for number, problem in enumerate(problems):
        if problem.mode not in ("any", mode):
            raise ValueError(f"problem {number} asks for {problem.mode!r}, not {mode!r}")
    thinks = mode == "think"
    return ask(
        backend,
        tokenizer,
        problems,
        sampling=sampling or PRESETS[MODES[mode]],
        samples=samples,
        enable_thinking=thinks,
        seed=seed,
        max_tokens=max_tokens,
        thinking=thinks or None,
    )
