"""The compiled programs of an engine: `slots` and `decode` bound to a model, a mesh, a block."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from qwen3 import mesh as meshes
from qwen3.infer import decode
from qwen3.infer import slots as slots_
from qwen3.model import transformer
from qwen3.model.execution import Execution
from qwen3.model.layers import LayerCache
from qwen3.model.sizes import ModelConfig


@dataclass(frozen=True)
class CompiledPrograms:
    """Jitted; slots and caches are donated. See `slots` and `decode` for what each does."""

    place: Callable  # a trainer's parameters as the engine wants them
    new: Callable  # (slots, length) -> slots and caches
    prefill: Callable
    insert: Callable
    decode: Callable
    resize: Callable
    release: Callable
    shapes: Callable  # (slots, length) -> weights, slots and caches as ShapeDtypeStructs


@functools.lru_cache(maxsize=32)
def build(
    config: ModelConfig, execution: Execution, mesh: Mesh, block: int, experts: bool
) -> CompiledPrograms:
    """The programs, shared by engines with the same arguments. experts: record the routing."""
    slots, layers, whole, given, weights = _shardings(config, execution, mesh)

    def new(rows: int, length: int):
        fresh = slots_.new_layers(config, rows, length, execution)
        return slots_.new_slots(rows, config.vocab), fresh

    def place(params):
        # Copies throughout: the trainer may donate its own arrays in its next step.
        params = jax.tree.map(lambda x: jnp.array(x, execution.dtype, copy=True), params)
        if execution.scan:
            return params
        params = transformer.unstack(params)
        if execution.outputs_first:
            turn = lambda x, inputs: jnp.moveaxis(x, range(inputs), range(-inputs, 0))  # noqa: E731
            layers = (transformer.outputs_first(each, turn) for each in params["layers"])
            params = {**params, "layers": tuple(layers)}
        return params

    def prefill(params, tokens, lengths):
        return decode.prefill(params, config, tokens, lengths, execution=execution)

    def steps(params, slots, layers, *rest):
        return decode.decode_steps(
            params,
            config,
            slots,
            layers,
            *rest,
            block=block,
            execution=execution,
            experts=experts,
        )

    def release(slots, keep):
        return slots._replace(active=slots.active & keep)

    def within(function):
        """Traced and run with the mesh ambient."""

        def ambient(method):
            def call(*arguments, **options):
                with jax.set_mesh(mesh):
                    return method(*arguments, **options)

            return call

        call = ambient(function)
        call.lower = ambient(function.lower)
        return call

    def shapes(rows: int, length: int):
        own = jax.eval_shape(place, nn.meta.unbox(transformer.abstract(config)))
        found = (own, *jax.eval_shape(lambda: new(rows, length)))
        return jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            found,
            (weights, slots, layers),
        )

    placed = within(jax.jit(place, out_shardings=weights))
    return CompiledPrograms(
        place=lambda params: placed(jax.device_put(params, given)),
        new=within(jax.jit(new, static_argnums=(0, 1), out_shardings=(slots, layers))),
        prefill=within(jax.jit(prefill, out_shardings=(layers, whole))),
        insert=within(jax.jit(slots_.insert, donate_argnums=(0, 1), out_shardings=(slots, layers))),
        decode=within(jax.jit(steps, donate_argnums=(1, 2), out_shardings=(slots, layers, whole))),
        resize=within(
            jax.jit(slots_.resize, static_argnames=("length",), out_shardings=(slots, layers))
        ),
        release=within(jax.jit(release, donate_argnums=0, out_shardings=slots)),
        shapes=shapes,
    )


def _shardings(config: ModelConfig, execution: Execution, mesh: Mesh) -> tuple[Any, ...]:
    """Of slots, caches, all else (whole on each device), and the trainer's and our weights.

    Fixed, or a donated array that came back elsewhere would compile the program again.
    """
    if mesh.shape["context"] > 1:
        raise ValueError(f"generation does not divide positions: context {mesh.shape['context']}")
    if config.kv_heads % mesh.shape["tensor"]:
        raise ValueError(
            f"{config.kv_heads} kv heads do not divide over a tensor axis of {mesh.shape['tensor']}"
        )
    whole = NamedSharding(mesh, P())
    names = ("batch", "act_heads", None, None)
    cache = NamedSharding(mesh, meshes.spec(*((None, *names) if execution.scan else names)))
    one = LayerCache(cache, cache)
    layers = one if execution.scan else (one,) * config.layers
    shapes = jax.eval_shape(lambda: slots_.new_slots(1, 1))
    slots = jax.tree.map(lambda _: whole, shapes)._replace(
        counts_SV=NamedSharding(mesh, meshes.spec("batch", "act_vocab")),
        seen_SV=NamedSharding(mesh, meshes.spec("batch", "act_vocab")),
    )
    given = weights = meshes.shardings_of(transformer.abstract(config), mesh)
    if not execution.scan:
        # Without the layer axis, which comes first in every spec.
        one = jax.tree.map(lambda s: NamedSharding(mesh, P(*s.spec[1:])), weights["layers"])
        if execution.outputs_first:
            one = transformer.outputs_first(
                one, lambda s, inputs: NamedSharding(mesh, P(*s.spec[inputs:], *s.spec[:inputs]))
            )
        weights = {**weights, "layers": (one,) * config.layers}
    return slots, layers, whole, given, weights


def batch_ways(mesh: Mesh) -> int:
    """What numbers of rows must be multiples of."""
    ways = 1
    for axis in meshes.BATCH_AXES:
        ways *= mesh.shape[axis]
    return ways
