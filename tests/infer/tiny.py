"""Shapes that all tests of generation share, so that they share compiled programs."""

from functools import partial

import jax
import numpy as np

from qwen3.model import transformer

LENGTH = 64
BUCKETS = (LENGTH,)
STEPS = {"cache_tokens": 2 * LENGTH, "buckets": (32, LENGTH)}  # four short answers or two long


def fresh(config, seed):
    return jax.jit(partial(transformer.init, config))(jax.random.key(seed))


def clean(engine):
    """Whether nothing of any request is left in an engine."""
    cache = engine.prefix_cache
    left = engine.active or engine.waiting or cache.entries or cache.waiting
    return not left and not np.asarray(engine.slot_table.slots.active).any()
