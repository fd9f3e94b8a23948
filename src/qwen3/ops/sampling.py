"""From logits to tokens, one set of rules a row: penalties, temperature, top-k, top-p, min-p, draw.

The order is that of vLLM and SGLang. Every rule is an array over rows, so that one compiled program
serves all requests. Nothing here sorts: the k-th largest score and the top-p cut are found by
bisection over the bits of floats, exact in 32 passes, and the draw takes two uniforms a row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

CUT = -jnp.inf  # score of a token that cannot be sampled
BLOCK = 128  # tokens that `draw` first chooses among as one


class Rules(NamedTuple):
    """Sampling parameters, one value a row."""

    temperature_B: jax.Array  # 0 is greedy
    top_k_B: jax.Array  # int32; tokens kept, 0 for all
    top_p_B: jax.Array  # probability mass kept, 1 for all
    min_p_B: jax.Array  # least probability kept, as a share of the best token's; 0 for all
    presence_B: jax.Array  # subtracted from logits of generated tokens; 0 for none
    frequency_B: jax.Array  # subtracted as often as a token was generated; 0 for none
    repetition_B: jax.Array  # divisor of logits of tokens seen; 1 for none


def neutral(rows: int) -> Rules:
    """Rules that leave the model's own distribution as it is."""
    zeros, ones = jnp.zeros(rows, jnp.float32), jnp.ones(rows, jnp.float32)
    return Rules(ones, jnp.zeros(rows, jnp.int32), ones, zeros, zeros, zeros, ones)


def penalise(
    logits_BV: jax.Array, counts_BV: jax.Array, seen_BV: jax.Array, rules: Rules
) -> jax.Array:
    """Logits after the repetition, presence and frequency penalties.

    Repetition divides positive logits of seen tokens (prompt and answer) and multiplies negative
    ones (CTRL, arXiv 1909.05858). Presence is subtracted once from the logits of generated tokens,
    frequency as often as they were generated. counts_BV: of generated tokens only; seen_BV: bool.
    """
    repetition_B1 = rules.repetition_B[:, None]
    scaled_BV = jnp.where(logits_BV > 0, logits_BV / repetition_B1, logits_BV * repetition_B1)
    logits_BV = jnp.where(seen_BV | (counts_BV > 0), scaled_BV, logits_BV)
    presence_BV = rules.presence_B[:, None] * (counts_BV > 0)
    return logits_BV - presence_BV - rules.frequency_B[:, None] * counts_BV


def distribution(
    logits_BV: jax.Array,
    rules: Rules,
    *,
    counts_BV: jax.Array,
    seen_BV: jax.Array,
    allowed_BV: jax.Array,
    active_B: jax.Array | None = None,
) -> jax.Array:
    """Scores whose softmax is the distribution that is sampled from; CUT where it is zero.

    counts_BV, seen_BV: see `penalise`. allowed_BV: False for tokens that must not be sampled.
    Rules that no active row uses are skipped at run time. A greedy row keeps its best token only.
    """
    active_B = jnp.ones(logits_BV.shape[0], bool) if active_B is None else active_B
    scores_BV = logits_BV.astype(jnp.float32)

    def where_used(
        used_B: jax.Array, rule: Callable[[jax.Array], jax.Array], scores_BV: jax.Array
    ) -> jax.Array:
        return jax.lax.cond((used_B & active_B).any(), rule, lambda x: x, scores_BV)

    with jax.named_scope("penalties"):
        penalties_B = (rules.presence_B != 0) | (rules.frequency_B != 0) | (rules.repetition_B != 1)
        scores_BV = where_used(
            penalties_B, lambda x: penalise(x, counts_BV, seen_BV, rules), scores_BV
        )
    scores_BV = jnp.where(allowed_BV, scores_BV, CUT)
    greedy_B = rules.temperature_B == 0
    scores_BV = scores_BV / jnp.where(greedy_B, 1, rules.temperature_B)[:, None]

    # A greedy row skips the filters: its best token passes all of them.
    with jax.named_scope("top_k"):
        top_k_B = jnp.where(greedy_B, 0, rules.top_k_B)
        scores_BV = where_used(top_k_B > 0, lambda x: keep_top_k(x, top_k_B), scores_BV)
    with jax.named_scope("top_p"):
        top_p_B = jnp.where(greedy_B, 1.0, rules.top_p_B)
        scores_BV = where_used(top_p_B < 1, lambda x: keep_top_p(x, top_p_B), scores_BV)
    with jax.named_scope("min_p"):
        floor_B1 = jnp.where(rules.min_p_B > 0, jnp.log(rules.min_p_B), CUT)[:, None]
        below_BV = scores_BV < scores_BV.max(axis=-1, keepdims=True) + floor_B1
        scores_BV = jnp.where(below_BV, CUT, scores_BV)
    with jax.named_scope("greedy"):
        return where_used(greedy_B, lambda x: _keep_best(x, greedy_B), scores_BV)


def keep_top_k(scores_BV: jax.Array, top_k_B: jax.Array) -> jax.Array:
    """Scores with all cut but each row's k largest and ties with the last of them; 0 cuts none."""
    keys_BV = _sortable(scores_BV)

    def enough(cut_B: jax.Array) -> jax.Array:
        return (keys_BV >= cut_B[:, None]).sum(axis=-1) >= top_k_B

    cut_B1 = _largest(enough, scores_BV.shape[0])[:, None]
    return jnp.where((keys_BV >= cut_B1) | (top_k_B == 0)[:, None], scores_BV, CUT)


def keep_top_p(scores_BV: jax.Array, top_p_B: jax.Array) -> jax.Array:
    """Scores with all cut but the smallest set of best tokens whose probability is at least top_p
    (nucleus sampling, arXiv 1904.09751) and ties with the least of them; the best always stays.
    """
    keys_BV = _sortable(scores_BV)
    probs_BV = jax.nn.softmax(scores_BV, axis=-1)
    # The probabilities may sum to less than top_p by rounding: ask for no more than their sum.
    mass_B = jnp.minimum(top_p_B, probs_BV.sum(axis=-1) * (1 - 1e-6))

    def enough(cut_B: jax.Array) -> jax.Array:
        return jnp.where(keys_BV >= cut_B[:, None], probs_BV, 0).sum(axis=-1) >= mass_B

    cut_B1 = jnp.minimum(_largest(enough, scores_BV.shape[0]), keys_BV.max(axis=-1))[:, None]
    return jnp.where((keys_BV >= cut_B1) | (top_p_B >= 1)[:, None], scores_BV, CUT)


def draw(scores_BV: jax.Array, uniforms_B2: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(ids_B drawn from softmax(scores), logsumexp_B of the scores).

    First a block of 128 tokens is drawn, then a token in it: two uniforms in [0, 1) a row instead
    of V of them. A token of probability 0 is never drawn.
    """
    B, V = scores_BV.shape
    pad = -V % BLOCK
    best_B1 = scores_BV.max(axis=-1, keepdims=True)
    probs_BV = jnp.exp(scores_BV - best_B1)
    probs = jnp.pad(probs_BV, ((0, 0), (0, pad))).reshape(B, -1, BLOCK)
    sums_BN = probs.sum(axis=-1)
    block_B = _pick(sums_BN, uniforms_B2[:, 0])
    block_probs = jnp.take_along_axis(probs, block_B[:, None, None], axis=1)[:, 0]
    ids_B = block_B * BLOCK + _pick(block_probs, uniforms_B2[:, 1])
    return ids_B, best_B1[:, 0] + jnp.log(sums_BN.sum(axis=-1))


def at(scores_BV: jax.Array, ids_B: jax.Array) -> jax.Array:
    """scores_B of one id a row."""
    return jnp.take_along_axis(scores_BV, ids_B[:, None], axis=-1)[:, 0]


def log_prob(logits_BV: jax.Array, ids_B: jax.Array) -> jax.Array:
    """log softmax(logits) of one id a row, fp32 [B]."""
    logits_BV = logits_BV.astype(jnp.float32)
    return at(logits_BV, ids_B) - jax.nn.logsumexp(logits_BV, axis=-1)


def most_likely(
    logits_BV: jax.Array, count: int, allowed_V: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(ids, log softmax(logits) of them), [B, count] each, of each row's largest logits.

    allowed_V: False for padded rows of the vocabulary, which are no tokens however likely.
    """
    logits_BV = logits_BV.astype(jnp.float32)
    tokens_BV = jnp.where(allowed_V, logits_BV, CUT)
    best_BA, ids_BA = jax.lax.top_k(tokens_BV, min(count, logits_BV.shape[-1]))
    return ids_BA, best_BA - jax.nn.logsumexp(logits_BV, axis=-1, keepdims=True)


def uniforms(keys_B2: jax.Array, positions_B: jax.Array) -> jax.Array:
    """Two uniforms a row, [B, 2], that depend only on its key (uint32 [B, 2]) and position."""

    def row(key: jax.Array, position: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.wrap_key_data(key, impl="threefry2x32"), position)
        return jax.random.uniform(key, (2,))

    return jax.vmap(row)(keys_B2, positions_B)


def row_keys(seeds_B3: jax.Array) -> jax.Array:
    """Keys, uint32 [B, 2], of (run seed, prompt id, sample index), uint32 [B, 3]."""

    def row(seed: jax.Array) -> jax.Array:
        key = jax.random.key(seed[0], impl="threefry2x32")
        return jax.random.key_data(jax.random.fold_in(jax.random.fold_in(key, seed[1]), seed[2]))

    return jax.vmap(row)(seeds_B3)


def _pick(weights_BN: jax.Array, uniform_B: jax.Array) -> jax.Array:
    """index_B drawn in proportion to the weights: the first whose running sum exceeds uniform *
    total, which is never one of weight 0.
    """
    running_BN = jnp.cumsum(weights_BN, axis=-1)
    total_B = running_BN[:, -1]
    # uniform * total may round up to the total, which no running sum exceeds.
    threshold_B = jnp.minimum(uniform_B * total_B, jnp.nextafter(total_B, 0.0))
    index_B = (running_BN <= threshold_B[:, None]).sum(axis=-1)
    return jnp.minimum(index_B, weights_BN.shape[-1] - 1).astype(jnp.int32)


def _sortable(scores: jax.Array) -> jax.Array:
    """uint32 keys that sort as the floats do."""
    # Negative floats sort backwards by their bits: flip all bits; of the others, the sign bit.
    bits = jax.lax.bitcast_convert_type(scores.astype(jnp.float32), jnp.uint32)
    return jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))


def _largest(enough: Callable[[jax.Array], jax.Array], rows: int) -> jax.Array:
    """Per row, the largest uint32 for which `enough` holds; it holds for 0 and is monotone."""

    def set_bit(i: jax.Array, largest_B: jax.Array) -> jax.Array:
        trial_B = largest_B | (jnp.uint32(1 << 31) >> i.astype(jnp.uint32))
        return jnp.where(enough(trial_B), trial_B, largest_B)

    return jax.lax.fori_loop(0, 32, set_bit, jnp.zeros(rows, jnp.uint32))


def _keep_best(scores_BV: jax.Array, greedy_B: jax.Array) -> jax.Array:
    # The first of the largest, in two reductions: an argmax takes XLA:CPU seven times as long
    # (docs/log/2026-11-28-argmax-on-a-cpu.md).
    ids_V = jnp.arange(scores_BV.shape[-1])
    is_best_BV = scores_BV == scores_BV.max(axis=-1, keepdims=True)
    best_B1 = jnp.where(is_best_BV, ids_V, ids_V[-1]).min(axis=-1, keepdims=True)
    return jnp.where((ids_V != best_B1) & greedy_B[:, None], CUT, scores_BV)
