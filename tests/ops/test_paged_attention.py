"""Kernels that attend to pages, against a float64 softmax over each sequence's own places."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from qwen3.ops import int8, paged_attention
from qwen3.ops.paged_attention import KERNELS, Pages, Query


@pytest.fixture(autouse=True)
def several_steps(monkeypatch):
    """32 places at once: the longest sequence takes three steps."""
    monkeypatch.setattr(paged_attention, "STEP", 32)


# Places that each query sees; 0 for a slot without a sequence. Page borders are among them.
LENGTHS = (70, 0, 1, 32, 33)


def cache(size, *, kv_heads, head_dim=128, spare=2):
    """(keys and values [M, K, P, H] in bfloat16, Pages, index_B) of LENGTHS, in any order."""
    rng = np.random.default_rng(0)
    counts = [-(-n // size) for n in LENGTHS]
    pages, width = sum(counts) + spare, max(counts) + 1
    numbers = rng.permutation(pages)
    owner, start = np.full(pages, len(LENGTHS)), np.full(pages, 2**30)
    table = np.zeros((len(LENGTHS), width), int)
    for row, count in enumerate(counts):
        own, numbers = numbers[:count], numbers[count:]
        owner[own], start[own] = row, np.arange(count) * size
        if count:
            table[row] = np.pad(own, (0, width - count), mode="edge")
    keys, values = (
        jnp.asarray(rng.normal(size=(pages, kv_heads, size, head_dim)), jnp.bfloat16)
        for _ in range(2)
    )
    # What no sequence holds may be anything.
    keys, values = (x.at[numbers].set(jnp.nan) for x in (keys, values))
    order = np.lexsort((start, owner))
    arrays = (x.astype(np.int32) for x in (owner, start, order, table))
    return keys, values, Pages(*arrays), np.array(LENGTHS, np.int32) - 1


def softmax64(variants, keys, values, pages, index_B, chunk=None):
    """[B, N, H] by plain NumPy."""
    K, size = keys.shape[1:3]
    B, N, H = variants[0].shape
    out = np.zeros((B, N, H))
    for row, last in enumerate(index_B):
        if last < 0:
            continue
        own = pages.table_BS[row, : last // size + 1]
        k, v = (
            np.asarray(x, np.float64)[own].swapaxes(1, 2).reshape(-1, K, H)[: last + 1]
            for x in (keys, values)
        )
        for head in range(N):
            queries = np.stack([np.asarray(q[row, head], np.float64) for q in variants])
            scores = k[:, head * K // N] @ queries.T * H**-0.5
            ahead = np.zeros(last + 1, int)
            if chunk is not None:
                ahead = np.minimum(last // chunk - np.arange(last + 1) // chunk, 2)
            scores = scores[np.arange(last + 1), ahead]
            weights = np.exp(scores - scores.max())
            out[row, head] = weights / weights.sum() @ v[:, head * K // N]
    return out


def run(kernel, variants, keys, values, pages, index_B, chunk=None):
    """The kernel's output, 0 for empty slots. Only that of a TPU takes the cache in bfloat16: the
    others round the weights to its dtype.
    """
    if kernel != "pallas" and not isinstance(keys, int8.Int8):
        keys, values = keys.astype(jnp.float32), values.astype(jnp.float32)
    if paged_attention.places_last(kernel):
        keys = jax.tree.map(lambda x: x.swapaxes(-1, -2), keys)

    def attend(variants, keys, values, pages, index_B):
        query = Query(variants, index_B, index_B >= 0, chunk)
        return paged_attention.attend(kernel, query, keys, values, pages)

    with pltpu.force_tpu_interpret_mode():
        out = jax.jit(attend)(variants, keys, values, pages, index_B)
    return np.where((index_B >= 0)[:, None, None], out, 0)


def queries(heads, head_dim=128, count=1):
    rng = np.random.default_rng(1)
    shape = (len(LENGTHS), heads, head_dim)
    return tuple(jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(count))


@pytest.mark.parametrize(
    "kernel, size, heads, kv_heads",
    [
        ("in_place", 8, 4, 2),
        ("gathered", 8, 4, 2),
        ("pallas", 8, 4, 2),
        pytest.param("pallas", 16, 2, 1, marks=pytest.mark.slow),
        ("pallas", 32, 8, 1),
        *(
            pytest.param(kernel, size, heads, kv_heads, marks=pytest.mark.slow)
            for kernel in KERNELS
            for size in (8, 16, 32)
            for heads, kv_heads in ((4, 4), (8, 2))
        ),
    ],
)
def test_a_kernel_is_the_softmax_over_each_sequences_places(kernel, size, heads, kv_heads):
    variants, held = queries(heads), cache(size, kv_heads=kv_heads)
    want = softmax64(variants, *held)
    got = run(kernel, variants, *held)
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("kernel", ["in_place", "gathered"])
def test_chunks_of_keys_are_seen_by_their_own_queries(kernel):
    variants, held = queries(2, count=3), cache(16, kv_heads=1)
    got = run(kernel, variants, *held, chunk=24)
    np.testing.assert_allclose(got, softmax64(variants, *held, chunk=24), atol=1e-5)


@pytest.mark.parametrize("kernel", ["in_place", "gathered"])
def test_a_kernel_reads_a_cache_in_int8_by_its_scales(kernel):
    variants, (keys, values, pages, index_B) = queries(4), cache(16, kv_heads=2)
    # Vectors of very different lengths, which one scale for all would lose.
    stored = [
        int8.quantise(x * 2.0 ** (np.arange(16) % 4)[:, None] / 4, axis=-1) for x in (keys, values)
    ]
    held = [int8.dequantise(x, jnp.float32) for x in stored]
    want = softmax64(variants, *held, pages, index_B)
    np.testing.assert_allclose(run(kernel, variants, *stored, pages, index_B), want, atol=1e-4)
    for wrong in (0, 1):
        broken = list(stored)
        broken[wrong] = stored[wrong]._replace(scales=jnp.ones_like(stored[wrong].scales))
        assert np.abs(run(kernel, variants, *broken, pages, index_B) - want).max() > 1


def test_what_a_kernel_cannot_do_is_refused():
    variants, held = queries(2, count=3), cache(16, kv_heads=1)
    with pytest.raises(ValueError, match="'pallas' has no Dual Chunk Attention"):
        run("pallas", variants, *held, chunk=24)
    with pytest.raises(ValueError, match="a head_dim of a multiple of 128, not 64"):
        run("pallas", queries(2, head_dim=64), *cache(16, kv_heads=1, head_dim=64))
    keys, values, pages, index_B = cache(16, kv_heads=1)
    pages = pages._replace(table_BS=np.zeros((len(LENGTHS), 60_000), np.int32))
    with pytest.raises(ValueError, match="5 slots x 1 kv heads x 60000 pages .* 1048576 bytes"):
        run("pallas", queries(2), keys, values, pages, index_B)
    with pytest.raises(ValueError, match="takes no float32 cache"):
        run("pallas", variants, *(x.astype(jnp.float32) for x in held[:2]), *held[2:])
    with pytest.raises(ValueError, match="takes no int8 cache: take .* 'gathered', .* 'rows', or"):
        run("pallas", variants, *(int8.quantise(x, axis=-1) for x in held[:2]), *held[2:])
    with pytest.raises(ValueError, match="pages 'flash'; there are in_place, gathered, pallas"):
        run("flash", variants, *held)
