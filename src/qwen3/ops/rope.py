"""Rotary position embeddings (arXiv 2104.09864), their larger base (ABF) and YaRN (2309.00071).

The "rotate half" form: channel i is rotated with channel i + H/2. Angles, cos and sin are fp32.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np


def inverse_frequencies(head_dim: int, theta: float) -> np.ndarray:
    """theta^(-2i/H) for i < H/2 in radians a position, fp64 [H/2].

    ABF (adjusted base frequency) is this with another theta: 1e6 after 1e4 (report, section 3.2).
    """
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
    """(YaRN's frequencies, fp64 [H/2]; the attention factor on both cos and sin).

    Attention logits grow by the square of the attention factor. Channels that turn more than
    beta_fast times in original_length tokens keep their frequency, those that turn less than
    beta_slow times are slowed down `factor` times, and between them a ramp over the channel index
    blends the two, its ends rounded outwards as in the published code. Raises ValueError for a
    factor below 1.
    """
    if factor < 1:
        raise ValueError(f"YaRN factor {factor} is below 1")

    def channel(turns: float) -> float:
        """The (fractional) channel that turns this many times in original_length tokens."""
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
    """(cos, sin), each fp32 [..., H/2] and times `scale`, of integer positions [...]."""
    angles = positions[..., None].astype(jnp.float32) * jnp.asarray(frequencies, jnp.float32)
    return jnp.cos(angles) * scale, jnp.sin(angles) * scale


def rotate(x_BTNH: jax.Array, cos_BTh: jax.Array, sin_BTh: jax.Array) -> jax.Array:
    """Rotate each head's channel pairs (i, i + H/2), h = H/2; computed in fp32, x's dtype out."""
    a, b = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    cos, sin = cos_BTh[..., None, :], sin_BTh[..., None, :]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x_BTNH.dtype)
