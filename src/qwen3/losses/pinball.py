"""The pinball loss of quantiles (Koenker and Bassett, 1978), for the automatic thinking budget."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def pinball(
    predicted_NQ: jax.Array, values_N: jax.Array, quantiles_Q: jax.Array, weights_N: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(sum over N and Q of w max(q d, (q - 1) d), sum of w), d = value - prediction, in fp32.

    The expected loss is least where a share q of the values lies at or below the prediction.
    """
    d_NQ = (values_N[:, None] - predicted_NQ).astype(jnp.float32)
    loss_NQ = jnp.maximum(quantiles_Q * d_NQ, (quantiles_Q - 1) * d_NQ)
    return (weights_N[:, None] * loss_NQ).sum(), weights_N.sum()
