"""Where a stage begins, the same for all: resume; else other parameters; else fresh ones."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from qwen3.model import transformer
from qwen3.model.sizes import ModelConfig
from qwen3.train import model_source
from qwen3.train import state as states
from qwen3.train.model_source import abstract_parameters
from qwen3.train.state import TrainState
from qwen3.train.workdir import Workdir

__all__ = ["Begun", "abstract_parameters", "begin", "moved", "parameters"]

log = logging.getLogger("qwen3")


class Begun(NamedTuple):
    """The state that a stage starts from."""

    state: TrainState
    extra: dict  # the JSON stored beside the checkpoint it resumed from; {} for a new run


def begin(
    work: Workdir,
    model: ModelConfig,
    tx: optax.GradientTransformation,
    mesh: Mesh,
    *,
    seed: int,
    init_from: str = "",
) -> Begun:
    """The first of these that there is, placed on `mesh`, weights in fp32:

    1. the newest whole checkpoint in `work`: parameters, optimizer, step, and its `extra`;
    2. the parameters alone of `init_from`, another run's workdir or one checkpoint of it;
    3. those of `init_from`, a Hugging Face folder, converted;
    4. new parameters from `seed`.
    2 to 4 start at step 0 with a new optimizer. Raises what `Checkpoints.restore` and
    `parameters` raise.
    """
    template = states.abstract(abstract_parameters(model, mesh), tx)
    restored = work.restore(template)
    if restored is not None:
        log.info("resumed %s at step %d", work.path, int(restored.state.step))
        return Begun(restored.state, restored.extra)
    if init_from:
        params = parameters(init_from, model, mesh)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, template)
        begun = jax.jit(lambda p: states.create(p, tx), out_shardings=shardings, donate_argnums=0)
        return Begun(begun(params), {})
    key = jax.random.key(seed)
    return Begun(states.fresh(lambda: transformer.init(model, key), tx, template), {})


def moved(
    state: TrainState, model: ModelConfig, tx: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """The state on another mesh; the same arrays where they are placed so already."""
    template = states.abstract(abstract_parameters(model, mesh), tx)
    return jax.device_put(state, jax.tree.map(lambda leaf: leaf.sharding, template))


def parameters(source: str, model: ModelConfig, mesh: Mesh, dtype: Any = jnp.float32) -> Any:
    """Parameters of a run, a checkpoint, an adapter or a Hugging Face folder, placed on `mesh`.

    A teacher or a reference is read by this too. Raises ValueError where `source` is none of these,
    and for arrays of another model than `model`, naming them.
    """
    try:
        origin = model_source.find(source)
    except FileNotFoundError as error:
        raise ValueError(
            f"{source!r} is no workdir with checkpoints, no checkpoint and no folder with "
            f"safetensors: {error}"
        ) from error
    return dataclasses.replace(origin, config=model).params(mesh, dtype)
