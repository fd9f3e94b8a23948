"""Prefill and decode steps of the model, pure and jittable.

Prefill reads all but the last token of a prompt; the last one is the first input of the decode
loop, so that all sampling is in one place and the samples of a prompt share its prefill.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from qwen3.infer import budget, grammar, kv_pages
from qwen3.infer import slots as slots_
from qwen3.infer.budget import Array
from qwen3.infer.slots import KVCache, Slots
from qwen3.mesh import constrain
from qwen3.model import transformer
from qwen3.model.execution import Execution
from qwen3.model.sizes import ModelConfig
from qwen3.ops import sampling
from qwen3.ops.paged_attention import Pages

Carry: TypeAlias = tuple[jax.Array, Slots, KVCache, "DecodeOutput"]


class DecodeOutput(NamedTuple):
    """What a block of decode steps generated, [steps, S]; valid only where `generated`."""

    token_ids: Array
    log_probs: Array  # of the model's distribution at temperature 1
    sampling_log_probs: Array  # of the distribution that was sampled from, 0 for forced tokens
    forced: Array  # written by the budget or the mode, not sampled
    generated: Array  # whether the slot was active in this step
    exhausted: Array  # whether the thinking budget ran out at this token or before
    expert_ids_TLSA: Array | None  # uint8: the experts of each input, where they are recorded
    # The most likely tokens of the model's distribution at temperature 1, where they are recorded.
    top_ids_TSA: Array | None = None  # int32, the best first
    top_log_probs_TSA: Array | None = None


class SamplingLimits(NamedTuple):
    """What the sampled tokens are chosen among, beside each slot's own rules."""

    tables: budget.Tables  # of the thinking budget
    allowed_V: jax.Array  # bool: ids that may be sampled at all
    grammar_SW: jax.Array | None  # uint32: what grammars allow next, see `grammar.words`


def prefill(
    params: Any,
    config: ModelConfig,
    tokens_PT: jax.Array,
    lengths_P: jax.Array,
    *,
    execution: Execution,
) -> tuple[KVCache, jax.Array | None]:
    """(KV cache of prompts padded on the right to T, their experts [L, P, T, A] or None)."""
    options = {"execution": execution, "collect": frozenset({"cache"})}
    return _read_prompts(params, config, tokens_PT, lengths_P, **options)


def prefill_on(
    params: Any,
    config: ModelConfig,
    rows: KVCache,
    tokens_PT: jax.Array,
    lengths_P: jax.Array,
    starts_P: jax.Array,
    *,
    execution: Execution,
) -> tuple[KVCache, jax.Array | None]:
    """As `prefill`, for tokens that go on behind the starts_P tokens of `rows`, which has T empty
    places more than it needs for those. Only the new places are given back.
    """
    options = {"execution": execution, "cache": transformer.Cache(rows, starts_P)}
    layers, experts = _read_prompts(params, config, tokens_PT, lengths_P, **options)
    return kv_pages.new_places(layers, starts_P, tokens_PT.shape[1]), experts


def extend(
    params: Any,
    config: ModelConfig,
    kv_cache: KVCache,
    tokens_RT: jax.Array,
    lengths_R: jax.Array,
    starts_R: jax.Array,
    slots_R: jax.Array,
    *,
    execution: Execution,
) -> tuple[KVCache, jax.Array | None]:
    """(the KV cache in which tokens go on behind the starts_R tokens of their slots, their experts
    [L, R, T, A] or None). Rows of the batch whose slot is none are left out.
    """
    rows = slots_.rows_of(kv_cache, slots_R, starts_R, more=tokens_RT.shape[1])
    options = {"execution": execution, "cache": transformer.Cache(rows, starts_R)}
    layers, experts = _read_prompts(params, config, tokens_RT, lengths_R, **options)
    return slots_.put_rows(kv_cache, layers, slots_R, starts_R + lengths_R), experts


def _read_prompts(
    params: Any, config: ModelConfig, tokens_PT: jax.Array, lengths_P: jax.Array, **options: Any
) -> tuple[KVCache, jax.Array | None]:
    segments_PT = (jnp.arange(tokens_PT.shape[1]) < lengths_P[:, None]).astype(jnp.int32)
    output = transformer.forward(params, config, tokens_PT, None, segments_PT, **options)
    assert output.cache is not None  # it was asked for, or given
    return output.cache.layers, None if output.router is None else output.router.ids_BTA


def decode_steps(
    params: Any,
    config: ModelConfig,
    slots: Slots,
    kv_cache: KVCache,
    tables: budget.Tables,
    allowed_V: jax.Array,
    most: jax.Array,
    finish: jax.Array,
    grammar_SW: jax.Array | None = None,
    *,
    pages: Pages | None = None,
    block: int,
    execution: Execution,
    experts: bool = False,
    alternatives: int = 0,
) -> tuple[Slots, KVCache, DecodeOutput]:
    """Up to min(most, block) tokens for every active slot, until `finish` slots have finished.

    No slot may outgrow the cache: most <= its length - the longest active row. pages: whose they
    are where the KV cache is paged; then a slot has pages for `most` more tokens. block is static,
    most and finish are not, so one program serves all calls. grammar_SW: uint32, the tokens that
    grammars allow next, see `grammar.words`; it holds for one token, so most must be 1 then.
    alternatives: how many of the most likely tokens to record beside each.
    """
    active_before = slots.active.sum()

    def step(slots: Slots, kv_cache: KVCache) -> tuple[Slots, KVCache, DecodeOutput]:
        limits = SamplingLimits(tables, allowed_V, grammar_SW)
        cache = transformer.Cache(kv_cache, slots.length, pages)
        return _step(params, config, slots, cache, limits, execution, experts, alternatives)

    block_output = jax.tree.map(
        lambda x: jnp.zeros((block, *x.shape), x.dtype), jax.eval_shape(step, slots, kv_cache)[2]
    )

    def goes_on(carry: Carry) -> jax.Array:
        i, slots, _, _ = carry
        active = slots.active.sum()
        return (i < jnp.minimum(most, block)) & (active > 0) & (active_before - active < finish)

    def body(carry: Carry) -> Carry:
        i, slots, kv_cache, block_output = carry
        slots, kv_cache, output = step(slots, kv_cache)
        block_output = jax.tree.map(lambda all, new: all.at[i].set(new), block_output, output)
        return i + 1, slots, kv_cache, block_output

    start = (jnp.int32(0), slots, kv_cache, block_output)
    _, slots, kv_cache, block_output = jax.lax.while_loop(goes_on, body, start)
    return slots, kv_cache, block_output


def _step(
    params: Any,
    config: ModelConfig,
    slots: Slots,
    cache: transformer.Cache,
    limits: SamplingLimits,
    execution: Execution,
    experts: bool,
    alternatives: int,
) -> tuple[Slots, KVCache, DecodeOutput]:
    """One token for each active slot."""
    active = slots.active
    output = transformer.forward(
        params,
        config,
        slots.token[:, None],
        None,
        active[:, None].astype(jnp.int32),
        cache=cache,
        execution=execution,
    )
    assert output.cache is not None  # one was given
    expert_ids_LSA = None
    if experts:
        assert output.router is not None  # the engine refuses to record a dense model
        expert_ids_LSA = output.router.ids_BTA[:, :, 0].astype(jnp.uint8)
    logits_SV = transformer.logits(output)[:, 0]
    with jax.named_scope("sample"):
        token, forced, sampling_log_probs, automaton = _sample(logits_SV, slots, limits)
        log_probs = sampling.log_prob(logits_SV, token)
    top: tuple[jax.Array | None, jax.Array | None] = (None, None)
    if alternatives:
        top = sampling.most_likely(logits_SV, alternatives, limits.allowed_V)
    automaton = jax.tree.map(
        lambda new, old: jnp.where(active, new, old), automaton, slots.automaton
    )
    return (
        _advance(slots, token, forced, automaton),
        output.cache.layers,
        DecodeOutput(
            token_ids=token,
            log_probs=log_probs,
            sampling_log_probs=sampling_log_probs,
            forced=forced,
            generated=active,
            exhausted=automaton.exhausted,
            expert_ids_TLSA=expert_ids_LSA,
            top_ids_TSA=top[0],
            top_log_probs_TSA=top[1],
        ),
    )


def _sample(
    logits_SV: jax.Array, slots: Slots, limits: SamplingLimits
) -> tuple[jax.Array, jax.Array, jax.Array, budget.Automaton]:
    """(token, whether it is forced, log-probability it was sampled with, next state of the budget)
    of each slot, by its own rules.
    """
    scores_SV = sampling.distribution(
        logits_SV,
        slots.rules,
        counts_BV=slots.counts_SV,
        seen_BV=slots.seen_SV,
        allowed_BV=_allowed(slots, limits),
        active_B=slots.active,
    )
    # A token's random numbers are those of its place in the sequence, whatever the slot.
    uniforms = sampling.uniforms(slots.key, slots.length + 1)
    sampled, log_total = sampling.draw(scores_SV, uniforms)
    token, forced, automaton = budget.step(
        slots.automaton, sampled, slots.tokens_left, limits.tables
    )
    log_probs = jnp.where(forced, 0.0, sampling.at(scores_SV, token) - log_total)
    return token, forced, log_probs, automaton


def _advance(
    slots: Slots, token: jax.Array, forced: jax.Array, automaton: budget.Automaton
) -> Slots:
    """The slots after the active ones have emitted `token`; a stop id or the limit ends a slot."""
    active, rows = slots.active, jnp.arange(token.shape[0])
    is_stop = (token[:, None] == slots.stop_ids).any(axis=1) & ~forced
    tokens_left = slots.tokens_left - active
    return slots._replace(
        token=jnp.where(active, token, slots.token),
        length=slots.length + active,
        tokens_left=tokens_left,
        active=active & ~is_stop & (tokens_left > 0),
        counts_SV=slots.counts_SV.at[rows, token].add((active & ~forced).astype(jnp.int32)),
        seen_SV=slots.seen_SV.at[rows, token].max(active),
        automaton=automaton,
    )


def _allowed(slots: Slots, limits: SamplingLimits) -> jax.Array:
    """bool [S, V]: rows that may not think never open a block, padded vocabulary rows are never
    sampled, and a grammar's row has only what the grammar allows.
    """
    vocab = limits.allowed_V.shape[0]
    opens_V = jnp.arange(vocab) == limits.tables.think_open
    allowed_SV = limits.allowed_V & ~(opens_V & ~slots.automaton.may_think[:, None])
    if limits.grammar_SW is not None:
        allowed_SV &= grammar.unpacked(limits.grammar_SW, vocab)
    return constrain(allowed_SV, "batch", "act_vocab")
