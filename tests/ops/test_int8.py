"""Arrays in int8: how far they are from what was stored, and attention into a cache of them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qwen3.model import transformer
from qwen3.model.execution import Execution
from qwen3.model.sizes import ModelConfig
from qwen3.ops import attention, int8

B, T, N, K, S, H = 2, 3, 4, 2, 40, 16


def test_numbers_are_off_by_half_a_scale_at_most():
    x = np.random.default_rng(0).normal(size=(3, 5, 7)) * 10.0 ** np.arange(-3, 2)[:, None]
    for axis in (-1, (0, 2)):
        stored = int8.quantise(jnp.asarray(x, jnp.float32), axis)
        largest = np.abs(x).max(axis=axis, keepdims=True)
        np.testing.assert_allclose(stored.scales, largest / 127, rtol=1e-6)
        assert stored.numbers.dtype == jnp.int8 and int(jnp.abs(stored.numbers).max()) == 127
        error = np.abs(int8.dequantise(stored, jnp.float32) - x)
        assert (error <= 0.501 * largest / 127).all() and error.max() > 0.1 * largest.max() / 127


def test_zeros_stay_and_what_is_not_finite_stays_so():
    x = jnp.array([[0.0, 0.0], [1.0, jnp.nan], [jnp.inf, 1.0], [-3.0, 1.5]])
    back = np.asarray(int8.dequantise(int8.quantise(x, -1), jnp.float32))
    assert (back[0] == 0).all() and not np.isfinite(back[1:3]).any()
    np.testing.assert_allclose(back[3], [-3.0, 1.5], atol=1.5 / 127)


def attend64(q, k, v, index):
    """[B, T, N, H] by plain NumPy: query t of row b sees the places 0..index[b, t]."""
    out = np.zeros(q.shape)
    for b, t, n in np.ndindex(B, T, N):
        seen = slice(0, index[b, t] + 1)
        scores = k[b, seen, n * K // N] @ q[b, t, n] * H**-0.5
        weights = np.exp(scores - scores.max())
        out[b, t, n] = weights / weights.sum() @ v[b, seen, n * K // N]
    return out


def test_attention_into_a_cache_in_int8_is_near_by_its_scales_and_not_without():
    rng = np.random.default_rng(1)
    q, k, v = (rng.normal(size=(B, length, heads, H)) for length, heads in ((T, N), (S, K), (S, K)))
    k, v = (x * 2.0 ** (np.arange(S) % 4)[:, None, None] / 4 for x in (k, v))
    index = np.array([[5, 6, 7], [37, 38, 39]])
    keys, values = (int8.quantise(jnp.asarray(x, jnp.float32), -1) for x in (k, v))
    held = [np.asarray(x.numbers, float) * np.asarray(x.scales, float) for x in (keys, values)]

    @jax.jit
    def run(keys, values):
        keys = jax.tree.map(lambda x: x.transpose(0, 2, 3, 1), keys)
        values = jax.tree.map(lambda x: x.transpose(0, 2, 1, 3), values)
        return attention.cached(jnp.asarray(q, jnp.float32), keys, values, q_index_BT=index)

    got, want = run(keys, values), attend64(q, k, v, index)
    np.testing.assert_allclose(got, attend64(q, *held, index), atol=1e-5)
    # A score is off by half the key's scale times |q| at most, a weight by e to twice that.
    off = np.exp(np.abs(q).sum(-1) * H**-0.5 * float(keys.scales.max())) - 1
    bound = off * np.abs(v).max() + float(values.scales.max()) / 2
    assert (np.abs(got - want).max(-1) <= bound).all() and bound.max() < 2
    assert np.abs(got - want).max() < 0.05
    for wrong in (keys._replace(scales=keys.scales * 0 + 1), values):
        other = keys if wrong is values else wrong
        broken = values._replace(scales=values.scales * 0 + 1) if wrong is values else values
        assert np.abs(run(other, broken) - want).max() > 1


def test_a_prompt_is_rounded_where_its_cache_is_kept_and_nowhere_else():
    model = ModelConfig("toy", 1, 32, 64, 4, 2, head_dim=8, vocab=64, tied=True, max_length=64)
    params = jax.jit(partial(transformer.init, model))(jax.random.key(0))
    tokens = jax.random.randint(jax.random.key(1), (2, 12), 0, 64)
    rounded = Execution(cache_dtype="int8")

    @partial(jax.jit, static_argnames=("run", "collect"))
    def logits(run, collect=frozenset(), cache=None):
        output = transformer.forward(
            params, model, tokens, execution=run, collect=collect, cache=cache
        )
        return transformer.logits(output)

    plain = np.asarray(logits(Execution()))
    np.testing.assert_array_equal(logits(rounded), plain)
    near = np.asarray(logits(rounded, frozenset({"cache"})))
    # The same whether the prompt is read at once or into a cache.
    empty = transformer.new_cache(model, 2, 16, "int8")
    np.testing.assert_allclose(logits(rounded, cache=empty), near, atol=1e-5)
    assert 1e-5 < np.abs(near - plain).max() < 0.01


def test_unknown_dtypes_of_caches_are_refused_with_the_choices():
    with pytest.raises(ValueError, match="cache_dtype 'int4': .* 'float32', 'bfloat16', 'int8'"):
        Execution(cache_dtype="int4")
