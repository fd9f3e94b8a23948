"""Old log-probabilities in microbatches are those of the whole batch, each at its own place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qwen3.model import transformer
from qwen3.model.execution import Execution
from qwen3.model.sizes import size
from qwen3.stages import builders

ROWS, LENGTH = 6, 16


def batch(model):
    rng = np.random.default_rng(0)
    tokens = jnp.asarray(rng.integers(0, model.vocab, (ROWS, LENGTH)), jnp.int32)
    return {
        "tokens": tokens,
        "targets": jnp.roll(tokens, -1, axis=1),
        "weights": jnp.asarray(rng.integers(0, 2, (ROWS, LENGTH)), jnp.float32),
        "positions": jnp.tile(jnp.arange(LENGTH, dtype=jnp.int32), (ROWS, 1)),
        "segment_ids": jnp.ones((ROWS, LENGTH), jnp.int32),
    }


def test_old_log_probs_in_microbatches_are_those_of_the_whole_batch():
    model, execution = size("tiny"), Execution()
    params, rows = transformer.init(model, jax.random.key(0)), batch(model)
    whole = builders.log_probs(model, execution)(params, rows)
    parts = builders.log_probs(model, execution, microbatches=3)(params, rows)
    assert whole.shape == (ROWS, LENGTH) and (np.asarray(whole)[rows["weights"] > 0] < 0).all()
    np.testing.assert_allclose(parts, whole, atol=1e-5)
    with pytest.raises(ValueError, match="6 rows of .* do not divide into 4 microbatches"):
        builders.log_probs(model, execution, microbatches=4)(params, rows)
