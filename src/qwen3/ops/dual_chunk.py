"""Dual Chunk Attention (DCA; An et al. 2024, arXiv 2402.17463): use beyond the trained length.

A key at position i is rotated to i mod s, with s the chunk. A query is rotated to one of three
positions, by how many chunks it is ahead of the key: the same chunk, the next one, or further.
Every relative position was seen in training, and up to the trained length the result is plain RoPE
exactly. The paper and its published code differ in the two positions of other chunks; both are
here as `variant`. (Qwen3 report, arXiv 2505.09388, section 3.2)
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

MASKED = -1e30


def query_positions(
    positions: jax.Array, *, train_length: int, chunk: int, variant: str
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Positions of the queries towards keys of (the same, the previous, earlier) chunks.

    train_length: c, in tokens; chunk: s < c. variant: "paper" or "code". Raises ValueError for
    another variant or a chunk outside (0, c).
    """
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
    """Attention with one softmax over the three groups of keys; [B, T, N, H] out.

    q is not yet rotated, `rotate_q(q, positions)` does it; k is already rotated to its position
    mod chunk. mask_BTS is True where a query may attend, which also keeps documents of a packed
    row apart. The scores are held whole, [B, K, G, T, S] in fp32.
    """
    B, T, N, H = q_BTNH.shape
    K = k_BSKH.shape[2]
    positions = query_positions(
        q_positions_BT, train_length=train_length, chunk=chunk, variant=variant
    )
    # Chunks between query and key; the query is never behind, as later keys are masked.
    ahead_BTS = (q_positions_BT // chunk)[:, :, None] - (k_positions_BS // chunk)[:, None, :]

    def scores(positions_BT: jax.Array) -> jax.Array:
        q_BTKGH = rotate_q(q_BTNH, positions_BT).reshape(B, T, K, N // K, H)
        return jnp.einsum(
            "BTKGH,BSKH->BKGTS", q_BTKGH, k_BSKH, preferred_element_type=jnp.float32
        ) * (H**-0.5)

    same, near, far = (scores(positions_BT) for positions_BT in positions)
    ahead = ahead_BTS[:, None, None]
    joined = jnp.where(ahead == 0, same, jnp.where(ahead == 1, near, far))
    joined = jnp.where(mask_BTS[:, None, None], joined, MASKED)
    weights = jax.nn.softmax(joined, axis=-1).astype(v_BSKH.dtype)
    return jnp.einsum("BKGTS,BSKH->BTKGH", weights, v_BSKH).reshape(B, T, N, H)
