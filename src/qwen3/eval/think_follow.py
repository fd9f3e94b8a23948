"""ThinkFollow: in dialogues with flags, does each answer think or not as the last flag says
(report, Table 22)? By how the last turn is flagged, as errors gather where it has no flag.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qwen3.data.chat_parse import SWITCHES
from qwen3.data.tokenizer import Tokenizer
from qwen3.environments.episode_answers import ask
from qwen3.eval import intervals
from qwen3.infer.backend import RolloutBackend
from qwen3.rewards import Problem
from qwen3.rewards.locks import dialogues

KINDS = ("/think", "/no_think", "none after a flag", "no flag at all")


def kind(problem: Problem) -> str:
    """Which of KINDS the dialogue is."""
    texts = [m["content"] for m in problem.messages if m["role"] in ("system", "user")]
    flags = [next((s for s in SWITCHES.values() if s in text.split()), None) for text in texts]
    if flags[-1]:
        return flags[-1]
    return KINDS[2] if any(flags) else KINDS[3]


def follow(
    backend: RolloutBackend, tokenizer: Tokenizer, problems: Sequence[Problem], **options: Any
) -> dict[str, intervals.Estimate]:
    """Share of answers in the mode that was asked for: in "total" and by kind of dialogue.

    Kinds without a problem are left out. options: as of `environments.episode_answers.ask`.
    """
    answers = [group[0] for group in ask(backend, tokenizer, problems, **options)]
    right = [dialogues.followed(answer.problem, answer.text) for answer in answers]
    table = {"total": intervals.share(int(sum(right)), len(right))}
    for name in KINDS:
        values = [value for value, p in zip(right, problems, strict=True) if kind(p) == name]
        if values:
            table[name] = intervals.share(int(sum(values)), len(values))
    return table
