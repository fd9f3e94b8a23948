"""Pretraining in stages (report 3.2): general, reasoning, long context; any number in one run.

Mixture, length, batch, schedule and RoPE base change at a stage's border; parameters, optimizer
state and the step count go on. ABF (arXiv 2309.16039) is no more than the larger base from S3 on.
Departure: the report does not say how the optimizer crosses a border; here its moments are kept.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from qwen3 import hosts
from qwen3.config import MeshConfig, OptimConfig
from qwen3.data.atomic import write_atomically
from qwen3.data.batches import AnyCorpus, Batches
from qwen3.data.mixture import Stage
from qwen3.data.sharded_corpus import open_corpus
from qwen3.eval.perplexity import HeldOut
from qwen3.losses import lm
from qwen3.mesh import make_mesh
from qwen3.model import transformer
from qwen3.model.execution import Execution
from qwen3.model.sizes import ModelConfig, flops_per_token
from qwen3.stages import builders
from qwen3.stages.start import begin, moved
from qwen3.train import optim
from qwen3.train.checkpoint import Keep
from qwen3.train.loop import Hook, train
from qwen3.train.prefetch import Feed
from qwen3.train.recording import Log, recording_hooks
from qwen3.train.save_times import check_minutes
from qwen3.train.state import TrainState
from qwen3.train.step import Step, make_step
from qwen3.train.workdir import Workdir


@dataclass(frozen=True)
class Evaluation:
    """Held-out loss of a stage, measured before and after it."""

    sets: tuple[str, ...] = ()  # names in held_out
    edges: tuple[int, ...] = (0,)  # first positions of the buckets that the loss is given by
    rows: int = 0  # rows of a set, at most; 0: all
    every: int = 0  # also after every so many steps; 0: not


@dataclass(frozen=True)
class StageConfig:
    """One stage of pretraining."""

    data: Stage  # mixture, length, batch size, length rule
    steps: int  # optimizer steps
    optim: OptimConfig
    rope_theta: float  # RoPE base
    microbatches: int = 1  # parts of a batch whose gradients are added up, for less memory
    # Moved to at the border; None: the run's. Long rows want a context axis.
    mesh: MeshConfig | None = None
    evaluation: Evaluation = Evaluation()

    @property
    def name(self) -> str:
        return self.data.name


@dataclass(frozen=True)
class Config:
    """Settings of a pretraining run."""

    model: ModelConfig
    stages: tuple[StageConfig, ...]
    # name -> folder of `qwen3 corpus prepare`, or folder or URL of `qwen3 data tokenize`
    corpora: dict[str, str]
    held_out: dict[str, str] = field(default_factory=dict)  # likewise, for evaluation
    seed: int = 0
    init_from: str = ""  # run, checkpoint or Hugging Face folder (stages.start)
    z_loss: float = 0.0  # coefficient of the squared log-normaliser of the output softmax
    # Load-balancing loss of a mixture of experts, a form of ops.balance; its coefficient is the
    # model's. "global", over the batch of the whole step, is the recipe's (arXiv 2501.11873); with
    # microbatches it costs a forward pass more, which "previous" and "buffered" do not.
    balance: str = "global"
    save_every: int = 1000  # optimizer steps
    save_minutes: float = 0.0  # also when so many minutes passed since the last save; 0: not
    mesh: MeshConfig = MeshConfig()
    execution: dict[str, Any] = field(default_factory=dict)  # changes to Execution.for_mesh
    keep: Keep = Keep()
    log: Log = Log()
    tokenizer: str = ""  # folder, for those who use the model; the corpora hold ids

    def __post_init__(self) -> None:
        check_minutes(self.save_minutes)
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
        {name: open_corpus(folder) for name, folder in folders.items()}
        for folders in (config.corpora, config.held_out)
    )
    sources = [
        Batches(stage.data, corpora, config.seed, vocab=config.model.vocab)
        for stage in config.stages
    ]
    mixtures = {batches.stage.name: batches.hash for batches in sources}
    with Workdir(workdir, config, keep=config.keep) as work:
        tx = _optimizer(config, config.stages[0], rate)
        with jax.set_mesh(meshes[0]):
            state, stored = begin(
                work, config.model, tx, meshes[0], seed=config.seed, init_from=config.init_from
            )
        _refuse_other_data(stored.get("mixtures", mixtures), mixtures)
        borders = itertools.accumulate(stage.steps for stage in config.stages)
        plans = zip(config.stages, sources, meshes, borders, strict=True)
        for stage, batches, mesh, until in plans:
            if state.steps > until:
                continue
            with jax.set_mesh(mesh):
                state = moved(state, config.model, tx, mesh)
                position = partial(_position, stage.name, until - stage.steps, mixtures)
                save = work.checkpoints.hook(
                    config.save_every, position, minutes=config.save_minutes
                )
                state = _train_stage(
                    config,
                    stage,
                    work,
                    state,
                    batches,
                    held_out,
                    mesh=mesh,
                    until=until,
                    rate=rate,
                    save=save,
                )
        return state


def _train_stage(
    config: Config,
    stage: StageConfig,
    work: Workdir,
    state: TrainState,
    batches: Batches,
    held_out: Mapping[str, AnyCorpus],
    *,
    mesh: Mesh,
    until: int,
    rate: optax.Schedule,
    save: Hook,
) -> TrainState:
    """From `state` to the stage's last step, `until`, and what a stop kept from being measured."""
    first, step = until - stage.steps, state.steps
    # ABF (adjusted base frequency) is nothing more than this: the weights stay, the base changes.
    model = replace(config.model, rope_theta=stage.rope_theta)
    apply = transformer.bind(model, Execution.for_mesh(mesh, **config.execution))
    measure = HeldOutMeasure(work, stage, apply, held_out, mesh, model.vocab)
    if step == first or (measure.due(step, until) and not measure.recorded(step)):
        measure(step, state)
    if step == until:
        return state
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
            _train_step(config, stage, apply, rate),
            _InOrder(Feed(batches, mesh, start=step - first)),
            until=until,
            hooks=[*hooks, measure.hook(until), save],
        )


class _InOrder:
    """A feed as an indexed source, which `train` reads ahead in a thread, placing included."""

    def __init__(self, feed: Feed):
        self._feed = feed

    def __getitem__(self, step: int) -> dict:
        return next(self._feed)


def _train_step(config: Config, stage: StageConfig, apply: Callable, rate: optax.Schedule) -> Step:
    """Next-token loss; a mixture of experts adds the load-balancing loss over the whole batch."""
    moe = config.model.moe
    balance = config.balance if moe else None
    loss = partial(
        lm.next_token,
        apply,
        z_loss=config.z_loss,
        balance=balance,
        balance_coef=config.model.balance_coef if moe else 0.0,
    )
    return make_step(
        loss,
        _optimizer(config, stage, rate),
        microbatches=stage.microbatches,
        prepass=lm.prepass(apply, balance=balance) if moe else None,
        carry=builders.carry(config.model, config.balance),
    )


def _optimizer(
    config: Config, stage: StageConfig, rate: optax.Schedule
) -> optax.GradientTransformationExtraArgs:
    return builders.balanced(optim.build(stage.optim, rate), config.model, config.balance)


def _position(stage: str, first: int, mixtures: dict, step: int) -> dict:
    """The place in the data, for a checkpoint: batch `position` of `stage` is next."""
    return {"stage": stage, "position": step - first, "mixtures": mixtures}


def _refuse_other_data(then: dict, now: dict) -> None:
    changed = sorted(name for name in now if then.get(name) != now[name])
    if changed:
        raise ValueError(
            f"the data of stages {changed} is not what the checkpoint was trained on: a corpus "
            "was prepared anew since; bring the old one back, or take another workdir"
        )


class HeldOutMeasure:
    """Evaluates a stage's state on its held-out sets and records it in evaluation.json."""

    def __init__(
        self,
        work: Workdir,
        stage: StageConfig,
        apply: Callable,
        corpora: Mapping[str, AnyCorpus],
        mesh: Mesh,
        vocab: int,
    ):
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
        """Measures after step `until` and every so many steps; metrics["held_out"] is the mean."""

        def measure(step: int, state: TrainState | None, metrics: dict) -> None:
            assert state is not None, "a hook that is not late has the state"
            # The hook is called at whatever step a stopped run ends too: that is no border.
            if self.due(step, until):
                metrics["held_out"] = self(step, state)

        return Hook(measure, self._every or until, last=True)

    def due(self, step: int, until: int) -> bool:
        """Whether to measure after step `step` of a stage that ends with step `until`."""
        return step == until or bool(self._every and step % self._every == 0)

    def recorded(self, step: int) -> bool:
        """Whether step `step` of the stage has been measured, as process 0 sees it."""

        def present() -> str:
            measured = {(record["step"], record["stage"]) for record in self._records()}
            return "yes" if (step, self._stage.name) in measured else ""

        return not self._stage.evaluation.sets or bool(hosts.decided(present))

    def _records(self) -> list[dict]:
        file = self._work.path / "evaluation.json"
        return json.loads(file.read_text()) if file.exists() else []

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
            # What a killed run measured already is measured again, and recorded in its old place.
            records = {(r["step"], r["stage"]): r for r in self._records()}
            records[step, self._stage.name] = record
            write_atomically(
                self._work.path / "evaluation.json",
                json.dumps([*records.values()], indent=1) + "\n",
            )
        return sum(table["loss"] for table in sets.values()) / max(len(sets), 1)
