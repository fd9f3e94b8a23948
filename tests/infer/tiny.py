"""Shapes that all tests of generation share, so that they share compiled programs."""

from functools import partial

import jax

from qwen3.model import transformer

LENGTH = 64
BUCKETS = (LENGTH,)
STEPS = {"cache_tokens": 2 * LENGTH, "buckets": (32, LENGTH)}  # four short answers or two long


def fresh(config, seed):
    return jax.jit(partial(transformer.init, config))(jax.random.key(seed))
