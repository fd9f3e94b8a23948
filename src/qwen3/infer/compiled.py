"""The compiled programs of an engine: `slots` and `decode` bound to a model, a mesh and a block."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from qwen3 import mesh as meshes
from qwen3.infer import decode, stored_weights
from qwen3.infer import slots as slots_
from qwen3.infer.slots import KVCache, Slots
from qwen3.model import transformer
from qwen3.model.execution import Execution
from qwen3.model.sizes import ModelConfig


@dataclass(frozen=True)
class CompiledPrograms:
    """Jitted; slots and KV caches are donated to all but `resize`. See `slots` and `decode`."""

    place: Callable[..., Any]  # a trainer's parameters -> a copy of them as the engine wants them
    new: Callable[..., Any]  # (slots, length) -> slots, KV cache
    prefill: Callable[..., Any]  # (parameters, tokens, lengths) -> KV cache, experts
    insert: Callable[..., Any]  # (slots, KV cache, prefilled, Admission) -> slots, KV cache
    admit: Callable[..., Any]  # (slots, Admission of what the KV cache holds) -> slots
    extend: Callable[..., Any]  # see decode.extend -> KV cache, experts
    decode: Callable[..., Any]  # see decode.decode_steps -> slots, KV cache, DecodeOutput
    resize: Callable[..., Any]  # (slots, KV cache, keep, length=) -> slots, KV cache
    release: Callable[..., Any]  # (slots, keep) -> slots, active only where `keep`
    shapes: Callable[..., Any]  # (slots, length) -> ShapeDtypeStructs: parameters, slots, KV cache
    replicated: NamedSharding  # of tables that every program may read


class Shardings(NamedTuple):
    """Where the arrays of the programs live. Fixed, because a donated array that came back under
    another sharding would compile the program again.
    """

    slots: Any
    kv_cache: Any
    replicated: NamedSharding  # everything else
    trainer: Any  # the parameters that `place` is given
    engine: Any  # the parameters that it gives


@functools.lru_cache(maxsize=32)
def build(
    config: ModelConfig, execution: Execution, mesh: Mesh, block: int, experts: bool
) -> CompiledPrograms:
    """The programs, shared by engines with the same arguments. experts: record the routing."""
    at = shardings(config, execution, mesh)
    in_mesh = functools.partial(within, mesh)
    place = functools.partial(stored_weights.stored, execution=execution)

    def new(slots: int, length: int) -> tuple[Slots, KVCache]:
        kv_cache = slots_.new_kv_cache(config, slots, length, execution)
        return slots_.new_slots(slots, config.vocab), kv_cache

    def prefill(params: Any, tokens: jax.Array, lengths: jax.Array) -> Any:
        return decode.prefill(params, config, tokens, lengths, execution=execution)

    def extend(params: Any, kv_cache: KVCache, *arguments: Any) -> Any:
        return decode.extend(params, config, kv_cache, *arguments, execution=execution)

    def admit(slots: Slots, admission: slots_.Admission) -> Slots:
        return slots_.insert(slots, (), (), admission)[0]

    def decode_block(params: Any, *arguments: Any, alternatives: int = 0) -> Any:
        return decode.decode_steps(
            params,
            config,
            *arguments,
            block=block,
            execution=execution,
            experts=experts,
            alternatives=alternatives,
        )

    def release(slots: Slots, keep: jax.Array) -> Slots:
        return slots._replace(active=slots.active & keep)

    def shapes(slots: int, length: int) -> Any:
        return abstract(config, execution, at, lambda: new(slots, length))

    state, prefilled = (at.slots, at.kv_cache), (at.kv_cache, at.replicated)
    placed = in_mesh(jax.jit(place, out_shardings=at.engine))
    return CompiledPrograms(
        place=lambda params: placed(jax.device_put(params, at.trainer)),
        new=in_mesh(jax.jit(new, static_argnums=(0, 1), out_shardings=state)),
        prefill=in_mesh(jax.jit(prefill, out_shardings=prefilled)),
        insert=in_mesh(jax.jit(slots_.insert, donate_argnums=(0, 1), out_shardings=state)),
        admit=in_mesh(jax.jit(admit, donate_argnums=0, out_shardings=at.slots)),
        extend=in_mesh(jax.jit(extend, donate_argnums=1, out_shardings=prefilled)),
        decode=in_mesh(decode_program(decode_block, at)),
        resize=in_mesh(jax.jit(slots_.resize, static_argnames=("length",), out_shardings=state)),
        release=in_mesh(jax.jit(release, donate_argnums=0, out_shardings=at.slots)),
        shapes=shapes,
        replicated=at.replicated,
    )


def abstract(
    config: ModelConfig,
    execution: Execution,
    at: Shardings,
    new: Callable[[], tuple[Slots, KVCache]],
) -> Any:
    """ShapeDtypeStructs, placed: an engine's parameters, and the slots and KV cache of `new()`."""
    place = functools.partial(stored_weights.stored, execution=execution)
    params = jax.eval_shape(place, nn.meta.unbox(transformer.abstract(config)))
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        (params, *jax.eval_shape(new)),
        (at.engine, at.slots, at.kv_cache),
    )


def decode_program(decode_block: Callable[..., Any], at: Shardings) -> Any:
    """The jitted `decode_block`, to which slots and KV cache are donated."""
    return jax.jit(
        decode_block,
        donate_argnums=(1, 2),
        static_argnames=("alternatives",),
        out_shardings=(at.slots, at.kv_cache, at.replicated),
    )


def within(mesh: Mesh, function: Any) -> Callable[..., Any]:
    """The jitted function, traced, lowered and run with the mesh ambient."""

    def ambient(method: Callable[..., Any]) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            with jax.set_mesh(mesh):
                return method(*arguments, **options)

        return call

    call = ambient(function)
    call.lower = ambient(function.lower)
    return call


def shardings(config: ModelConfig, execution: Execution, mesh: Mesh) -> Shardings:
    """ValueError for a mesh that divides positions, or that kv heads do not divide over, and for
    weights that the model cannot be stored with.
    """
    if mesh.shape["context"] > 1:
        raise ValueError(f"generation does not divide positions: context {mesh.shape['context']}")
    if config.kv_heads % mesh.shape["tensor"]:
        raise ValueError(
            f"{config.kv_heads} kv heads do not divide over a tensor axis of {mesh.shape['tensor']}"
        )
    replicated = NamedSharding(mesh, P())
    names = ("batch", "act_heads", None, None)
    cache = NamedSharding(mesh, meshes.spec(*((None, *names) if execution.scan else names)))
    caches = jax.eval_shape(lambda: slots_.new_kv_cache(config, 1, 1, execution))
    shapes = jax.eval_shape(lambda: slots_.new_slots(1, 1))
    by_vocab = NamedSharding(mesh, meshes.spec("batch", "act_vocab"))
    slots = jax.tree.map(lambda _: replicated, shapes)._replace(
        counts_SV=by_vocab, seen_SV=by_vocab
    )
    trainer = meshes.shardings_of(transformer.abstract(config), mesh)
    return Shardings(
        slots=slots,
        kv_cache=jax.tree.map(lambda _: cache, caches),
        replicated=replicated,
        trainer=trainer,
        engine=stored_weights.shardings(trainer, config, execution, mesh),
    )


def batch_ways(mesh: Mesh) -> int:
    """How many shards the mesh divides rows into: numbers of rows must be multiples of it."""
    return math.prod(mesh.shape[axis] for axis in meshes.BATCH_AXES)
