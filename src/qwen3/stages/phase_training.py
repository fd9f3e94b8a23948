"""The loop of a stage that trains on what its model samples: phases of rollouts, steps, records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optax

from qwen3.model.sizes import flops_per_token
from qwen3.stages import trainable
from qwen3.stages.async_rollouts import AsyncCollect, StreamingSampler
from qwen3.stages.on_policy import Setup
from qwen3.stages.phases import Collect, Method, RolloutSource, Sampler
from qwen3.stages.rollout_metrics import PhaseMetrics
from qwen3.train.loop import Hook, train
from qwen3.train.recording import recording_hooks
from qwen3.train.state import TrainState
from qwen3.train.step import make_step
from qwen3.train.workdir import Workdir


def _collector(
    setup: Setup,
    work: Workdir,
    method: Method,
    sample: Sampler | StreamingSampler,
    report: PhaseMetrics,
) -> Collect:
    """What makes the phases: one after the other, or asynchronously."""
    config = setup.config
    options: dict[str, Any] = {
        "wanted": config.prompts,
        "least": config.minibatches,
        "tokenizer": setup.tokenizer,
        "work": work,
        "report": report,
        "times": dict if setup.handover is None else setup.handover.metrics,
    }
    if not isinstance(sample, StreamingSampler):
        return Collect(setup.prompts, sample, method, **options)
    staleness = config.staleness
    collect = AsyncCollect(setup.prompts, sample, method, staleness=staleness, **options)
    if sample.overlaps:
        setup.batches.wait = collect.sample_until
    return collect


def train_in_phases(
    setup: Setup,
    work: Workdir,
    state: TrainState,
    tx: optax.GradientTransformation,
    loss: Callable,
    method: Method,
    sample: Sampler | StreamingSampler,
    *,
    trained: trainable.Trainable,
    report: Callable[[dict], dict],
    stored: Mapping[str, Any],
    frozen: Any,
    derived: Mapping[str, Callable[[int], Any]],
    extra: Callable[[], dict[str, Any]] = dict,
    hooks: Sequence[Hook] = (),
) -> TrainState:
    """The loop: rollouts, minibatches, steps, records, checkpoints.

    report: of the loss's sums. stored: what the newest checkpoint holds besides the state; extra:
    what the next one shall hold besides the rollouts. hooks: run before the save.
    """
    config, metrics = setup.config, PhaseMetrics(report)
    collect = _collector(setup, work, method, sample, metrics)
    source = RolloutSource(collect, method.batch, stored.get("rollouts"))
    measures, initial = setup.evaluation_hooks(work, state, trained)
    save = work.checkpoints.hook(
        config.save_every,
        lambda step: {"rollouts": source.extra(), **extra()},
        minutes=config.save_minutes,
    )
    with recording_hooks(
        work,
        config.log,
        stage=config.name,
        step=state.steps,
        until=config.steps,
        flops_per_token=flops_per_token(config.model, config.length),
        derived=derived,
        initial=initial,
    ) as recording:
        return train(
            state,
            make_step(trained.loss(loss), tx, microbatches=setup.batches.microbatches),
            source,
            frozen=trained.frozen(frozen),
            until=config.steps,
            hooks=[*measures, metrics.hook(), *recording, *hooks, save],
        )
