"""Products against matrices that are stored outputs first."""

import jax
import numpy as np
import pytest

from qwen3.ops import mlp
from qwen3.ops.linear import FEW_ROWS, linear


def random(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize("rows", [3, FEW_ROWS, FEW_ROWS + 1])
def test_outputs_first_gives_the_same_products(rows):
    x, w = random(rows, 1, 4, 6), random(4, 6, 5, 2)
    turned = np.moveaxis(w, (0, 1), (-2, -1))
    found = jax.jit(lambda x, w: linear(x, w, inputs=2, outputs_first=True))(x, turned)
    np.testing.assert_allclose(found, linear(x, w, inputs=2), rtol=1e-5, atol=1e-5)
    gate, up, down = random(6, 8), random(6, 8) + 1, random(8, 6)
    y = x[:, :, 0]
    found = mlp.swiglu(y, gate.T, up.T, down.T, outputs_first=True)
    np.testing.assert_allclose(found, mlp.swiglu(y, gate, up, down), rtol=1e-4, atol=1e-4)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="over the last 1 axes"):
        linear(random(3, 4), random(4, 5), outputs_first=True)
