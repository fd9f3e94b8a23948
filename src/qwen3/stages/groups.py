"""From scores to groups that have something to teach, and to their advantages.

Groups whose answers are all equally good are dropped and replaced by other prompts' (DAPO's dynamic
sampling, arXiv 2503.14476); `stages.phases` samples those.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qwen3.losses.advantages import SCALES, group_advantages
from qwen3.rewards import response
from qwen3.stages.rollouts import Rollout, by_prompt


class NothingToLearn(RuntimeError):
    """Hardly any group of a phase has scores that differ: its gradient would be noise."""


@dataclass(frozen=True)
class Scoring:
    """From the score of an answer to its reward, and from rewards to advantages."""

    scale: str = "batch"  # what centred rewards are divided by: SCALES of losses.advantages
    binarise: float | None = None  # scores from here on count 1, others 0; None: as they are
    # Tokens before the length limit over which a penalty grows from 0 to 1 (DAPO's soft overlong
    # punishment); 0: none.
    overlong: int = 0
    # Answers cut at the limit count in their group's statistics, but are not trained on.
    skip_truncated: bool = False
    # Share of the reward for the form of a turn alone, right or wrong: the thinking mode that was
    # asked for, and an answer (format rewards of the report, 4.4).
    form: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.form < 1:
            raise ValueError(f"form {self.form} is a share of the reward: 0 to below 1")
        if self.scale not in SCALES:
            raise ValueError(f"advantage scale {self.scale!r} is not one of {', '.join(SCALES)}")
        if self.overlong < 0:
            raise ValueError(f"overlong {self.overlong} must be tokens, or 0")

    def value(self, score: float, formed: bool) -> float:
        """Reward of an answer, whatever its length. formed: its form is as the prompt asks."""
        right = score if self.binarise is None else float(score >= self.binarise)
        return self.form * formed + (1 - self.form) * right

    def penalty(self, tokens: int, limit: int) -> float:
        """What an answer of `tokens` loses of it for its length, where the limit is `limit`."""
        over = tokens - (limit - self.overlong)
        return over / self.overlong if self.overlong and over > 0 else 0.0


@dataclass(frozen=True)
class Refill:
    """How groups without a difference are replaced.

    A phase that has fewer groups than wanted after `rounds` goes on with those, and warns unless it
    was to sample once.
    """

    oversample: float = 1.25  # prompts drawn for each group that is missing
    rounds: int = 4  # times that a phase samples, at most

    def __post_init__(self) -> None:
        if self.oversample < 1 or self.rounds < 1:
            raise ValueError(f"oversample and rounds of {self} must be at least 1")


def learnable(
    rollouts: Sequence[Rollout], scoring: Scoring, limit: int
) -> tuple[list[list[Rollout]], Counter[str]]:
    """(groups worth training on, counts of the others: "low" and "high"); sets all rewards.

    limit: tokens of an answer. A group is worth it where the values of its answers differ before
    the length penalty: answers that are equally wrong differ in length alone, and would teach
    nothing but to be short (DAPO too filters on accuracy). Rollouts without a verdict are dropped
    first.
    """
    judged, values = [], []
    for rollout in rollouts:
        answer = rollout.answer
        if answer.score is None:
            continue
        value = scoring.value(answer.score, response.formed(answer.text, answer.problem.mode))
        rollout.reward = value - scoring.penalty(len(answer.completion.tokens), limit)
        judged.append(rollout)
        values.append(value)
    if not judged:
        return [], Counter()
    groups = group_advantages(values, [rollout.prompt for rollout in judged])
    good = {r.prompt for r, learn in zip(judged, groups.learnable, strict=True) if learn}
    return (
        [group for group in by_prompt(judged) if group[0].prompt in good],
        Counter(low=groups.flat_low, high=groups.flat_high),
    )


def set_advantages(groups: Sequence[Sequence[Rollout]], scale: str) -> None:
    """Advantages of all rollouts, from their rewards, in groups by prompt.

    Raises ValueError for a rollout without a reward.
    """
    rollouts = [rollout for group in groups for rollout in group]
    rewards = [np.nan if rollout.reward is None else rollout.reward for rollout in rollouts]
    prompts = [rollout.prompt for rollout in rollouts]
    advantages = group_advantages(rewards, prompts, scale=scale)
    for rollout, value in zip(rollouts, advantages.values.tolist(), strict=True):
        rollout.advantage = value
