"""From scores to groups that have something to teach, and to their advantages.

Groups whose answers are all equally good are dropped and replaced by other prompts' (DAPO's dynamic
sampling, arXiv 2503.14476); `stages.phases` samples those.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qwen3.losses.advantages import SCALES, decoupled_advantages, group_advantages
from qwen3.stages.reward_kinds import RULE, FamilyReward, weights_of
from qwen3.stages.rollouts import Rollout, by_prompt


class NothingToLearn(RuntimeError):
    """Hardly any group of a phase has scores that differ: its gradient would be noise."""


@dataclass(frozen=True)
class Scoring:
    """From the score of an answer to its reward, and from rewards to advantages."""

    scale: str = "batch"  # what centred rewards are divided by: SCALES of losses.advantages
    # Whether each kind of reward (and form and length) is normalised in its group before they are
    # added (GDPO, arXiv 2601.05242); else they are added first.
    decoupled: bool = False
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
        if self.decoupled and self.scale == "group":
            raise ValueError(
                "decoupled rewards are normalised in their groups already: scale 'group' is none "
                "of none, batch, family"
            )
        if self.overlong < 0:
            raise ValueError(f"overlong {self.overlong} must be tokens, or 0")

    def value(self, score: float, formed: bool) -> float:
        """Reward of an answer, whatever its length. formed: its form is as the prompt asks."""
        return self.form * formed + (1 - self.form) * self.right(score)

    def right(self, score: float) -> float:
        """The score as it is, or 1 or 0."""
        return score if self.binarise is None else float(score >= self.binarise)

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
    rollouts: Sequence[Rollout],
    scoring: Scoring,
    limit: int,
    rewards: Sequence[FamilyReward] = (),
) -> tuple[list[list[Rollout]], Counter[str]]:
    """(groups worth training on, counts of the others: "low" and "high"); sets all rewards.

    limit: tokens of an answer. A group is worth it where the values of its answers differ before
    the length penalty: answers that are equally wrong differ in length alone, and would teach
    nothing but to be short (DAPO too filters on accuracy). Rollouts without a verdict are dropped
    first.
    """
    judged, values = [], []
    for rollout in rollouts:
        if rollout.score is None:
            continue
        value = scoring.value(rollout.score, rollout.answer.formed)
        rollout.reward = value - scoring.penalty(rollout.length, limit)
        judged.append(rollout)
        values.append(value)
    if not judged:
        return [], Counter()
    groups = group_advantages(values, [rollout.prompt for rollout in judged])
    good = {r.prompt for r, learn in zip(judged, groups.learnable, strict=True) if learn}
    if scoring.decoupled:  # (1, 0) and (0, 1) have one mean, and something to teach all the same
        good |= {group[0].prompt for group in by_prompt(judged) if _differ(group, rewards)}
    return (
        [group for group in by_prompt(judged) if group[0].prompt in good],
        Counter(low=groups.flat_low, high=groups.flat_high),
    )


def _differ(group: Sequence[Rollout], rewards: Sequence[FamilyReward]) -> bool:
    """Whether the rollouts of a group have different scores of some kind that rewards them."""
    kinds = weights_of(rewards, group[0].task)
    return len({tuple(rollout.scores.get(kind) for kind in kinds) for rollout in group}) > 1


def set_advantages(
    groups: Sequence[Sequence[Rollout]],
    scoring: Scoring,
    limit: int,
    rewards: Sequence[FamilyReward] = (),
) -> None:
    """Advantages of all rollouts, in groups by prompt, from their rewards, or decoupled from each
    of the parts that these are made of.

    limit: tokens of an answer. rewards: the kinds of reward of the families. Raises ValueError for
    a rollout without a reward.
    """
    rollouts = [rollout for group in groups for rollout in group]
    prompts = [rollout.prompt for rollout in rollouts]
    families = [rollout.task for rollout in rollouts]
    totals = [np.nan if rollout.reward is None else rollout.reward for rollout in rollouts]
    advantages = group_advantages(totals, prompts, scale=scoring.scale, families_R=families).values
    if scoring.decoupled:
        parts = [_parts(rollout, scoring, limit, rewards) for rollout in rollouts]
        names = sorted({name for part in parts for name in part})
        missing = (np.nan, 0.0)
        advantages = decoupled_advantages(
            {name: [part.get(name, missing)[0] for part in parts] for name in names},
            prompts,
            {name: [part.get(name, missing)[1] for part in parts] for name in names},
            scale=scoring.scale,
            families_R=families,
        )
    for rollout, value in zip(rollouts, advantages.tolist(), strict=True):
        rollout.advantage = value


def _parts(
    rollout: Rollout, scoring: Scoring, limit: int, rewards: Sequence[FamilyReward]
) -> dict[str, tuple[float, float]]:
    """{part of the reward: (value, weight)} of a rollout that has a reward."""
    weights = weights_of(rewards, rollout.task)
    scores = rollout.scores or {RULE: rollout.answer.score}
    total = sum(weights.values())
    parts = {}
    for kind, weight in weights.items():
        score = scores[kind]
        assert score is not None, f"rollouts of prompt {rollout.prompt} have no {kind} score"
        parts[kind] = (scoring.right(score), (1 - scoring.form) * weight / total)
    if scoring.form:
        parts["form"] = (float(rollout.answer.formed), scoring.form)
    if scoring.overlong:
        parts["length"] = (-scoring.penalty(rollout.length, limit), 1.0)
    return parts
