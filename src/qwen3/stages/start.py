"""Where a stage begins, the same for all: resume; else other parameters; else fresh ones."""

from __future__ import annotations

import dataclasses
import logging
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

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
        log.info("resumed %s at step %d", work.path, restored.state.steps)
        return Begun(restored.state, restored.extra)
    if init_from:
        params = parameters(init_from, model, mesh, seed=seed)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, template)
        begun = jax.jit(lambda p: states.create(p, tx), out_shardings=shardings, donate_argnums=0)
        return Begun(begun(params), {})

    def init() -> Any:
        # The key is made in the program: outside it would be an array of the mesh, which a process
        # without its devices cannot take in.
        return transformer.init(model, jax.random.key(seed))

    return Begun(states.fresh(init, tx, template), {})


def moved(
    state: TrainState, model: ModelConfig, tx: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """The state on another mesh; the same arrays where they are placed so already."""
    template = states.abstract(abstract_parameters(model, mesh), tx)
    return jax.device_put(state, jax.tree.map(lambda leaf: leaf.sharding, template))


def parameters(
    source: str, model: ModelConfig, mesh: Mesh, dtype: Any = jnp.float32, *, seed: int = 0
) -> Any:
    """Parameters of a run, a checkpoint, an adapter or a Hugging Face folder, placed on `mesh`.

    A teacher or a reference is read by this too. A reward model made of a language model gets a
    new scalar head from `seed` in place of the output matrix. Raises ValueError where `source` is
    none of these, and for arrays of another model than `model`, naming them.
    """
    try:
        origin = model_source.find(source)
    except FileNotFoundError as error:
        raise ValueError(
            f"{source!r} is no workdir with checkpoints, no checkpoint and no folder with "
            f"safetensors: {error}"
        ) from error
    if not model.scalar_head or origin.config.scalar_head:
        return dataclasses.replace(origin, config=model).params(mesh, dtype)
    language = model.replace(scalar_head=False)
    params = dataclasses.replace(origin, config=language).params(mesh, dtype)
    new = jax.jit(partial(transformer.new_score, model), out_shardings=NamedSharding(mesh, P()))
    score = new(jax.random.key(seed)).astype(jnp.float32)
    return {**{name: leaf for name, leaf in params.items() if name != "head"}, "score": score}
