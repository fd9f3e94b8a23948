"""The compiled programs of a paged KV cache: `kv_pages` and `decode` bound to a model."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from qwen3.infer import compiled, decode, kv_pages
from qwen3.infer import slots as slots_
from qwen3.infer.kv_pages import PageTable
from qwen3.infer.slots import KVCache, Slots
from qwen3.model.execution import Execution
from qwen3.model.layers import LayerCache
from qwen3.model.sizes import ModelConfig
from qwen3.ops.paged_attention import places_last


@dataclass(frozen=True)
class PagedPrograms:
    """Jitted; slots and pools are donated to what changes them, but not to `resize`."""

    new: Callable[..., Any]  # (slots, pages, page size) -> slots, pool
    prefill: Callable[..., Any]  # (parameters, tokens, lengths) -> rows, experts
    prefill_on: Callable[..., Any]  # (parameters, rows, tokens, lengths, starts) -> rows, experts
    store: Callable[..., Any]  # (pool, rows, pages) -> pool
    rows_of: Callable[..., Any]  # (pool, pages, lengths, more=) -> rows
    resize: Callable[..., Any]  # (one layer of a pool, sources) -> a layer of another length
    read: Callable[..., Any]  # (pool, a page of each shard) -> these pages
    write: Callable[..., Any]  # (pool, pages, where to in each shard) -> pool
    to_host: Callable[..., Any]  # pages -> the same in the host's memory
    to_device: Callable[..., Any]  # the reverse
    insert: Callable[..., Any]  # (slots, Admission) -> slots
    decode: Callable[..., Any]  # see decode.decode_steps -> slots, pool, DecodeOutput
    release: Callable[..., Any]  # (slots, keep) -> slots, active only where `keep`
    # (slots, pages, page size) -> ShapeDtypeStructs: parameters, slots, pool
    shapes: Callable[..., Any]
    replicated: NamedSharding  # of tables that every program may read


@functools.lru_cache(maxsize=32)
def build(
    config: ModelConfig, execution: Execution, mesh: Mesh, block: int, experts: bool
) -> PagedPrograms:
    """The programs, shared by engines with the same arguments. experts: record the routing."""
    at = compiled.shardings(config, execution, mesh)
    rows_programs = compiled.build(config, execution, mesh, block, experts)
    in_mesh = functools.partial(compiled.within, mesh)
    last = places_last(execution.pages)

    def new(slots: int, pages: int, page_size: int) -> tuple[Slots, KVCache]:
        pool = kv_pages.new_pool(config, pages, page_size, execution)
        return slots_.new_slots(slots, config.vocab), pool

    def prefill_on(params: Any, *arguments: Any) -> Any:
        return decode.prefill_on(params, config, *arguments, execution=execution)

    def decode_block(
        params: Any,
        slots: Slots,
        pool: KVCache,
        table: PageTable,
        *rest: Any,
        alternatives: int = 0,
    ) -> Any:
        return decode.decode_steps(
            params,
            config,
            slots,
            kv_pages.copy(pool, table, slots.length, places_last=last),
            *rest,
            pages=table.pages,
            block=block,
            execution=execution,
            experts=experts,
            alternatives=alternatives,
        )

    def store(pool: KVCache, rows: KVCache, pages: jax.Array) -> KVCache:
        return kv_pages.store(pool, rows, pages, places_last=last)

    def rows_of(pool: KVCache, pages: jax.Array, lengths: jax.Array, *, more: int) -> KVCache:
        return kv_pages.rows_of(pool, pages, lengths, more=more, places_last=last)

    def put(pages: KVCache, where: Any) -> KVCache:
        with jax.set_mesh(mesh):  # in a process without its devices this is a program
            return jax.device_put(pages, where)

    layer = at.kv_cache if isinstance(at.kv_cache, LayerCache) else at.kv_cache[0]
    state, prefilled = (at.slots, at.kv_cache), (at.kv_cache, at.replicated)
    in_host_memory = jax.tree.map(lambda s: s.with_memory_kind("pinned_host"), at.kv_cache)
    return PagedPrograms(
        new=in_mesh(jax.jit(new, static_argnums=(0, 1, 2), out_shardings=state)),
        prefill=rows_programs.prefill,
        prefill_on=in_mesh(jax.jit(prefill_on, out_shardings=prefilled)),
        store=in_mesh(jax.jit(store, donate_argnums=0, out_shardings=at.kv_cache)),
        rows_of=in_mesh(jax.jit(rows_of, static_argnames=("more",), out_shardings=at.kv_cache)),
        resize=in_mesh(jax.jit(kv_pages.resize, out_shardings=layer)),
        read=in_mesh(jax.jit(kv_pages.resize, out_shardings=at.kv_cache)),
        write=in_mesh(jax.jit(kv_pages.put, donate_argnums=0, out_shardings=at.kv_cache)),
        to_host=functools.partial(put, where=in_host_memory),
        to_device=functools.partial(put, where=at.kv_cache),
        insert=rows_programs.admit,
        decode=in_mesh(compiled.decode_program(decode_block, at)),
        release=rows_programs.release,
        shapes=lambda *sizes: compiled.abstract(config, execution, at, lambda: new(*sizes)),
        replicated=at.replicated,
    )
