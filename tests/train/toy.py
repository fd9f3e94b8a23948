"""A two-layer language model small enough to compile in a moment, its data, and its loss."""

import jax
import jax.numpy as jnp
import numpy as np

VOCAB, WIDTH, HIDDEN = 32, 16, 24


def init(seed=0):
    keys = jax.random.split(jax.random.key(seed), 4)
    return {
        "embed": 0.3 * jax.random.normal(keys[0], (VOCAB, WIDTH)),
        "mlp": {
            "up": 0.3 * jax.random.normal(keys[1], (WIDTH, HIDDEN)),
            "down": 0.3 * jax.random.normal(keys[2], (HIDDEN, WIDTH)),
        },
        "final_norm": jnp.ones((WIDTH,)),
        "head": 0.3 * jax.random.normal(keys[3], (VOCAB, WIDTH)),
    }


def loss(params, batch, frozen=()):
    """Next-token loss: (sum over weighted positions, sums)."""
    x = params["embed"][batch["tokens"]]
    x = x + jax.nn.silu(x @ params["mlp"]["up"]) @ params["mlp"]["down"]
    x = x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6) * params["final_norm"]
    logp = jax.nn.log_softmax(x @ params["head"].T)
    picked = jnp.take_along_axis(logp, batch["targets"][..., None], -1)[..., 0]
    weights = batch["weights"]
    right = (logp.argmax(-1) == batch["targets"]) * weights
    return -(picked * weights).sum(), {"weight": weights.sum(), "accuracy": right.sum()}


def batch(step, rows=16, length=8, seed=0):
    """A pure function of (seed, step): counting sequences, a fifth of the positions unweighted."""
    rng = np.random.default_rng((seed, step))
    first, stride = rng.integers(0, VOCAB, (rows, 1)), rng.integers(1, 4, (rows, 1))
    tokens = (first + stride * np.arange(length + 1)) % VOCAB
    return {
        "tokens": tokens[:, :-1].astype(np.int32),
        "targets": tokens[:, 1:].astype(np.int32),
        "weights": (rng.random((rows, length)) > 0.2).astype(np.float32),
    }


class Source:
    """source[step] -> batch."""

    def __init__(self, **options):
        self.options = options

    def __getitem__(self, step):
        return batch(step, **self.options)
