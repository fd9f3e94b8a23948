"""Prefill and decode steps, pure and jittable.

Prefill reads all but the last token of a prompt; the last one is the first input of the decode
loop, so that all sampling is in one place and the samples of a prompt share its prefill.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from qwen3.infer import budget
from qwen3.infer.slots import Slots
from qwen3.mesh import constrain
from qwen3.model import transformer
from qwen3.model.execution import Execution
from qwen3.model.sizes import ModelConfig
from qwen3.ops import sampling


class Record(NamedTuple):
    """What was made, [block, S]; only where `made`. ids_TLSA: the experts of each input or None."""

    ids: jax.Array
    log_probs: jax.Array
    sampling_log_probs: jax.Array
    forced: jax.Array
    made: jax.Array
    experts: jax.Array | None


def prefill(
    params: Any,
    config: ModelConfig,
    tokens_PT: jax.Array,
    lengths_P: jax.Array,
    *,
    execution: Execution,
) -> tuple[Any, jax.Array | None]:
    """(keys and values of prompts padded on the right to T, their experts [L, P, T, A] or None)."""
    real_PT = (jnp.arange(tokens_PT.shape[1]) < lengths_P[:, None]).astype(jnp.int32)
    out = transformer.forward(
        params,
        config,
        tokens_PT,
        None,
        real_PT,
        execution=execution,
        collect=frozenset({"cache"}),
    )
    return out.cache.layers, None if out.router is None else out.router.ids_BTA


def decode_steps(
    params: Any,
    config: ModelConfig,
    slots: Slots,
    layers: Any,
    tables: budget.Tables,
    allowed_V: jax.Array,
    most: jax.Array,
    finish: jax.Array,
    *,
    block: int,
    execution: Execution,
    experts: bool = False,
) -> tuple[Slots, Any, Record]:
    """Up to min(most, block) tokens for every active slot, until `finish` slots have finished.

    No slot may outgrow the cache: most <= its length - the longest active row. block is static,
    most and finish are not.
    """
    began = slots.active.sum()
    record = jax.tree.map(
        lambda x: jnp.zeros((block, *x.shape), x.dtype),
        jax.eval_shape(
            lambda s, c: _one(params, config, s, c, tables, allowed_V, execution, experts)[2],
            slots,
            layers,
        ),
    )

    def going(carry):
        i, slots, _, _ = carry
        active = slots.active.sum()
        return (i < jnp.minimum(most, block)) & (active > 0) & (began - active < finish)

    def body(carry):
        i, slots, layers, record = carry
        slots, layers, made = _one(
            params, config, slots, layers, tables, allowed_V, execution, experts
        )
        record = jax.tree.map(lambda all, new: all.at[i].set(new), record, made)
        return i + 1, slots, layers, record

    _, slots, layers, record = jax.lax.while_loop(going, body, (0, slots, layers, record))
    return slots, layers, record


def _one(params, config, slots, layers, tables, allowed_V, execution, experts):
    """One token for each active slot."""
    active = slots.active
    out = transformer.forward(
        params,
        config,
        slots.token[:, None],
        None,
        active[:, None].astype(jnp.int32),
        cache=transformer.Cache(layers, slots.length),
        execution=execution,
    )
    logits_SV = transformer.logits(out)[:, 0]
    with jax.named_scope("sample"):
        scores_SV = sampling.distribution(
            logits_SV,
            slots.rules,
            counts_BV=slots.counts_SV,
            seen_BV=slots.seen_SV,
            allowed_BV=_allowed(slots, tables, allowed_V),
            active_B=active,
        )
        # A token's random numbers are those of its place in the sequence, whatever the slot.
        drawn, total = sampling.draw(scores_SV, sampling.uniforms(slots.key, slots.length + 1))
        token, forced, thinking = budget.step(slots.thinking, drawn, slots.left, tables)
        log_probs = sampling.log_prob(logits_SV, token)
        sampling_log_probs = jnp.where(forced, 0.0, sampling.at(scores_SV, token) - total)

    rows = jnp.arange(token.shape[0])
    stopped = (token[:, None] == slots.stops).any(axis=1) & ~forced
    left = slots.left - active
    slots = slots._replace(
        token=jnp.where(active, token, slots.token),
        length=slots.length + active,
        left=left,
        active=active & ~stopped & (left > 0),
        counts_SV=slots.counts_SV.at[rows, token].add((active & ~forced).astype(jnp.int32)),
        seen_SV=slots.seen_SV.at[rows, token].max(active),
        thinking=jax.tree.map(
            lambda new, old: jnp.where(active, new, old), thinking, slots.thinking
        ),
    )
    ids_LSA = out.router.ids_BTA[:, :, 0].astype(jnp.uint8) if experts else None
    return (
        slots,
        out.cache.layers,
        Record(token, log_probs, sampling_log_probs, forced, active, ids_LSA),
    )


def _allowed(slots, tables, allowed_V):
    """Rows that may not think never open a block; padded vocabulary rows are never sampled."""
    opens_V = jnp.arange(allowed_V.shape[0]) == tables.think_open
    allowed_SV = allowed_V & ~(opens_V & ~slots.thinking.may_think[:, None])
    return constrain(allowed_SV, "batch", "act_vocab")
