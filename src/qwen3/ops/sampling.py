"""From logits to tokens, one set of rules a row: penalties, temperature, top-k, top-p, min-p, draw.

The order is that of the common servers (RECIPE 7). Every rule is an array over rows, so that one
compiled program serves all requests. Nothing here sorts: the k-th largest score and the top-p cut
are found by bisection of float bits, exact in 32 passes, and the draw takes two uniforms a row.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

CUT = -jnp.inf
BLOCK = 128


class Rules(NamedTuple):
    """One value a row. temperature 0 is greedy; top_k 0, top_p 1 and min_p 0 cut nothing;
    presence and frequency 0 and repetition 1 change nothing.
    """

    temperature_B: jax.Array
    top_k_B: jax.Array
    top_p_B: jax.Array
    min_p_B: jax.Array
    presence_B: jax.Array
    frequency_B: jax.Array
    repetition_B: jax.Array


def neutral(rows: int) -> Rules:
    """Rules that leave the model's own distribution as it is."""
    zeros, ones = jnp.zeros(rows, jnp.float32), jnp.ones(rows, jnp.float32)
    return Rules(ones, jnp.zeros(rows, jnp.int32), ones, zeros, zeros, zeros, ones)


def penalise(
    logits_BV: jax.Array, counts_BV: jax.Array, seen_BV: jax.Array, rules: Rules
) -> jax.Array:
    """Repetition: positive logits of seen tokens (prompt and answer) divided, negative ones
    multiplied (CTRL, arXiv 1909.05858). Presence: subtracted once from tokens already generated;
    frequency: as often as they were. counts_BV: of generated tokens only.
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

    Rules that no active row uses are skipped at run time. A greedy row keeps its best token only.
    """
    active_B = jnp.ones(logits_BV.shape[0], bool) if active_B is None else active_B
    scores_BV = logits_BV.astype(jnp.float32)

    def some(used_B):
        return (used_B & active_B).any()

    with jax.named_scope("penalties"):
        penalties_B = (rules.presence_B != 0) | (rules.frequency_B != 0) | (rules.repetition_B != 1)
        scores_BV = jax.lax.cond(
            some(penalties_B),
            lambda x: penalise(x, counts_BV, seen_BV, rules),
            lambda x: x,
            scores_BV,
        )
    scores_BV = jnp.where(allowed_BV, scores_BV, CUT)
    greedy_B = rules.temperature_B == 0
    scores_BV = scores_BV / jnp.where(greedy_B, 1, rules.temperature_B)[:, None]

    # A greedy row skips the filters: its best token passes all of them.
    with jax.named_scope("top_k"):
        top_k_B = jnp.where(greedy_B, 0, rules.top_k_B)
        scores_BV = jax.lax.cond(
            some(top_k_B > 0), lambda x: keep_top_k(x, top_k_B), lambda x: x, scores_BV
        )
    with jax.named_scope("top_p"):
        top_p_B = jnp.where(greedy_B, 1.0, rules.top_p_B)
        scores_BV = jax.lax.cond(
            some(top_p_B < 1), lambda x: keep_top_p(x, top_p_B), lambda x: x, scores_BV
        )
    with jax.named_scope("min_p"):
        floor_B1 = jnp.where(rules.min_p_B > 0, jnp.log(rules.min_p_B), CUT)[:, None]
        below_BV = scores_BV < scores_BV.max(axis=-1, keepdims=True) + floor_B1
        scores_BV = jnp.where(below_BV, CUT, scores_BV)
    with jax.named_scope("greedy"):
        return jax.lax.cond(
            some(greedy_B), lambda x: _keep_best(x, greedy_B), lambda x: x, scores_BV
        )


def keep_top_k(scores_BV: jax.Array, top_k_B: jax.Array) -> jax.Array:
    """The k largest scores of each row (and what ties with the last of them); k = 0 keeps all."""
    keys_BV = _sortable(scores_BV)

    def enough(cut_B):
        return (keys_BV >= cut_B[:, None]).sum(axis=-1) >= top_k_B

    cut_B1 = _largest(enough, scores_BV.shape[0])[:, None]
    return jnp.where((keys_BV >= cut_B1) | (top_k_B == 0)[:, None], scores_BV, CUT)


def keep_top_p(scores_BV: jax.Array, top_p_B: jax.Array) -> jax.Array:
    """The smallest set of best tokens with at least top_p of the probability (1904.09751), and
    what ties with the least of them; the best one always stays.
    """
    keys_BV = _sortable(scores_BV)
    probs_BV = jax.nn.softmax(scores_BV, axis=-1)
    # The whole mass may round to less than top_p: ask for no more than there is.
    wanted_B = jnp.minimum(top_p_B, probs_BV.sum(axis=-1) * (1 - 1e-6))

    def enough(cut_B):
        return jnp.where(keys_BV >= cut_B[:, None], probs_BV, 0).sum(axis=-1) >= wanted_B

    cut_B1 = jnp.minimum(_largest(enough, scores_BV.shape[0]), keys_BV.max(axis=-1))[:, None]
    return jnp.where((keys_BV >= cut_B1) | (top_p_B >= 1)[:, None], scores_BV, CUT)


def draw(scores_BV: jax.Array, uniforms_B2: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(a token of softmax(scores) for each row, logsumexp of the scores): first a block of 128 is
    drawn, then a token in it.

    Two uniforms in [0, 1) a row instead of V of them, and no token of probability 0 is drawn.
    """
    B, V = scores_BV.shape
    pad = -V % BLOCK
    best_B1 = scores_BV.max(axis=-1, keepdims=True)
    probs_BV = jnp.exp(scores_BV - best_B1)
    probs = jnp.pad(probs_BV, ((0, 0), (0, pad))).reshape(B, -1, BLOCK)
    sums_BN = probs.sum(axis=-1)
    block_B = _pick(sums_BN, uniforms_B2[:, 0])
    inside = jnp.take_along_axis(probs, block_B[:, None, None], axis=1)[:, 0]
    ids_B = block_B * BLOCK + _pick(inside, uniforms_B2[:, 1])
    return ids_B, best_B1[:, 0] + jnp.log(sums_BN.sum(axis=-1))


def at(scores_BV: jax.Array, ids_B: jax.Array) -> jax.Array:
    """The score of one id a row, [B]."""
    return jnp.take_along_axis(scores_BV, ids_B[:, None], axis=-1)[:, 0]


def log_prob(logits_BV: jax.Array, ids_B: jax.Array) -> jax.Array:
    """log softmax(logits) at one id a row, fp32 [B]."""
    logits_BV = logits_BV.astype(jnp.float32)
    return at(logits_BV, ids_B) - jax.nn.logsumexp(logits_BV, axis=-1)


def uniforms(keys_B2: jax.Array, positions_B: jax.Array) -> jax.Array:
    """Two uniforms [B, 2] that depend on a row's key (uint32 [B, 2]) and position only."""

    def row(key, position):
        key = jax.random.fold_in(jax.random.wrap_key_data(key, impl="threefry2x32"), position)
        return jax.random.uniform(key, (2,))

    return jax.vmap(row)(keys_B2, positions_B)


def row_keys(seeds_B3: jax.Array) -> jax.Array:
    """uint32 [B, 2] keys of (run seed, prompt id, sample index), uint32 [B, 3]."""

    def row(seed):
        key = jax.random.key(seed[0], impl="threefry2x32")
        return jax.random.key_data(jax.random.fold_in(jax.random.fold_in(key, seed[1]), seed[2]))

    return jax.vmap(row)(seeds_B3)


def _pick(weights_BN, uniform_B):
    """The first index whose running sum exceeds uniform * total: never one of weight 0."""
    running_BN = jnp.cumsum(weights_BN, axis=-1)
    total_B = running_BN[:, -1]
    aim_B = jnp.minimum(uniform_B * total_B, jnp.nextafter(total_B, 0.0))
    index_B = (running_BN <= aim_B[:, None]).sum(axis=-1)
    return jnp.minimum(index_B, weights_BN.shape[-1] - 1).astype(jnp.int32)


def _sortable(scores):
    """uint32 in the order of the floats."""
    bits = jax.lax.bitcast_convert_type(scores.astype(jnp.float32), jnp.uint32)
    return jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))


def _largest(enough, rows):
    """Per row, the largest uint32 for which `enough` holds; it holds for 0 and is monotone."""

    def bit(i, found_B):
        trial_B = found_B | (jnp.uint32(1 << 31) >> i.astype(jnp.uint32))
        return jnp.where(enough(trial_B), trial_B, found_B)

    return jax.lax.fori_loop(0, 32, bit, jnp.zeros(rows, jnp.uint32))


def _keep_best(scores_BV, greedy_B):
    # The first of the largest in two reductions: XLA:CPU takes seven times as long over argmax.
    ids_V = jnp.arange(scores_BV.shape[-1])
    is_best_BV = scores_BV == scores_BV.max(axis=-1, keepdims=True)
    best_B1 = jnp.where(is_best_BV, ids_V, ids_V[-1]).min(axis=-1, keepdims=True)
    return jnp.where((ids_V != best_B1) & greedy_B[:, None], CUT, scores_BV)
