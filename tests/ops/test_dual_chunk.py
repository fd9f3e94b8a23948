"""Dual Chunk Attention against stored positions and outputs, both variants."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from qwen3.ops import dual_chunk, rope

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = json.loads((GOLDEN / "dca_positions.json").read_text())["cases"]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['variant']}-{c['length']}")
def test_query_positions_equal_the_stored_ones(case):
    intra, near, far = dual_chunk.query_positions(
        jnp.arange(case["length"]),
        train_length=case["pretrain_len"],
        chunk=case["chunk_len"],
        variant=case["variant"],
    )
    for found, name in ((intra, "P_q_intra"), (near, "P_q_succ"), (far, "P_q_inter")):
        np.testing.assert_array_equal(found, case[name])


def attend(q, k, v, theta, *, train_length, chunk, variant):
    """[T, N, H] each; causal, one document."""
    turns = rope.inverse_frequencies(q.shape[-1], theta)
    positions = jnp.arange(q.shape[0])[None]

    def turned(x, at):
        return rope.rotate(x, *rope.cos_sin(at, turns))

    return dual_chunk.dual_chunk_attention(
        q[None],
        turned(k[None], positions % chunk),
        v[None],
        turned,
        q_positions_BT=positions,
        k_positions_BS=positions,
        mask_BTS=positions[:, :, None] >= positions[:, None, :],
        train_length=train_length,
        chunk=chunk,
        variant=variant,
    )[0]


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_outputs_equal_the_stored_ones(variant):
    z = np.load(GOLDEN / "dca_reference.npz")
    found = attend(
        *(jnp.asarray(z[name]) for name in "qkv"),
        float(z["theta"]),
        train_length=int(z["pretrain_len"]),
        chunk=int(z["chunk_len"]),
        variant=variant,
    )
    np.testing.assert_allclose(found, z[f"out_{variant}"], atol=2e-5)


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_up_to_the_trained_length_it_is_plain_rope(variant):
    z = np.load(GOLDEN / "dca_reference.npz")
    q, k, v = (jnp.asarray(z[name][:12]) for name in "qkv")
    found = attend(q, k, v, 1e4, train_length=12, chunk=9, variant=variant)
    plain = attend(q, k, v, 1e4, train_length=1000, chunk=999, variant="paper")
    np.testing.assert_allclose(found, plain, atol=2e-5)


def test_an_unknown_variant_names_the_choices():
    with pytest.raises(ValueError, match="'swapped'.*paper, code"):
        dual_chunk.query_positions(jnp.arange(4), train_length=4, chunk=3, variant="swapped")
