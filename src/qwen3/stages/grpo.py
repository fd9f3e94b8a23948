"""Reinforcement learning from verifiable rewards with GRPO: reasoning RL and general RL.

The report (4.2) names GRPO, large batches, many rollouts a query, off-policy steps and steered
entropy, and publishes no values; general RL (4.4) is this stage with a mixture of tasks in both
modes, and of worlds (`qwen3.environments`) whose episodes take several turns. Departures: see
`losses.grpo` and `environments.agent_loop`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from qwen3.losses import grpo
from qwen3.losses.grpo_config import Grpo
from qwen3.mesh import make_mesh
from qwen3.model.execution import Execution
from qwen3.rewards.judge_backends import JudgeSettings
from qwen3.stages import builders, judges, on_policy, start
from qwen3.stages.curriculum import Curriculum, DifficultyBands
from qwen3.stages.entropy import EntropyControl, EntropyTarget
from qwen3.stages.groups import Refill, Scoring, learnable, set_advantages
from qwen3.stages.on_policy import OnPolicyConfig
from qwen3.stages.phase_training import train_in_phases
from qwen3.stages.phases import Group, Phase, minibatches
from qwen3.stages.reward_kinds import (
    JUDGE,
    REWARD_MODEL,
    FamilyReward,
    KindScorer,
    RewardKinds,
    by_reward_model,
    check_rewards,
    kind_metrics,
    warn_of_disagreement,
)
from qwen3.stages.reward_scores import RewardModel
from qwen3.stages.rollout_batches import RolloutBatches
from qwen3.stages.rollout_layout import training_devices
from qwen3.stages.rollouts import Rollout, shared_score, token_sequence
from qwen3.train import optim
from qwen3.train.state import TrainState
from qwen3.train.workdir import Workdir

log = logging.getLogger("qwen3")

TIS_CAP = 2.0  # largest importance weight of a token that older weights sampled


@dataclass(frozen=True)
class Alarms:
    """Limits beyond which a run speaks up."""

    truncated: float = 0.5  # share of answers cut at the limit that is reported as an error
    # Mean |log p of the trainer - log p of the sampler| that ends the run: the sampler then does
    # not run the trainer's weights.
    mismatch: float = 0.1
    # Chance that a judge or reward model puts two answers in the rule's order, per family and
    # phase, below which a warning is written: it is then no measure of what the rule measures.
    agreement: float = 0.6


@dataclass(frozen=True)
class Config(OnPolicyConfig):
    """Settings of GRPO. `prompts` are groups, `sampling.samples` the answers of a group."""

    name: str = "grpo"
    policy: Grpo = Grpo()  # the objective
    scoring: Scoring = Scoring()  # from scores to rewards and advantages
    # What rewards the answers of families: rule, judge, reward model; the rule where none is named.
    rewards: tuple[FamilyReward, ...] = ()
    reward_model: str = ""  # run of stages.reward_model, or an exported folder
    judge: JudgeSettings = JudgeSettings()  # the model that judges
    refill: Refill = Refill()  # dynamic sampling
    alarms: Alarms = Alarms()
    entropy: EntropyTarget | None = None  # steers entropy; None leaves it alone
    reference: str = ""  # run or folder for a KL (stages.start)
    curriculum: Curriculum = Curriculum()  # bands of difficulty that follow the pass rate
    # Train a mixture of experts on the sampler's routing (R3, arXiv 2510.11370).
    routing_replay: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sampling.samples < 2:
            raise ValueError("a group of 1 sample has no advantage; sampling.samples is at least 2")
        if (self.entropy is not None) != self.policy.entropy:
            raise ValueError(
                f"an entropy target {self.entropy} with policy.entropy "
                f"{self.policy.entropy}: both or none"
            )
        if (self.policy.kl != "none") != bool(self.reference):
            raise ValueError(
                f"policy.kl {self.policy.kl!r} with reference {self.reference!r}: both or none"
            )
        if self.scoring.overlong > self.sampling.max_tokens:
            raise ValueError(
                f"scoring.overlong {self.scoring.overlong} tokens are more than "
                f"max_tokens {self.sampling.max_tokens}"
            )
        if self.off_policy and self.objective == self.policy and self.policy.uncorrected:
            raise ValueError(
                f"{self.off_policy} with policy.ratio {self.policy.ratio!r} needs a correction for "
                "samples of another policy: policy.sequence_band, or policy.old 'rollout'"
            )
        check_rewards(self.rewards, judge=self.judge, reward_model=self.reward_model)
        if self.routing_replay and not self.model.moe:
            raise ValueError(f"routing_replay: {self.model.name} has no experts to route to")
        if self.model.moe and self.policy.ratio == "token" and not self.routing_replay:
            log.warning(
                "token ratios on a mixture of experts: routing differs between sampler "
                "and trainer; ratio 'sequence' (GSPO) and routing_replay are the stable choices"
            )

    @property
    def off_policy(self) -> str:
        """Why samples are not of the trained policy, the setting that says so; "" where they are:
        they are older, or the sampler computes in another way than the trainer.
        """
        if self.staleness:
            return f"staleness {self.staleness}"
        if self.server.url:
            return f"rollout server {self.server.url}"
        # Only what samples has KV caches and weights of a form of their own, whichever of the two
        # settings names it.
        names = ("cache_dtype", "weights")
        stored = {name: self.execution[name] for name in names if name in self.execution}
        own = {**stored, **self.rollout_execution}
        return f"rollout_execution {own}" if own else ""

    @property
    def recomputes(self) -> bool:
        """Whether the trainer computes the log-probabilities of each phase's answers: as the old
        ones, or to compare what samples with itself after each hand-over of weights.
        """
        return self.policy.old == "recomputed" or self.hands_over

    @property
    def objective(self) -> Grpo:
        """The policy's objective; for samples of another policy with truncated importance sampling,
        unless another correction is set.
        """
        if self.off_policy and self.policy.uncorrected and self.policy.ratio == "token":
            return replace(self.policy, tis_cap=TIS_CAP)
        return self.policy


def run(config: Config, workdir: str) -> TrainState:
    """Train in `workdir`, on from where it stands; returns the last state.

    Writes samples/<step>.jsonl. Raises ValueError for settings that do not fit together, for a task
    that does not exist or cannot run here and for problems without a task or room for an answer;
    RuntimeError where the sampler has other weights than the trainer; NothingToLearn (a
    RuntimeError) when fewer than `minibatches` groups have rewards that differ.
    """
    mesh = make_mesh(config.mesh, training_devices(config.rollout_devices))
    unruled = any(not reward.family for reward in config.rewards)
    bands = DifficultyBands(config.curriculum)
    setup = on_policy.set_up(
        config, mesh, writer=config.model, scored=not unruled, band=bands.range
    )
    rate = optim.schedule(config.optim, config.steps)
    tx = optim.build(config.optim, rate)
    with jax.set_mesh(mesh), Workdir(workdir, config, keep=config.keep) as work:
        state, stored, trained = setup.begin(work, tx)
        bands.restore(stored.get("bands"))
        frozen = {}
        if config.reference:
            frozen["reference"] = start.parameters(config.reference, config.model, mesh)
        derived: dict[str, Callable[[int], Any]] = {"learning_rate": rate}
        control = None
        if config.entropy is not None:
            control = EntropyControl(config.entropy, config.steps, stored.get("entropy"))
            # As the step was taken: the coefficient moves after the step is written.
            derived["entropy_coef"] = partial(_coefficient, control)
        log_probs = builders.log_probs(
            config.model, setup.execution, microbatches=setup.batches.microbatches
        )
        kinds = reward_kinds(config, mesh, setup.execution, work)
        return train_in_phases(
            setup,
            work,
            state,
            tx,
            builders.policy_gradient(config.model, setup.execution, config.objective),
            RewardedPhase(config, setup.batches, log_probs, trained.params, control, kinds, bands),
            setup.sampler(
                config.model, trained.params, shared_score, record_experts=config.routing_replay
            ),
            trained=trained,
            report=grpo.report,
            stored=stored,
            frozen=frozen,
            derived=derived,
            extra=lambda: {"entropy": control and control.state(), "bands": bands.state()},
            hooks=[] if control is None else [control.hook()],
        )


def _coefficient(control: EntropyControl, step: int) -> float:
    return control.coefficient


def reward_kinds(
    config: Config, mesh: Mesh, execution: Execution, work: Workdir
) -> RewardKinds | None:
    """What scores by the judge and the reward model; None where the rules' scores are all.

    A judge is checked before anything is sampled. Raises ValueError for one that pays for hostile
    answers, naming them, or that does not reply.
    """
    if not config.rewards:
        return None
    scorers: dict[str, KindScorer] = {}
    if config.reward_model:
        dtype = execution.dtype
        model = RewardModel.load(config.reward_model, mesh, dtype, **config.execution)
        scorers[REWARD_MODEL] = by_reward_model(model)
    if not config.judge.off:
        judge = judges.open_judge(config.judge, mesh, execution, Path(work.path))
        judges.check_on_hosts(judge)
        scorers[JUDGE] = judges.by_judge(judge, shared=bool(config.judge.url))
    return RewardKinds(config.rewards, scorers)


class RewardedPhase:
    """GRPO's method: groups whose answers differ, advantages, old log-probabilities.

    log_probs(params, batch) -> [B, T]: the trainer's, see `builders.log_probs`. params(state): the
    whole parameters of the policy. kinds: scores by judge and reward model; None for rules alone.
    """

    def __init__(
        self,
        config: Config,
        batches: RolloutBatches,
        log_probs: Callable,
        params: Callable[[TrainState], Any],
        control: EntropyControl | None = None,
        kinds: RewardKinds | None = None,
        bands: DifficultyBands | None = None,
    ):
        self._config, self._batches, self._log_probs = config, batches, log_probs
        self._kinds, self._bands = kinds, bands
        self._params, self._control, self._checked = params, control, False
        self.refill = config.refill

    def select(self, rollouts: Sequence[Rollout]) -> tuple[list[Group], Counter[str]]:
        if self._kinds is not None:
            self._kinds(rollouts)
        config = self._config
        return learnable(rollouts, config.scoring, config.sampling.max_tokens, config.rewards)

    def batch(self, part: Sequence[Rollout]) -> dict:
        by_row = {} if self._control is None else {"entropy_coef": self._control.coefficient}
        sequences = [token_sequence(rollout, policy=True) for rollout in part]
        return self._batches.batch(sequences, **by_row)

    def columns(self, rollout: Rollout) -> dict[str, Any]:
        scores = {"scores": rollout.scores} if rollout.scores else {}
        return {**scores, "reward": rollout.reward, "advantage": rollout.advantage}

    def prepare(self, phase: Phase, state: TrainState) -> tuple[list[Group], dict[str, float]]:
        config = self._config
        set_advantages(phase.groups, config.scoring, config.sampling.max_tokens, config.rewards)
        parts = minibatches(self._trained(phase.groups), config.minibatches)
        metrics = _group_metrics(phase, config.prompts)
        if self._kinds is not None:
            kinds = kind_metrics(phase.sampled)
            warn_of_disagreement(kinds, config.alarms.agreement)
            metrics |= kinds
        if self._bands is not None:
            metrics |= self._bands.update(phase.sampled)
        if config.recomputes or not self._checked:
            params = self._params(state)
            compared = [*parts, phase.probes] if phase.probes else parts
            for part in compared:
                self._recompute(part, params)
            metrics |= self._check(compared, phase.version)
        ages = [phase.version - rollout.version for part in parts for rollout in part]
        metrics["staleness"] = float(np.mean(ages))
        self._warn_of_cuts(phase.sampled)
        return parts, metrics

    def _trained(self, groups: Sequence[Group]) -> list[Group]:
        """Without truncated answers, where those are not to be trained on."""
        skip, least = self._config.scoring.skip_truncated, self._config.minibatches
        rest = [[r for r in group if not (skip and r.truncated)] for group in groups]
        rest = [group for group in rest if group]
        if len(rest) < least:
            raise RuntimeError(
                f"all answers of {len(groups) - len(rest)} groups were cut at "
                f"{self._config.sampling.max_tokens} tokens and are not trained on: allow more "
                "tokens"
            )
        return rest

    def _recompute(self, part: Group, params: Any) -> None:
        """Old log-probabilities of a minibatch, packed into the rows that it is trained in."""
        rows = [token_sequence(rollout, policy=True) for rollout in part]
        values = self._batches.values(self._log_probs, params, rows)
        for rollout, log_probs in zip(part, values, strict=True):
            start = len(rollout.completion.request.prompt)
            rollout.old_log_probs = log_probs[start:].tolist()

    def _check(self, parts: Sequence[Group], version: int) -> dict[str, float]:
        """Trainer against sampler on the same tokens, right after the weights were handed over."""
        self._checked = True
        gaps = [
            abs(old - new)
            for part in parts
            for rollout in part
            if rollout.version == version
            for old, new, forced in zip(
                rollout.old_log_probs,
                rollout.completion.log_probs,
                rollout.completion.forced,
                strict=True,
            )
            if not forced
        ]
        if not gaps:
            return {}
        mean, most = float(np.mean(gaps)), float(np.max(gaps))
        if not mean <= self._config.alarms.mismatch:
            raise RuntimeError(
                f"trainer and sampler differ by {mean:.3g} in log-probability on average (at most "
                f"{most:.3g}; alarms.mismatch is {self._config.alarms.mismatch}): the sampler "
                "does not run the trainer's weights"
            )
        return {"sync_mean": mean, "sync_max": most}

    def _warn_of_cuts(self, rollouts: Sequence[Rollout]) -> None:
        cut = sum(rollout.truncated for rollout in rollouts)
        if rollouts and cut / len(rollouts) > self._config.alarms.truncated:
            log.error(
                "%.0f%% of the answers were cut at %d tokens",
                100 * cut / len(rollouts),
                self._config.sampling.max_tokens,
            )


def _group_metrics(phase: Phase, wanted: int) -> dict[str, float]:
    """Counts of groups, and of the prompts drawn the shares without a difference."""
    counts: dict[str, float] = {
        "groups": len(phase.groups),
        "carried_in": phase.carried,
        "carried_out": phase.left_over,
    }
    if not phase.drawn:
        return counts
    return counts | {
        "groups_all_low": phase.flat["low"] / phase.drawn,
        "groups_all_high": phase.flat["high"] / phase.drawn,
        "refill": phase.drawn / wanted,
    }
