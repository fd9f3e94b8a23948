"""Pretraining in stages (report 3.2): general, reasoning, long context; any number in one run.

Mixture, length, batch, schedule and RoPE base change at a stage's border; parameters, optimizer
state and the step count go on. ABF (arXiv 2309.16039) is no more than the larger base from S3 on.
Departure: the report does not say how the optimizer crosses a border; here its moments are kept.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import numpy as np

from qwen3.config import MeshConfig, OptimConfig, to_dict
from qwen3.data.atomic import write_atomically
from qwen3.data.batches import Batches
from qwen3.data.corpora import Corpus
from qwen3.data.mixture import Stage
from qwen3.eval.perplexity import HeldOut
from qwen3.losses import lm
from qwen3.mesh import make_mesh
from qwen3.model import transformer
from qwen3.model.execution import Execution
from qwen3.model.sizes import ModelConfig, flops_per_token
from qwen3.stages.start import begin, moved
from qwen3.train import optim
from qwen3.train.checkpoint import Keep
from qwen3.train.loop import Hook, train
from qwen3.train.prefetch import Feed
from qwen3.train.recording import Log, recording_hooks
from qwen3.train.state import TrainState
from qwen3.train.step import make_step
from qwen3.train.workdir import Workdir


@dataclass(frozen=True)
class Evaluation:
    """Which held-out sets a stage is measured on, before it, after it and every `every` steps
    (0: only then). edges: position buckets. rows: at most so many a set (0: all)."""

    sets: tuple[str, ...] = ()
    edges: tuple[int, ...] = (0,)
    rows: int = 0
    every: int = 0


@dataclass(frozen=True)
class StageConfig:
    """One stage: what it reads (`data`: mixture, length, batch, length rule), how long and fast it
    learns, and the RoPE base. microbatches cut a step's batch without changing the update; mesh,
    where it is not the run's (long rows want a context axis), is moved to at the border."""

    data: Stage
    steps: int
    optim: OptimConfig
    rope_theta: float
    microbatches: int = 1
    mesh: MeshConfig | None = None
    evaluation: Evaluation = Evaluation()

    @property
    def name(self) -> str:
        return self.data.name


@dataclass(frozen=True)
class Config:
    """A whole pretraining run.

    corpora, held_out: name -> folder that `qwen3 corpus prepare` wrote. balance: a form of
    `ops.balance`, used by mixtures of experts with the model's balance_coef; "global" is the
    recipe's (arXiv 2501.11873), over the batch of the whole step. init_from: see `start.begin`.
    execution: changes to what `Execution.for_mesh` takes.
    """

    model: ModelConfig
    stages: tuple[StageConfig, ...]
    corpora: dict[str, str]
    held_out: dict[str, str] = field(default_factory=dict)
    seed: int = 0
    init_from: str = ""
    z_loss: float = 0.0
    balance: str = "global"
    save_every: int = 1000
    mesh: MeshConfig = MeshConfig()
    execution: dict[str, Any] = field(default_factory=dict)
    keep: Keep = Keep()
    log: Log = Log()

    def __post_init__(self):
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"stages {names}: at least one is needed, each with its own name")
        # The optimizer's state has to fit all stages, as it is carried over.
        for key in ("optimizer", "skip_spikes", "spike_window", "clip_norm", "moments"):
            values = {stage.name: getattr(stage.optim, key) for stage in self.stages}
            if len(set(values.values())) > 1:
                raise ValueError(f"optim.{key} differs between stages: {values}")
        for stage in self.stages:
            for name in stage.evaluation.sets:
                if name not in self.held_out:
                    raise ValueError(
                        f"stage {stage.name!r} is evaluated on {name!r}, "
                        f"which is none of held_out: {sorted(self.held_out)}"
                    )


def run(config: Config, workdir: str) -> TrainState:
    """Train all stages in `workdir`, on from where it stands; returns the last state.

    Writes evaluation.json beside the usual files: one record a step and stage, with the loss by
    domain and position. Raises ValueError where the corpora are not those of the checkpoint.
    """
    meshes = [make_mesh(stage.mesh or config.mesh) for stage in config.stages]
    rate = optim.chain([(stage.optim, stage.steps) for stage in config.stages])
    corpora, held_out = (
        {name: Corpus(folder) for name, folder in folders.items()}
        for folders in (config.corpora, config.held_out)
    )
    sources = [
        Batches(stage.data, corpora, config.seed, vocab=config.model.vocab)
        for stage in config.stages
    ]
    mixtures = {each.stage.name: each.hash for each in sources}
    with Workdir(workdir, to_dict(config), keep=config.keep) as work:
        tx = optim.build(config.stages[0].optim, rate)
        with jax.set_mesh(meshes[0]):
            state, extra = begin(
                work, config.model, tx, meshes[0], seed=config.seed, init_from=config.init_from
            )
        _refuse_other_data(extra.get("mixtures", mixtures), mixtures)
        borders = itertools.accumulate(stage.steps for stage in config.stages)
        plans = zip(config.stages, sources, meshes, borders, strict=True)
        for stage, batches, mesh, until in plans:
            if int(state.step) >= until:
                continue
            with jax.set_mesh(mesh):
                state = moved(state, config.model, tx, mesh)
                position = partial(_extra, stage.name, until - stage.steps, mixtures)
                save = work.checkpoints.hook(config.save_every, position)
                state = _stage(
                    config, stage, work, mesh, state, batches, held_out, until, rate, save
                )
        return state


def _stage(config, stage, work, mesh, state, batches, held_out, until, rate, save) -> TrainState:
    """From `state` to the stage's last step, `until`."""
    first, step = until - stage.steps, int(state.step)
    model = replace(config.model, rope_theta=stage.rope_theta)
    apply = transformer.bind(model, Execution.for_mesh(mesh, **config.execution))
    measure = Measure(work, stage, apply, held_out, mesh, model.vocab)
    if step == first:
        measure(step, state)
    with recording_hooks(
        work,
        config.log,
        stage=stage.name,
        step=step,
        until=until,
        tokens_per_step=stage.data.batch * stage.data.length,
        flops_per_token=flops_per_token(model, stage.data.length),
        derived={"learning_rate": rate},
    ) as hooks:
        return train(
            state,
            _step(config, stage, apply, rate),
            _InOrder(Feed(batches, mesh, start=step - first), stage),
            until=until,
            hooks=[*hooks, measure.hook(until), save],
        )


class _InOrder:
    """A feed as an indexed source: `train` reads those ahead in a thread, placing included.

    Adds which microbatch each row falls into, for which the "buffered" balance asks.
    """

    def __init__(self, feed: Feed, stage: StageConfig):
        self._feed = feed
        self._part = np.arange(stage.data.batch, dtype=np.int32) % stage.microbatches

    def __getitem__(self, step: int) -> dict:
        return {**next(self._feed), "part": self._part}


def _step(config: Config, stage: StageConfig, apply, rate):
    """The stage's train step: next-token loss, balanced over the whole batch where there are
    experts."""
    moe = config.model.moe
    balance = config.balance if moe else None
    loss = partial(
        lm.next_token,
        apply,
        z_loss=config.z_loss,
        balance=balance,
        balance_coef=config.model.balance_coef if moe else 0.0,
    )
    prepass = lm.prepass(apply, balance=balance, parts=stage.microbatches) if moe else None
    tx = optim.build(stage.optim, rate)
    return make_step(loss, tx, microbatches=stage.microbatches, prepass=prepass)


def _extra(stage: str, first: int, mixtures: dict, step: int) -> dict:
    """What a checkpoint stores of the data position: batch `position` of `stage` comes next."""
    return {"stage": stage, "position": step - first, "mixtures": mixtures}


def _refuse_other_data(then: dict, now: dict) -> None:
    changed = sorted(name for name in now if then.get(name) != now[name])
    if changed:
        raise ValueError(
            f"the data of stages {changed} is not what the checkpoint was trained on: a corpus "
            "was prepared anew since; bring the old one back, or take another workdir"
        )


class Measure:
    """Evaluates a stage's state on its held-out sets and records it in evaluation.json."""

    def __init__(self, work, stage: StageConfig, apply, corpora: dict, mesh, vocab: int):
        plan = stage.evaluation
        self._work, self._stage, self._every = work, stage, plan.every
        self._losses = HeldOut(
            apply,
            {name: corpora[name] for name in plan.sets},
            mesh,
            length=stage.data.length,
            batch=stage.data.batch,
            vocab=vocab,
            edges=plan.edges,
            rows=plan.rows,
        )

    def hook(self, until: int) -> Hook:
        def measure(step: int, state: TrainState, metrics: dict) -> None:
            # A stopped run leaves at any step, and only goes on: no border, no evaluation.
            if step == until or (self._every and step % self._every == 0):
                metrics["held_out"] = self(step, state)

        return Hook(measure, self._every or until, last=True)

    def __call__(self, step: int, state: TrainState) -> float:
        """Mean loss over the domains, for checkpoints kept by it."""
        sets = self._losses(state.params)
        if jax.process_index() == 0 and sets:
            record = {
                "step": step,
                "stage": self._stage.name,
                "rope_theta": self._stage.rope_theta,
                "length": self._stage.data.length,
                "sets": sets,
            }
            file = self._work.path / "evaluation.json"
            there = json.loads(file.read_text()) if file.exists() else []
            # What a killed run measured already is measured again, not twice recorded.
            there = [r for r in there if (r["step"], r["stage"]) != (step, self._stage.name)]
            write_atomically(file, json.dumps([*there, record], indent=1) + "\n")
        return sum(each["loss"] for each in sets.values()) / max(len(sets), 1)
