"""What the optimizer moves: the whole model, or low-rank adapters on a base that stays as it is.

Stages ask a `Trainable` for the whole parameters (rollouts, evaluation, old log-probabilities), and
give it their loss and what is frozen. Without adapters it hands everything through.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import optax
from jax.sharding import Mesh

from qwen3.model import lora as adapters
from qwen3.model.lora import LoraConfig
from qwen3.model.sizes import ModelConfig
from qwen3.stages import start
from qwen3.train import model_source
from qwen3.train import state as states
from qwen3.train.state import TrainState
from qwen3.train.workdir import Workdir

log = logging.getLogger("qwen3")


class Trainable(NamedTuple):
    """How the trained parameters become the model's. lora and base are None without adapters."""

    lora: LoraConfig | None = None
    base: Any = None  # parameters of the model that the adapters are added to

    def params(self, state: TrainState) -> Any:
        """The whole parameters of the model at this state."""
        if self.lora is None:
            return state.params
        return _merged(self.base, state.params, self.lora)

    def loss(self, loss: Callable) -> Callable:
        """A loss or prepass over whole parameters as one over what is trained."""
        return loss if self.lora is None else adapters.adapted(loss, self.lora)

    def frozen(self, frozen: Any) -> Any:
        """What the step must be given besides the batch."""
        return frozen if self.lora is None else {"base": self.base, "rest": frozen}


@partial(jax.jit, static_argnums=2)
def _merged(base: Any, state_params: Any, lora: LoraConfig) -> Any:
    return adapters.merge(base, state_params, lora)


WHOLE_MODEL = Trainable()


class Prepared(NamedTuple):
    """Where a stage begins, and how its state becomes a model."""

    state: TrainState
    extra: dict  # the JSON stored beside the checkpoint it resumed from; {} for a new run
    trainable: Trainable


def begin(
    work: Workdir,
    model: ModelConfig,
    tx: optax.GradientTransformation,
    mesh: Mesh,
    *,
    seed: int,
    init_from: str = "",
    lora: LoraConfig = LoraConfig(),
) -> Prepared:
    """As `start.begin`; with a LoRA rank above 0 the state holds adapters on `init_from`.

    Raises ValueError for adapters without a model to start from.
    """
    if not lora.rank:
        state, extra = start.begin(work, model, tx, mesh, seed=seed, init_from=init_from)
        return Prepared(state, extra, WHOLE_MODEL)
    if not init_from:
        raise ValueError(f"LoRA of rank {lora.rank} needs init_from: adapters on what model?")
    base = start.parameters(init_from, model, mesh)
    template = states.abstract(model_source.abstract_adapters(lora, model, mesh), tx)
    log.info("%s", _start_line(lora, template, base))
    restored = work.restore(template)
    if restored is not None:
        return Prepared(restored.state, restored.extra, Trainable(lora, base))
    fresh = states.fresh(lambda: adapters.init(lora, model, jax.random.key(seed)), tx, template)
    return Prepared(fresh, {}, Trainable(lora, base))


def memory(state: TrainState) -> tuple[int, int]:
    """(bytes of the trained parameters, bytes of the optimizer's state), all devices together.

    state: arrays, or their shapes as `train.state.abstract` gives them. Adam keeps two moments of
    every trained parameter.
    """
    return _bytes(state.params), _bytes(state.opt_state)


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _start_line(lora: LoraConfig, state: TrainState, base: Any) -> str:
    """How much is trained, and what the optimizer's state takes with and without adapters."""
    (params, optimizer), whole = memory(state), _bytes(base)
    return (
        f"LoRA of rank {lora.rank}: {params / whole:.2%} of the model's {whole / 4e6:,.2f} M "
        f"parameters are trained, {params / 1e6:,.2f} MB, with {optimizer / 1e6:,.2f} MB of "
        f"optimizer state instead of {optimizer / params * whole / 1e6:,.2f} MB"
    )
