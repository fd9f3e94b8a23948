"""What rewards the answers of a family: its rule, a judge, a reward model, or several of these.

The three kinds of the report's general RL (4.4). The rule of a family that is rewarded by something
else is still asked: it is the truth that the reward is measured against.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import jax
import numpy as np

from qwen3 import hosts
from qwen3.rewards import response
from qwen3.rewards.answers import Score, ScoredAnswer
from qwen3.rewards.judge_backends import JudgeSettings
from qwen3.stages.reward_scores import RewardModel
from qwen3.stages.rollouts import Rollout, by_prompt

log = logging.getLogger("qwen3")

RULE, JUDGE, REWARD_MODEL = "rule", "judge", "reward_model"
KINDS = (RULE, JUDGE, REWARD_MODEL)

KindScorer: TypeAlias = Callable[[Sequence[ScoredAnswer]], list[Score]]


@dataclass(frozen=True)
class FamilyReward:
    """The kinds of reward of one family; a family that is not named has its rule's alone."""

    family: str  # name of a task; "" for problems of a file without a task
    kinds: tuple[str, ...] = (RULE,)  # of KINDS
    weights: tuple[float, ...] = ()  # of the kinds; () for 1 each

    def __post_init__(self) -> None:
        unknown = sorted(set(self.kinds) - set(KINDS))
        if unknown or not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise ValueError(f"kinds {self.kinds} of {self.family!r}: choose from {KINDS}")
        if self.weights and len(self.weights) != len(self.kinds):
            raise ValueError(f"{self.family!r}: weights {self.weights} for kinds {self.kinds}")
        if any(not 0 < weight < math.inf for weight in self.weights):
            raise ValueError(f"{self.family!r}: weights {self.weights} must be above 0")


def weights_of(rewards: Sequence[FamilyReward], family: str) -> dict[str, float]:
    """{kind: weight} of a family's rewards."""
    for reward in rewards:
        if reward.family == family:
            weights = reward.weights or (1.0,) * len(reward.kinds)
            return dict(zip(reward.kinds, weights, strict=True))
    return {RULE: 1.0}


def combined(scores: Mapping[str, Score], weights: Mapping[str, float]) -> Score:
    """The weighted mean of the scores; None where one of them gives no verdict."""
    values = [(scores[kind], weight) for kind, weight in weights.items()]
    total = sum(weights.values())
    if any(score is None for score, _ in values):
        return None
    return sum(score * weight for score, weight in values if score is not None) / total


def check_rewards(
    rewards: Sequence[FamilyReward], *, judge: JudgeSettings, reward_model: str
) -> None:
    """Raise ValueError for a family that is named twice or does not exist, a kind that the run has
    no model for, and a model that rewards nothing."""
    names = [reward.family for reward in rewards]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"family {name!r} has two rows of rewards")
    wanted = {kind for reward in rewards for kind in reward.kinds}
    for kind, there in ((JUDGE, not judge.off), (REWARD_MODEL, bool(reward_model))):
        if (kind in wanted) != there:
            families = [reward.family for reward in rewards if kind in reward.kinds]
            raise ValueError(
                f"{kind} rewards the families {families}, and `{kind}` is "
                f"{'set' if there else 'not set'}: both or none"
            )


class RewardKinds:
    """Sets the scores of rollouts by the kinds that their families ask for.

    scorers: of the kinds but the rule, which has scored already.
    """

    def __init__(self, rewards: Sequence[FamilyReward], scorers: Mapping[str, KindScorer]):
        self._rewards, self._scorers = rewards, scorers

    def __call__(self, rollouts: Sequence[Rollout]) -> None:
        wanted = [weights_of(self._rewards, rollout.task) for rollout in rollouts]
        for rollout in rollouts:
            rollout.scores = {RULE: rollout.answer.score}
        for kind, scorer in self._scorers.items():
            asked = [r for r, weights in zip(rollouts, wanted, strict=True) if kind in weights]
            scores = scorer([rollout.answer for rollout in asked])
            for rollout, score in zip(asked, scores, strict=True):
                rollout.scores[kind] = score
        for rollout, weights in zip(rollouts, wanted, strict=True):
            rollout.mean_score = combined(rollout.scores, weights)


def by_reward_model(model: RewardModel) -> KindScorer:
    """Scores 0..1, sigmoid(r), of well-formed answers that no limit cut; others score 0, unseen.

    The sigmoid keeps one very high score from being worth any number of good ones, which is where
    a policy would look for the model's errors. The model reads the answer without its thought.
    """

    def score(answers: Sequence[ScoredAnswer]) -> list[Score]:
        # A reward model has seen finished answers only, and thinks much of some that never end.
        formed = [i for i, answer in enumerate(answers) if answer.formed and not answer.truncated]
        values = model.scores(
            [_conversation(answers[i]) for i in formed],
            [answers[i].problem.tools for i in formed],
        )
        scores: list[Score] = [0.0] * len(answers)
        for i, value in zip(formed, values, strict=True):
            scores[i] = None if value is None else float(1 / (1 + np.exp(-np.float64(value))))
        return scores

    return score


def _conversation(answer: ScoredAnswer) -> list[dict]:
    """The problem and what the policy (and the environment) wrote, without the last thought."""
    if answer.transcript is not None:
        return [*answer.problem.messages, *answer.transcript.messages]
    turn = response.read(answer.text)
    assert turn is not None, "only well-formed answers are scored"
    return [*answer.problem.messages, {"role": "assistant", "content": turn.answer}]


def shared_scorer(scorer: KindScorer) -> KindScorer:
    """The scorer on all processes, each of which asks for its share: one verdict counts for all."""
    count = jax.process_count()
    if count == 1:
        return scorer

    def score(answers: Sequence[ScoredAnswer]) -> list[Score]:
        own = scorer(answers[jax.process_index() :: count])
        # Answer i is number i // count of process i % count.
        shares = [json.loads(text) for text in hosts.gathered_words(json.dumps(own))]
        return [shares[i % count][i // count] for i in range(len(answers))]

    return score


def kind_metrics(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """What judge and reward model say of rollouts, and how far that is from the truth; {} for none.

    kind/KIND/FAMILY: mean score; kind/KIND/no_verdict: share of answers. Where the family has a
    rule: gap/KIND/FAMILY, mean score minus the rule's (a policy that finds errors of a reward model
    widens it), and agreement/KIND/FAMILY, the chance that of two answers to one prompt that the
    rule tells apart the better one has the higher score (0.5 is chance).
    """
    metrics: dict[str, float] = {}
    for kind in (JUDGE, REWARD_MODEL):
        asked = [rollout for rollout in rollouts if kind in rollout.scores]
        if not asked:
            continue
        silent = [rollout.scores[kind] is None for rollout in asked]
        metrics[f"kind/{kind}/no_verdict"] = float(np.mean(silent))
        for family in sorted({rollout.task for rollout in asked}):
            of_family = [rollout for rollout in asked if rollout.task == family]
            metrics |= _family_metrics(of_family, kind, f"{kind}/{family or 'no_task'}")
    return metrics


def _family_metrics(rollouts: Sequence[Rollout], kind: str, name: str) -> dict[str, float]:
    groups = [
        [(score, r.scores[RULE]) for r in group if (score := r.scores[kind]) is not None]
        for group in by_prompt(rollouts)
    ]
    scores = [score for group in groups for score, _ in group]
    metrics = {f"kind/{name}": float(np.mean(scores))} if scores else {}
    both = [[(s, truth) for s, truth in group if truth is not None] for group in groups]
    gaps = [score - truth for group in both for score, truth in group]
    if gaps:
        metrics[f"gap/{name}"] = float(np.mean(gaps))
    orders = [
        0.5 * (np.sign(score - other) + 1)
        for group in both
        for score, truth in group
        for other, other_truth in group
        if truth > other_truth
    ]
    if orders:
        metrics[f"agreement/{name}"] = float(np.mean(orders))
    return metrics


def warn_of_disagreement(metrics: Mapping[str, float], least: float) -> None:
    """Warn of each kind and family of `kind_metrics` whose agreement is below `least`."""
    for name, value in metrics.items():
        if name.startswith("agreement/") and value < least:
            _, kind, family = name.split("/", 2)
            log.warning(
                "%s puts %.0f%% of the pairs of answers to %s in the rule's order "
                "(alarms.agreement is %g; 50%% is chance): do not trust its scores",
                *(kind, 100 * value, family, least),
            )
