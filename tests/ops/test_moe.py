"""Routing against stored values; every experts kernel against the dense reference."""

import functools
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qwen3.ops import experts, moe, transport

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "moe" / "reference.npz")
EXPERTS, MODEL, FFN = 4, 16, 24
# Uneven groups, an expert without rows, one with several blocks, and rows of no expert at the end.
SIZES, ROWS = [13, 0, 2, 20], 40


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def ffn_inputs():
    weights = jnp.abs(draw(ROWS, seed=1))
    gate, up = draw(EXPERTS, MODEL, FFN, seed=2), draw(EXPERTS, MODEL, FFN, seed=3)
    return draw(ROWS, MODEL), weights, gate, up, draw(EXPERTS, FFN, MODEL, seed=4)


@functools.cache
def value_and_gradients(kernel, tiles=None):
    """y and the gradients of all five inputs; the cotangent touches the unrouted rows too."""

    def loss(*inputs):
        y = experts.grouped_ffn(*inputs, jnp.array(SIZES, jnp.int32), kernel=kernel, tiles=tiles)
        return jnp.sum(y * draw(ROWS, MODEL, seed=5)), y

    (_, y), gradients = jax.jit(jax.value_and_grad(loss, range(5), has_aux=True))(*ffn_inputs())
    return y, *gradients


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * float(jnp.abs(b).max()))


def test_dense_reference_is_the_plain_loop_over_rows():
    x, weights, gate, up, down = (np.asarray(v, np.float64) for v in ffn_inputs())
    expected = np.zeros((ROWS, MODEL))
    for row, e in enumerate(np.repeat(np.arange(EXPERTS), SIZES)):
        hidden = x[row] @ gate[e]
        hidden = hidden / (1 + np.exp(-hidden)) * (x[row] @ up[e])
        expected[row] = weights[row] * (hidden @ down[e])
    np.testing.assert_allclose(value_and_gradients("dense")[0], expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("rows", [4, 8, 64])
def test_loop_kernel_equals_the_dense_reference(rows):
    assert_same(value_and_gradients("loop", (rows,)), value_and_gradients("dense"))


@pytest.mark.parametrize("tiles", [(16, 8, 8), None])
def test_megablox_kernel_equals_the_dense_reference(tiles):
    interpreted = functools.partial(experts.megablox, interpret=True)
    assert_same(value_and_gradients(interpreted, tiles), value_and_gradients("dense"))


def test_megablox_kernel_takes_narrow_experts_of_a_wide_model_transposed():
    """128 lanes of the model and 24 columns an expert: the kernel is given the weights' rows."""
    inputs = (
        draw(ROWS, 128, seed=6),
        draw(ROWS, seed=7),
        draw(EXPERTS, 128, 24, seed=8),
        draw(EXPERTS, 128, 24, seed=9),
        draw(EXPERTS, 24, 128, seed=10),
    )
    sizes = jnp.array(SIZES, jnp.int32)
    found = experts.megablox(*inputs, sizes, interpret=True)
    expected = experts.dense(*inputs, sizes)
    assert_same([found], [expected])


def test_tokamax_kernel_masks_the_rows_it_is_not_given(monkeypatch):
    """A stand-in for tokamax.ragged_dot that, like the real one, leaves the tail unwritten."""

    def ragged_dot(x_RK, w_EKN, group_sizes):
        owner_R = jnp.searchsorted(jnp.cumsum(group_sizes), jnp.arange(ROWS), side="right")
        owner_RE = jax.nn.one_hot(owner_R, EXPERTS)
        y_RN = jnp.einsum("RK,RE,EKN->RN", x_RK, owner_RE, w_EKN)
        return jnp.where((owner_R < EXPERTS)[:, None], y_RN, jnp.nan)

    monkeypatch.setitem(sys.modules, "tokamax", types.SimpleNamespace(ragged_dot=ragged_dot))
    assert_same(value_and_gradients("tokamax"), value_and_gradients("dense"))


def test_tokamax_kernel_without_tokamax_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokamax", None)
    with pytest.raises(ImportError, match="pip install tokamax"):
        experts.grouped_ffn(*ffn_inputs(), jnp.array(SIZES), kernel="tokamax")


def test_unknown_kernels_and_misplaced_tiles_are_named():
    with pytest.raises(ValueError, match="'fast'; known: loop, megablox, tokamax, dense"):
        experts.grouped_ffn(*ffn_inputs(), jnp.array(SIZES), kernel="fast")
    with pytest.raises(ValueError, match="'dense' takes no tiles"):
        experts.grouped_ffn(*ffn_inputs(), jnp.array(SIZES), kernel="dense", tiles=(8,))


@pytest.mark.parametrize("layer", [0, 1])
def test_routing_equals_the_stored_choice_and_weights(layer):
    logits = jnp.asarray(GOLDEN["nopad.router_logits"][layer])
    found = moe.route(logits, jnp.eye(logits.shape[1]), active=2)
    np.testing.assert_array_equal(found.ids_MA, GOLDEN["nopad.topk_index"][layer])
    np.testing.assert_allclose(found.weights_MA, GOLDEN["nopad.topk_weight"][layer], atol=1e-6)
    np.testing.assert_allclose(found.probs_ME.sum(-1), 1.0, atol=1e-6)


def test_router_computes_in_float32_and_gives_weights_in_the_dtype_of_x():
    found = moe.route(draw(6, MODEL).astype(jnp.bfloat16), draw(MODEL, EXPERTS), active=2)
    assert found.weights_MA.dtype == jnp.bfloat16
    assert found.probs_ME.dtype == jnp.float32
    # In bfloat16 the sum of 4 probabilities would be off by about 4e-3.
    np.testing.assert_allclose(found.probs_ME.sum(-1), 1.0, atol=1e-6)


def test_replayed_routing_keeps_the_ids_and_takes_weights_and_gradients_from_the_router():
    x, router, other = draw(6, MODEL), draw(MODEL, EXPERTS, seed=1), draw(MODEL, EXPERTS, seed=2)
    ids = moe.route(x, other, active=2).ids_MA
    assert (ids != moe.route(x, router, active=2).ids_MA).any()

    def weight(router, ids):
        return jnp.sum(moe.route(x, router, active=2, ids_MA=ids).weights_MA[:, 0])

    replayed = moe.route(x, router, active=2, ids_MA=ids)
    np.testing.assert_array_equal(replayed.ids_MA, ids)
    chosen = np.take_along_axis(np.asarray(jax.nn.softmax(x @ router)), np.asarray(ids), 1)
    np.testing.assert_allclose(
        replayed.weights_MA, chosen / chosen.sum(1, keepdims=True), rtol=1e-4
    )
    assert jnp.abs(jax.grad(weight)(router, ids)).max() > 1e-2
    with pytest.raises(ValueError, match=r"\(6, 3\) are not \(6, 2\)"):
        moe.route(x, router, active=2, ids_MA=jnp.zeros((6, 3), jnp.int32))


def test_more_active_experts_than_there_are_is_an_error():
    with pytest.raises(ValueError, match="active=5 experts per token, but the router has 4"):
        moe.route(draw(6, MODEL), draw(MODEL, EXPERTS), active=5)


def test_the_two_permutations_are_each_others_transpose():
    ids = jnp.asarray(np.random.default_rng(0).integers(0, EXPERTS + 1, (7, 2)))
    order = moe.sort_rows(ids, EXPERTS)
    to, back = order.rows_R // 2, order.places_MA
    x, y = draw(7, MODEL), draw(14, MODEL, seed=1)
    np.testing.assert_array_equal(moe.send_rows(x, to, back), x[to])
    plain = jax.linear_transpose(lambda x: x[to], x)(y)[0]
    np.testing.assert_allclose(moe.sum_rows(y, to, back), plain, rtol=1e-6)
    _, pull = jax.vjp(lambda x: moe.send_rows(x, to, back), x)
    np.testing.assert_allclose(pull(y)[0], plain, rtol=1e-6)
    _, pull = jax.vjp(lambda y: moe.sum_rows(y, to, back), y)
    np.testing.assert_array_equal(pull(x)[0], x[to])
    np.testing.assert_array_equal(jnp.sort(ids.reshape(-1)), ids.reshape(-1)[order.rows_R])
    assert order.sizes_E.tolist() == [int((ids == e).sum()) for e in range(EXPERTS)]


@jax.jit
def layer(x, params, **options):
    return transport.moe(x, params, active=2, transport="fsdp", kernel="loop", **options)


def params():
    _, _, gate, up, down = ffn_inputs()
    return {"router": draw(MODEL, EXPERTS, seed=9), "gate": gate, "up": up, "down": down}


def test_no_scatter_add_in_either_direction():
    text = str(
        jax.make_jaxpr(jax.grad(lambda x, p: layer(x, p)[0].sum(), (0, 1)))(
            draw(2, 3, MODEL), params()
        )
    )
    assert "while" in text  # the loop is there
    assert "scatter" not in text


def test_padding_is_not_routed_counted_or_computed():
    x, mask = draw(2, 5, MODEL), jnp.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)
    y, stats = layer(x, params(), mask_BT=mask)
    alone, few = layer(x[:1, :3], params())
    np.testing.assert_allclose(y[0, :3], alone[0], rtol=1e-5, atol=1e-5)
    assert not y[0, 3:].any()
    np.testing.assert_array_equal(stats.counts_BE[0], few.counts_BE[0])
    np.testing.assert_allclose(stats.probs_BE[0], few.probs_BE[0], rtol=1e-5)
    assert stats.tokens_B.tolist() == [3, 5]
    assert stats.counts_BE.sum(1).tolist() == [6, 10]
    assert stats.dropped_B.tolist() == [0, 0]


def test_a_layer_replays_the_ids_that_it_reported():
    x = draw(2, 5, MODEL)
    y, stats = layer(x, params())
    again, _ = layer(x, params(), ids_BTA=stats.ids_BTA)
    np.testing.assert_array_equal(y, again)
    other, _ = layer(x, params(), ids_BTA=(stats.ids_BTA + 1) % EXPERTS)
    assert jnp.abs(other - y).max() > 0.1


def test_probs_carry_gradient_and_counts_do_not():
    x = draw(2, 5, MODEL)
    gradient = jax.grad(lambda p, name: getattr(layer(x, p)[1], name)[0, 0])
    assert jnp.abs(gradient(params(), "probs_BE")["router"]).max() > 1e-3
    assert not gradient(params(), "counts_BE")["router"].any()
