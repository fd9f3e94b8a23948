"""Supervised fine-tuning on conversations: cold start, mode fusion, off-policy distillation.

The report's stages 1 and 3 and the first half of strong-to-weak distillation (4.1, 4.3, 4.5) are
this stage with other data. With `stored` the teacher's top-k logits are the target, not its tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax

from qwen3.config import MeshConfig, OptimConfig, to_dict
from qwen3.data.tokenizer import Tokenizer
from qwen3.losses.distill import Distill
from qwen3.mesh import make_mesh
from qwen3.model.execution import Execution
from qwen3.model.sizes import ModelConfig, flops_per_token
from qwen3.stages import builders, conversations
from qwen3.stages.modes import ModeWeights, Weighting
from qwen3.stages.start import begin
from qwen3.train import optim
from qwen3.train.checkpoint import Keep
from qwen3.train.loop import train
from qwen3.train.placement import place_whole
from qwen3.train.recording import Log, recording_hooks
from qwen3.train.state import TrainState
from qwen3.train.step import make_step
from qwen3.train.workdir import Workdir


@dataclass(frozen=True)
class Config:
    """tokenizer: a folder. data: files as `stages.conversations` reads them. batch, length: rows
    and slots of a step. empty_think: whether the model writes an empty block itself ("target",
    soft switch) or is given it ("prompt"). too_long: "error" or "drop". modes: weights of the
    modes. stored: divergence from stored logits, which the data must then hold. init_from: see
    `start.begin`. execution: changes to what `Execution.for_mesh` takes.
    """

    model: ModelConfig
    tokenizer: str
    data: tuple[str, ...]
    steps: int
    optim: OptimConfig
    name: str = "sft"
    batch: int = 16
    length: int = 1024
    microbatches: int = 1
    empty_think: str = "target"
    too_long: str = "error"
    modes: ModeWeights = ModeWeights()
    stored: Distill | None = None
    balance: str = "global"
    seed: int = 0
    init_from: str = ""
    save_every: int = 100
    mesh: MeshConfig = MeshConfig()
    execution: dict[str, Any] = field(default_factory=dict)
    keep: Keep = Keep()
    log: Log = Log()


def run(config: Config, workdir: str) -> TrainState:
    """Train in `workdir`, on from where it stands; returns the last state.

    Raises ValueError for malformed conversations (file, line), data that do not fit the loss, the
    model or the length, and data other than the checkpoint's.
    """
    mesh = make_mesh(config.mesh)
    execution = Execution.for_mesh(mesh, **config.execution)
    tokenizer = Tokenizer.load(config.tokenizer)
    tokenizer.check_fits(config.model.vocab)
    packed = source(config, tokenizer)
    rate = optim.schedule(config.optim, config.steps)
    tx = optim.build(config.optim, rate)
    with jax.set_mesh(mesh), Workdir(workdir, to_dict(config), keep=config.keep) as work:
        state, extra = begin(
            work, config.model, tx, mesh, seed=config.seed, init_from=config.init_from
        )
        if extra and extra["data"] != packed.hash:
            raise ValueError(f"the data {config.data} are not what {work.path} was trained on")
        weighting = Weighting(config.modes, extra.get("modes"))
        batches = WeightedBatches(packed, weighting, mesh)
        adaptive = config.modes.adapt != 0
        with recording_hooks(
            work,
            config.log,
            stage=config.name,
            step=int(state.step),
            until=config.steps,
            tokens_per_step=config.batch * config.length,
            flops_per_token=flops_per_token(config.model, config.length),
            derived={"learning_rate": rate},
        ) as hooks:
            save = work.checkpoints.hook(
                config.save_every, lambda step: {"data": packed.hash, "modes": weighting.state()}
            )
            return train(
                state,
                step(config, execution, tx),
                # Weights that follow the losses cannot be read ahead.
                (lambda state: batches[int(state.step)]) if adaptive else batches,
                until=config.steps,
                hooks=[*hooks, *([weighting.hook()] if adaptive else []), save],
            )


def source(config: Config, tokenizer: Tokenizer) -> conversations.Packed:
    """The batches, f(seed, step), of all files."""
    read = partial(conversations.read, tokenizer=tokenizer, empty_think=config.empty_think)
    found = [each for path in config.data for each in read(path)]
    lacking = [each for each in found if ("teacher_ids" in each.fields) != bool(config.stored)]
    if lacking:
        raise ValueError(
            f"{len(lacking)} of {len(found)} sequences of {config.data} "
            + ("lack the stored logits" if config.stored else "hold stored logits; set `stored`")
        )
    found = conversations.fitting(found, config.length, config.too_long)
    return conversations.Packed(
        found, batch=config.batch, length=config.length, seed=config.seed, pad=tokenizer.pad
    )


def step(config: Config, execution: Execution, tx):
    """The train step."""
    if config.stored is not None:
        loss = builders.stored(config.model, execution, config.stored)
        return make_step(loss, tx, microbatches=config.microbatches)
    loss, prepass = builders.next_token(config.model, execution, balance=config.balance)
    return make_step(loss, tx, microbatches=config.microbatches, prepass=prepass)


class WeightedBatches:
    """`batches[step]`: weighted by mode, this process's rows, on the mesh."""

    def __init__(self, packed: conversations.Packed, weighting: Weighting, mesh):
        self._packed, self._weighting, self._mesh = packed, weighting, mesh

    def __getitem__(self, number: int) -> dict:
        return place_whole(self._weighting.apply(self._packed[number]), self._mesh)
