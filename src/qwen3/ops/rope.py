"""Rotary positions (RoFormer, arXiv 2104.09864), their larger base (ABF) and YaRN (2309.00071).

"Rotate half": channel i turns with channel i + H/2. Angles, cos and sin are fp32.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np


def inverse_frequencies(head_dim: int, theta: float) -> np.ndarray:
    """theta^(-2i/H) for i < H/2, fp64 [H/2]. ABF is this with another theta (report, 3.2)."""
    return theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)


def yarn_frequencies(
    head_dim: int,
    theta: float,
    *,
    factor: float,
    original_length: int,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
) -> tuple[np.ndarray, float]:
    """YaRN's frequencies, fp64 [H/2], and the factor on both cos and sin (so logits grow by its
    square). The shipped form: a ramp over the channel index between the channels that turn
    beta_fast and beta_slow times in original_length tokens, rounded outwards (RECIPE 5.1).
    """
    if factor < 1:
        raise ValueError(f"YaRN factor {factor} is below 1")

    def channel(turns: float) -> float:
        return head_dim * math.log(original_length / (2 * math.pi * turns)) / (2 * math.log(theta))

    low = max(math.floor(channel(beta_fast)), 0)
    high = min(math.ceil(channel(beta_slow)), head_dim - 1)
    index = np.arange(head_dim // 2, dtype=np.float64)
    ramp = np.clip((index - low) / max(high - low, 1e-3), 0, 1)
    plain = inverse_frequencies(head_dim, theta)
    return plain * (1 - ramp) + plain / factor * ramp, 0.1 * math.log(factor) + 1.0


def cos_sin(
    positions: jax.Array, frequencies: np.ndarray, scale: float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """cos and sin [..., H/2] in fp32, times `scale`, for integer positions [...]."""
    angles = positions[..., None].astype(jnp.float32) * jnp.asarray(frequencies, jnp.float32)
    return jnp.cos(angles) * scale, jnp.sin(angles) * scale


def rotate(x_BTNH: jax.Array, cos_BTh: jax.Array, sin_BTh: jax.Array) -> jax.Array:
    """Turn each head's channel pairs (i, i + H/2); h = H/2. Computed in fp32, x's dtype out."""
    a, b = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    cos, sin = cos_BTh[..., None, :], sin_BTh[..., None, :]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x_BTNH.dtype)
