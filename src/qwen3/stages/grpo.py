"""Reinforcement learning from verifiable rewards with GRPO: reasoning RL and general RL.

The report (4.2) names GRPO, large batches, many rollouts a query, off-policy steps and steered
entropy, and publishes no values; general RL (4.4) is this stage with a mixture of tasks in both
modes. Departures: see `losses.grpo`; tools are single calls, not yet dialogues with an environment.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import numpy as np

from qwen3.config import MeshConfig, OptimConfig, to_dict
from qwen3.curate.files import read_problems
from qwen3.data.tokenizer import Tokenizer
from qwen3.losses import grpo
from qwen3.losses.grpo_config import Grpo
from qwen3.mesh import make_mesh
from qwen3.model.execution import Execution
from qwen3.model.sizes import ModelConfig, flops_per_token
from qwen3.stages import builders, rollouts, start
from qwen3.stages.entropy import EntropyControl, EntropyTarget
from qwen3.stages.groups import Groups, Refill, Scoring
from qwen3.stages.prompts import Prompts, Share
from qwen3.stages.rollouts import PhaseMetrics, Rollout, RolloutBatches, RolloutSource, Sampling
from qwen3.train import optim
from qwen3.train.checkpoint import Keep
from qwen3.train.loop import train
from qwen3.train.recording import Log, recording_hooks
from qwen3.train.state import TrainState
from qwen3.train.step import make_step
from qwen3.train.workdir import Workdir

log = logging.getLogger("qwen3")


@dataclass(frozen=True)
class Alarms:
    """truncated: share of answers cut at the limit that is reported as an error (and goes on).
    mismatch: mean |log p of the trainer - log p of the sampler| that stops the run, since then
    the sampler has other weights.
    """

    truncated: float = 0.5
    mismatch: float = 0.1


@dataclass(frozen=True)
class Config:
    """tasks: the mixture (`stages.prompts.Share`); problems: a file for its share named "file".
    prompts: groups of a phase, split into `minibatches` optimizer steps. length: slots of a row,
    and of prompt and answer together. reference: run or folder for a KL (see `start.parameters`).
    entropy: steers it; None leaves it alone. steps: optimizer steps.
    """

    model: ModelConfig
    tokenizer: str
    tasks: tuple[Share, ...]
    steps: int
    optim: OptimConfig
    name: str = "grpo"
    problems: str = ""
    policy: Grpo = Grpo()
    scoring: Scoring = Scoring()
    sampling: Sampling = Sampling()
    refill: Refill = Refill()
    alarms: Alarms = Alarms()
    entropy: EntropyTarget | None = None
    reference: str = ""
    prompts: int = 32
    minibatches: int = 1
    microbatches: int = 1
    length: int = 2048
    seed: int = 0
    init_from: str = ""
    save_every: int = 10
    mesh: MeshConfig = MeshConfig()
    execution: dict[str, Any] = field(default_factory=dict)
    keep: Keep = Keep()
    log: Log = Log(every=1)

    def __post_init__(self):
        if self.prompts < 1 or self.prompts % self.minibatches:
            raise ValueError(
                f"{self.prompts} prompts a phase do not divide into {self.minibatches} minibatches"
            )
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
        if self.model.moe and self.policy.ratio == "token":
            log.warning(
                "token ratios on a mixture of experts: routing differs between sampler "
                "and trainer; ratio 'sequence' (GSPO) is the stable choice"
            )


def run(config: Config, workdir: str) -> TrainState:
    """Train in `workdir`, on from where it stands; returns the last state.

    Writes samples/<step>.jsonl. Raises ValueError for settings that do not fit together, a task
    that does not exist or cannot run here; RuntimeError where the sampler has other weights than
    the trainer, its NothingToLearn where no prompt has anything to teach.
    """
    mesh = make_mesh(config.mesh)
    execution = Execution.for_mesh(mesh, **config.execution)
    tokenizer = Tokenizer.load(config.tokenizer)
    tokenizer.check_fits(config.model.vocab)
    problems = read_problems(config.problems) if config.problems else ()
    prompts = Prompts(config.tasks, tokenizer, seed=config.seed, problems=problems)
    rate = optim.schedule(config.optim, config.steps)
    tx = optim.build(config.optim, rate)
    with jax.set_mesh(mesh), Workdir(workdir, to_dict(config), keep=config.keep) as work:
        state, extra = start.begin(
            work, config.model, tx, mesh, seed=config.seed, init_from=config.init_from
        )
        frozen = {}
        if config.reference:
            frozen["reference"] = start.parameters(config.reference, config.model, mesh)
        control = None
        if config.entropy is not None:
            control = EntropyControl(config.entropy, config.steps, extra.get("entropy"))
        report = PhaseMetrics(grpo.report)
        most = config.prompts // config.minibatches * config.sampling.samples
        packer = RolloutBatches(
            mesh, config.length, most=most, microbatches=config.microbatches, pad=tokenizer.pad
        )
        derived = {"learning_rate": rate}
        if control is not None:  # as the step was taken: it moves after the step is written
            derived["entropy_coef"] = lambda step: control.coefficient
        collect = Collect(config, prompts, tokenizer, mesh, execution, packer, work, report)
        source = RolloutSource(collect, partial(to_batch, packer, control), extra.get("rollouts"))
        loss = builders.policy_gradient(config.model, execution, config.policy)
        with recording_hooks(
            work,
            config.log,
            stage=config.name,
            step=int(state.step),
            until=config.steps,
            tokens_per_step=most * config.length,
            flops_per_token=flops_per_token(config.model, config.length),
            derived=derived,
        ) as hooks:
            steering = [] if control is None else [control.hook()]
            save = work.checkpoints.hook(
                config.save_every,
                lambda step: {"rollouts": source.extra(), "entropy": control and control.state()},
            )
            return train(
                state,
                make_step(loss, tx, microbatches=config.microbatches),
                source,
                frozen=frozen,
                until=config.steps,
                hooks=[report.hook(), *hooks, *steering, save],
            )


def to_batch(packer: RolloutBatches, control: EntropyControl | None, part: list[Rollout]) -> dict:
    by_row = {} if control is None else {"entropy_coef": control.coefficient}
    return packer.batch([rollouts.sequence(each) for each in part], **by_row)


class Collect:
    """(state) -> the minibatches of a phase, with old log-probabilities of the phase's start."""

    def __init__(self, config: Config, prompts, tokenizer, mesh, execution, packer, work, report):
        self._config, self._packer, self._work, self._report = config, packer, work, report
        self._groups = Groups(
            prompts,
            tokenizer,
            config.scoring,
            config.refill,
            wanted=config.prompts,
            least=config.minibatches,
            limit=config.sampling.max_tokens,
        )
        self._sample = partial(
            rollouts.sample,
            model=config.model,
            tokenizer=tokenizer,
            mesh=mesh,
            execution=execution,
            length=config.length,
            seed=config.seed,
        )
        self._log_probs = builders.log_probs(config.model, execution)
        self._checked = False

    @property
    def memory(self) -> dict:
        return self._groups.memory

    @memory.setter
    def memory(self, value: dict) -> None:
        self._groups.memory = value

    def __call__(self, state: TrainState) -> list[list[Rollout]]:
        config, version = self._config, int(state.step)
        groups, records, metrics = self._groups.choose(
            lambda asked: self._sample(state.params, asked, config.sampling, version=version)
        )
        parts = [
            [each for group in groups[i :: config.minibatches] for each in group]
            for i in range(config.minibatches)
        ]
        if config.policy.old == "recomputed" or not self._checked:
            for part in parts:
                self._old(part, state.params)
            metrics |= self._check(parts, version)
        metrics["staleness"] = float(np.mean([version - r.version for p in parts for r in p]))
        if metrics.get("truncated", 0) > config.alarms.truncated:
            log.error(
                "%.0f%% of the answers were cut at %d tokens",
                100 * metrics["truncated"],
                config.sampling.max_tokens,
            )
        numbers = sorted({each.prompt for part in parts for each in part})
        rollouts.write_samples(self._work, version, [*records, {"trained": numbers}])
        self._report.add(version + 1, metrics)
        return parts

    def _old(self, part: list[Rollout], params: Any) -> None:
        rows = [rollouts.sequence(each) for each in part]
        for each, values in zip(
            part, self._packer.values(self._log_probs, params, rows), strict=True
        ):
            each.old = values[each.start :].tolist()

    def _check(self, parts: list[list[Rollout]], version: int) -> dict[str, float]:
        """Trainer against sampler on the same tokens, right after the weights were handed over."""
        self._checked = True
        apart = [
            abs(old - new)
            for part in parts
            for each in part
            if each.version == version
            for old, new, forced in zip(each.old, each.logp, each.forced, strict=True)
            if not forced
        ]
        if not apart:
            return {}
        mean, most = float(np.mean(apart)), float(np.max(apart))
        if not mean <= self._config.alarms.mismatch:
            raise RuntimeError(
                f"trainer and sampler differ by {mean:.3g} in log-probability on average (at most "
                f"{most:.3g}; alarms.mismatch is {self._config.alarms.mismatch}): the sampler "
                "does not run the trainer's weights"
            )
        return {"sync_mean": mean, "sync_max": most}
