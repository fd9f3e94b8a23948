"""Attention against a float64 loop: values and gradients, segments, cache, any mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qwen3.config import MeshConfig
from qwen3.mesh import make_mesh
from qwen3.ops import attention

B, T, N, K, H = 2, 24, 4, 2, 8


def loop(q, k, v, segments):
    """Query by query in float64."""
    out = np.zeros(q.shape)
    for b in range(B):
        for t in range(q.shape[1]):
            seen = [s for s in range(t + 1) if segments[b, s] == segments[b, t]]
            for n in range(N):
                scores = k[b, seen, n // (N // K)] @ q[b, t, n] / np.sqrt(H)
                weights = np.exp(scores - scores.max())
                out[b, t, n] = weights @ v[b, seen, n // (N // K)] / weights.sum()
    return out


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    shapes = [(B, T, N, H), (B, T, K, H), (B, T, K, H)]
    q, k, v = (rng.standard_normal(shape) for shape in shapes)
    segments = np.ones((B, T), np.int32)
    segments[0, 10:20], segments[0, 20:], segments[1, :5] = 2, 0, 0
    return q, k, v, segments


def as_float32(*arrays):
    return [jnp.asarray(x, jnp.float32) for x in arrays]


@pytest.mark.parametrize("block", [128, 7])
def test_equals_a_loop_over_queries(case, block, monkeypatch):
    monkeypatch.setattr(attention, "SMALLEST_BLOCK", block)
    q, k, v, segments = case
    found = attention.attention(*as_float32(q, k, v), segments_BT=jnp.asarray(segments))
    np.testing.assert_allclose(found, loop(q, k, v, segments), atol=1e-5)
    whole = attention.attention(*as_float32(q, k, v))
    np.testing.assert_allclose(whole, loop(q, k, v, np.ones_like(segments)), atol=1e-5)


def test_gradients_equal_finite_differences_of_the_loop(case):
    q, k, v, segments = case
    target = np.random.default_rng(1).standard_normal(q.shape)

    def loss(*qkv):
        out = attention.attention(*qkv, segments_BT=jnp.asarray(segments))
        return jnp.sum(out * jnp.asarray(target, jnp.float32))

    grads = jax.grad(loss, argnums=(0, 1, 2))(*as_float32(q, k, v))
    rng = np.random.default_rng(2)
    for which in range(3):
        direction = rng.standard_normal(case[which].shape)
        plus, minus = list(case[:3]), list(case[:3])
        plus[which] = plus[which] + 1e-5 * direction
        minus[which] = minus[which] - 1e-5 * direction
        change = (loop(*plus, segments) - loop(*minus, segments)) * target
        assert np.sum(np.asarray(grads[which]) * direction) == pytest.approx(
            change.sum() / 2e-5, rel=1e-4
        )


@pytest.mark.parametrize(
    "axes", [{"data": 2, "tensor": 2, "context": 2}, {"fsdp": 2, "context": 4}, {"expert": 2}]
)
def test_every_mesh_gives_the_same(case, axes):
    q, k, v, segments = case
    q, k, v = as_float32(q, k, v)
    devices = jax.devices()[: int(np.prod(list(axes.values())))]
    mesh = make_mesh(MeshConfig(**{"fsdp": 1, **axes}), devices)

    def loss(q, k, v):
        out = attention.attention(q, k, v, segments_BT=jnp.asarray(segments))
        return jnp.sum(out**2), out

    run = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)
    (_, want), want_grads = jax.jit(run)(q, k, v)
    with jax.set_mesh(mesh):
        (_, found), grads = jax.jit(run)(q, k, v)
    np.testing.assert_allclose(found, want, atol=1e-5)
    for a, b in zip(grads, want_grads, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_cached_queries_see_the_cache_up_to_their_place(case):
    q, k, v, _ = as_float32(*case)
    want = attention.attention(q, k, v)[:, -3:]
    keys, values = (
        jnp.pad(x.transpose(0, 2, 1, 3), ((0, 0),) * 2 + ((0, 5), (0, 0)), constant_values=9.0)
        for x in (k, v)
    )
    keys = keys.swapaxes(-1, -2)
    index = jnp.broadcast_to(jnp.arange(T - 3, T), (B, 3))
    found = attention.cached(q[:, -3:], keys, values, q_index_BT=index)
    np.testing.assert_allclose(found, want, atol=1e-5)


def test_an_unknown_kernel_names_the_choices(case):
    with pytest.raises(ValueError, match="'flash3'.*reference, splash, cudnn, tokamax"):
        attention.attention(*as_float32(*case[:3]), kernel="flash3")
