"""Which experts a domain's tokens choose, and how far domains differ (report, 3.3; arXiv
2501.11873)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np


def shares(apply: Callable, params: Any, batches: Mapping[str, dict]) -> dict[str, np.ndarray]:
    """{domain: [L, E], rows summing to 1}: how often each expert was selected.

    apply(params, tokens, positions, segment_ids) -> Output with a router. batches: domain -> batch.
    """

    @jax.jit
    def selections(
        params: Any, tokens: jax.Array, positions: jax.Array, segments: jax.Array
    ) -> jax.Array:
        return apply(params, tokens, positions, segments).router.counts_BE

    table = {}
    for domain, batch in batches.items():
        counts = selections(params, *(batch[k] for k in ("tokens", "positions", "segment_ids")))
        counts_LE = np.asarray(counts, np.float64).sum(1)
        table[domain] = counts_LE / counts_LE.sum(1, keepdims=True)
    return table


def specialisation(shares_LE: Mapping[str, np.ndarray]) -> float:
    """How far domains differ: 0 where all use all experts alike, 1 where none shares an expert.

    The total variation distance between two domains' shares, averaged over layers and pairs of
    domains. Raises ValueError for fewer than two domains.
    """
    if len(shares_LE) < 2:
        raise ValueError(f"domains {list(shares_LE)}: at least two are needed")
    tables = list(shares_LE.values())
    pairs = [(a, b) for i, a in enumerate(tables) for b in tables[i + 1 :]]
    return float(np.mean([np.abs(a - b).sum(1).mean() / 2 for a, b in pairs]))
