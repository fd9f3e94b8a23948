"""The pinball loss and its gradient against float64 NumPy, and what it is least at."""

import jax
import jax.numpy as jnp
import numpy as np

from qwen3.losses.pinball import pinball

QUANTILES = np.array([0.1, 0.5, 0.9])


def reference(predicted, values, weights):
    d = values[:, None] - predicted
    loss = np.where(d >= 0, QUANTILES * d, (QUANTILES - 1) * d)
    slope = np.where(d > 0, -QUANTILES, 1 - QUANTILES)
    return (weights[:, None] * loss).sum(), weights[:, None] * slope


def test_value_and_gradient_match_float64():
    rng = np.random.default_rng(0)
    predicted, values = rng.normal(size=(50, 3)), rng.normal(size=50)
    weights = rng.integers(0, 3, 50).astype(float)
    want, slopes = reference(predicted, values, weights)
    arrays = [jnp.asarray(x, jnp.float32) for x in (predicted, values, QUANTILES, weights)]
    (total, weight), gradient = jax.value_and_grad(pinball, has_aux=True)(*arrays)
    np.testing.assert_allclose(total, want, rtol=1e-5)
    np.testing.assert_allclose(gradient, slopes, rtol=1e-5)
    assert weight == weights.sum()


def test_it_is_least_at_the_quantiles_of_the_values():
    values = np.random.default_rng(1).exponential(size=999)
    best = np.quantile(values, QUANTILES)
    ones = np.ones(len(values))

    def loss(shift):
        rows = np.broadcast_to(best + shift, (len(values), 3))
        return float(pinball(jnp.asarray(rows), *map(jnp.asarray, (values, QUANTILES, ones)))[0])

    for column in range(3):
        for step in (-0.05, 0.05):
            shift = np.zeros(3)
            shift[column] = step
            assert loss(shift) > loss(np.zeros(3))
