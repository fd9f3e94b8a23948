"""Shapes that all tests of generation share, so that they share compiled programs."""

from functools import partial

import jax
import numpy as np

from qwen3.infer.paged_caches import PagedCaches
from qwen3.model import transformer

LENGTH = 64
BUCKETS = (LENGTH,)
# Four short answers or two long ones.
STEPS = {"cache_tokens": 2 * LENGTH, "buckets": (32, LENGTH)}
# Pages for one long answer or three short ones.
PAGES = {"cache": "paged", "cache_tokens": LENGTH, "page_size": 8, "chunk": 32}


def fresh(config, seed):
    return jax.jit(partial(transformer.init, config))(jax.random.key(seed))


def clean(engine):
    """Whether nothing of any request is left in an engine."""
    caches = engine.caches
    if isinstance(caches, PagedCaches):
        left = any(pool.used or pool.owned for pool in caches.page_cache.pools)
    else:
        left = caches.prefix_cache.entries or caches.prefix_cache.waiting
        left = left or caches.slot_table.kept.slot_of
    left = left or engine.active or engine.waiting
    return not left and not np.asarray(caches.slot_table.slots.active).any()
