"""RMSNorm (arXiv 1910.07467) as Qwen3 uses it: a plain weight, fp32 inside."""

import jax
import jax.numpy as jnp


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """x / sqrt(mean(x^2) + eps) over the last axis, in fp32, cast to x's dtype, times scale."""
    x32 = x.astype(jnp.float32)
    unit = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + eps)
    return unit.astype(x.dtype) * scale.astype(x.dtype)
