"""Products of int8 and float8 operands: near the float ones, and not them, in both passes."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("qwix")

from qwen3.model import transformer
from qwen3.model.execution import Execution
from qwen3.model.sizes import ModelConfig
from qwen3.ops.linear import linear
from qwen3.ops.quantised import QUANTISED

# Largest relative error of the whole product: about 1 / 127 and 2^-4 a factor, which average out.
NEAR = {"int8": 0.02, "float8": 0.06}
MODEL = ModelConfig("toy", 2, 32, 64, 2, 1, head_dim=16, vocab=64, tied=True, max_length=64)


def distance(one, other):
    one, other = (np.asarray(x, np.float32) for x in (one, other))
    return np.linalg.norm(one - other) / np.linalg.norm(other)


def matrices(outputs_first, inputs):
    keys = jax.random.split(jax.random.key(3), 3)
    ins, outs = ((6, 16) if inputs == 2 else (96,)), (4, 8)
    shape = (*outs, *ins) if outputs_first else (*ins, *outs)
    x, w = jax.random.normal(keys[0], (2, 5, *ins)), jax.random.normal(keys[1], shape)
    return x, w, jax.random.normal(keys[2], (2, 5, *outs))


CASES = [(*way, name) for way in product((False, True), (1, 2)) for name in QUANTISED]
QUICK = {(False, 1, "int8"), (True, 2, "float8")}


@pytest.mark.parametrize(
    "outputs_first, inputs, products",
    [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in CASES],
)
def test_values_and_gradients_are_near_the_float_ones(outputs_first, inputs, products):
    x, w, slope = matrices(outputs_first, inputs)

    def both(products):
        options = {"inputs": inputs, "outputs_first": outputs_first, "products": products}
        value, back = jax.vjp(lambda x, w: linear(x, w, **options), x, w)
        return value, *back(slope)

    for got, want in zip(both(products), both("float"), strict=True):
        assert got.shape == want.shape and got.dtype == want.dtype
        assert 1e-4 < distance(got, want) < NEAR[products]


def test_int8_products_are_the_rounded_ones():
    """One row times one column, by hand, at scales of 2 / 127.5 and 4 / 127.5."""
    x, w = jnp.array([[2.0, -1.0, 0.5]]), jnp.array([[4.0], [1.0], [-3.0]])
    sum_of_ints = 127 * 127 - 64 * 32 - 32 * 96
    want = sum_of_ints * 2 / 127.5 * 4 / 127.5
    np.testing.assert_allclose(linear(x, w, products="int8"), [[want]], rtol=1e-6)
    assert abs(want - 5.5) > 0.05  # 2 * 4 - 1 - 1.5


@pytest.mark.parametrize("products", ["int8", pytest.param("float8", marks=pytest.mark.slow)])
def test_a_models_gradients_point_where_the_float_ones_do(products):
    params = transformer.init(MODEL, jax.random.key(0))
    tokens = jax.random.randint(jax.random.key(1), (2, 32), 0, 64)

    def gradient(products):
        run = Execution(products=products, remat="full")

        def loss(params):
            logits = transformer.logits(transformer.forward(params, MODEL, tokens, execution=run))
            logp = jax.nn.log_softmax(logits[:, :-1])
            return -jnp.mean(jnp.take_along_axis(logp, tokens[:, 1:, None], axis=-1))

        return jax.jit(jax.value_and_grad(loss))(params)

    (value, slopes), (float_value, float_slopes) = gradient(products), gradient("float")
    assert 0 < abs(value - float_value) < 0.01
    for one, other in zip(jax.tree.leaves(slopes), jax.tree.leaves(float_slopes), strict=True):
        cosine = np.vdot(one, other) / np.linalg.norm(one) / np.linalg.norm(other)
        assert cosine > 0.95


def test_unknown_products_are_refused_with_the_choices():
    with pytest.raises(ValueError, match="unknown products 'int4'; there are float, int8, float8"):
        Execution(products="int4")
