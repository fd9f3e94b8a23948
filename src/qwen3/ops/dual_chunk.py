"""Dual Chunk Attention (An et al. 2024, arXiv 2402.17463): positions beyond the trained length.

Keys stand at i mod s. A query has three positions, by how many chunks it is ahead of the key:
the same chunk, the next one, or further. Every relative position was seen in training, and up to
the trained length the result is plain RoPE exactly. RECIPE 5.2 has both stored variants.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

MASKED = -1e30


def query_positions(
    positions: jax.Array, *, train_length: int, chunk: int, variant: str
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Where queries at `positions` stand for keys of the same, the previous and earlier chunks."""
    limit = {"paper": train_length - 1, "code": train_length}.get(variant)
    if limit is None:
        raise ValueError(f"unknown dual chunk variant {variant!r}; there are paper, code")
    if not 0 < chunk < train_length:
        raise ValueError(f"chunk {chunk} must lie between 0 and train_length {train_length}")
    intra = positions % chunk
    inter = limit if variant == "paper" else min(2 * chunk - 1, limit)
    return intra, jnp.minimum(chunk + intra, limit), jnp.full_like(positions, inter)


def dual_chunk_attention(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    rotate_q: Callable[[jax.Array, jax.Array], jax.Array],
    *,
    q_positions_BT: jax.Array,
    k_positions_BS: jax.Array,
    mask_BTS: jax.Array,
    train_length: int,
    chunk: int,
    variant: str,
) -> jax.Array:
    """One softmax over the three groups of keys; [B, T, N, H] out.

    q is unrotated, `rotate_q(q, positions)` turns it; k is already turned to its position mod
    chunk. mask_BTS is true where a query may look. Scores are full [B, K, G, T, S] in fp32.
    """
    B, T, N, H = q_BTNH.shape
    K = k_BSKH.shape[2]
    places = query_positions(
        q_positions_BT, train_length=train_length, chunk=chunk, variant=variant
    )
    ahead_BTS = (q_positions_BT // chunk)[:, :, None] - (k_positions_BS // chunk)[:, None, :]

    def scores(place_BT):
        q_BTKGH = rotate_q(q_BTNH, place_BT).reshape(B, T, K, N // K, H)
        return jnp.einsum(
            "BTKGH,BSKH->BKGTS", q_BTKGH, k_BSKH, preferred_element_type=jnp.float32
        ) * (H**-0.5)

    same, near, far = (scores(place) for place in places)
    ahead = ahead_BTS[:, None, None]
    joined = jnp.where(ahead == 0, same, jnp.where(ahead == 1, near, far))
    joined = jnp.where(mask_BTS[:, None, None], joined, MASKED)
    weights = jax.nn.softmax(joined, axis=-1).astype(v_BSKH.dtype)
    return jnp.einsum("BKGTS,BSKH->BTKGH", weights, v_BSKH).reshape(B, T, N, H)
